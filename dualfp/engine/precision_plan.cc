#include "dualfp/engine/precision_plan.h"

#include <algorithm>

#include "dualfp/base/check.h"

namespace dualfp {

void PrecisionPlan::SetAll(Precision precision) {
  std::fill(layers_.begin(), layers_.end(), precision);
}

int PrecisionPlan::Count(Precision precision) const {
  return static_cast<int>(std::count(layers_.begin(), layers_.end(), precision));
}

PrecisionClass PrecisionPlan::Class() const {
  if (layers_.empty() || Count(layers_[0]) < num_layers()) {
    return PrecisionClass::kMixed;
  }
  switch (layers_[0]) {
    case Precision::kFp16:
      return PrecisionClass::kFp16;
    case Precision::kFp8:
      return PrecisionClass::kFp8;
    case Precision::kFp4:
      return PrecisionClass::kFp4;
  }
  return PrecisionClass::kMixed;
}

uint64_t PrecisionPlan::Tag() const {
  // FNV-1a over the layers, then a finaliser: FNV's upper bits are weak for short inputs.
  uint64_t hash = 0xcbf29ce484222325;
  for (const Precision precision : layers_) {
    hash = (hash ^ static_cast<uint64_t>(precision)) * 0x100000001b3;
  }
  hash = (hash ^ (hash >> 30)) * 0xbf58476d1ce4e5b9;
  hash = (hash ^ (hash >> 27)) * 0x94d049bb133111eb;
  hash ^= hash >> 31;
  return hash == 0 ? 1 : hash;
}

std::string Describe(const PrecisionPlan& plan) {
  const PrecisionClass precision_class = plan.Class();
  if (precision_class != PrecisionClass::kMixed) {
    return std::string(PrecisionClassName(precision_class));
  }
  std::string text;
  for (const Precision precision : {Precision::kFp16, Precision::kFp8, Precision::kFp4}) {
    if (const int count = plan.Count(precision); count > 0 && precision != Precision::kFp16) {
      text += StrCat(text.empty() ? "" : ", ", PrecisionName(precision), " in ", count, " of ",
                     plan.num_layers(), " layers");
    }
  }
  return text;
}

}  // namespace dualfp
