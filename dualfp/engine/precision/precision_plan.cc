#include "dualfp/engine/precision/precision_plan.h"

#include <algorithm>

#include "dualfp/base/check.h"

namespace dualfp {

PrecisionClass ClassOf(const PrecisionPlan& plan) {
  const auto& layers = plan.layers;
  if (layers.empty() ||
      std::any_of(layers.begin(), layers.end(), [&](Precision p) { return p != layers[0]; })) {
    return PrecisionClass::kMixed;
  }
  switch (layers[0]) {
    case Precision::kExact:
      return PrecisionClass::kExact;
    case Precision::kFp8:
      return PrecisionClass::kFp8;
    case Precision::kFp4:
      return PrecisionClass::kFp4;
  }
  return PrecisionClass::kMixed;
}

int CountLayers(const PrecisionPlan& plan, Precision precision) {
  return static_cast<int>(std::count(plan.layers.begin(), plan.layers.end(), precision));
}

double Fp8Fraction(const PrecisionPlan& plan) {
  return plan.layers.empty()
             ? 0.0
             : CountLayers(plan, Precision::kFp8) / static_cast<double>(plan.layers.size());
}

void SetAll(PrecisionPlan* plan, Precision precision) {
  std::fill(plan->layers.begin(), plan->layers.end(), precision);
  plan->lm_head = precision;
}

void LetHeadFollow(PrecisionPlan* plan) {
  plan->lm_head = ClassOf(*plan) == PrecisionClass::kMixed ? Precision::kExact : plan->layers[0];
}

uint64_t TagOf(const PrecisionPlan& plan) {
  // FNV-1a over the layers, then a finaliser: FNV's upper bits are weak for short inputs.
  uint64_t hash = 0xcbf29ce484222325;
  for (const Precision precision : plan.layers) {
    hash = (hash ^ static_cast<uint64_t>(precision)) * 0x100000001b3;
  }
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111eb;
  hash ^= hash >> 31;
  return hash == 0 ? 1 : hash;
}

std::string Describe(const PrecisionPlan& plan) {
  const PrecisionClass precision_class = ClassOf(plan);
  if (precision_class != PrecisionClass::kMixed) {
    return std::string(PrecisionClassName(precision_class));
  }
  std::string text;
  for (const Precision precision : {Precision::kFp8, Precision::kFp4}) {
    if (const int count = CountLayers(plan, precision); count > 0) {
      text += StrCat(text.empty() ? "" : ", ", PrecisionName(precision), " in ", count, " of ",
                     plan.layers.size(), " layers");
    }
  }
  return text;
}

}  // namespace dualfp
