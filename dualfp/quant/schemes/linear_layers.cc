#include "dualfp/quant/schemes/linear_layers.h"

#include <algorithm>
#include <array>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr std::string_view kWeightSuffix = ".weight";

// The last parts of embedding tables' names.
constexpr std::array<std::string_view, 8> kTables = {
    "embed_tokens", "embeddings", "embedding", "word_embeddings",
    "wte",          "wpe",        "shared",    "tok_embeddings"};
// Of modules that stay: heads, routers of experts, gates of shared experts.
constexpr std::array<std::string_view, 6> kKept = {
    "lm_head", "gate", "router", "shared_expert_gate", "score", "classifier"};

std::string_view LastPart(std::string_view name) {
  const size_t dot = name.rfind('.');
  return dot == std::string_view::npos ? name : name.substr(dot + 1);
}

template <size_t kCount>
bool Contains(const std::array<std::string_view, kCount>& names, std::string_view name) {
  return std::find(names.begin(), names.end(), name) != names.end();
}

bool IsFloat(const TensorEntry& entry) {
  return entry.foreign_dtype.empty() &&
         (entry.dtype == DType::kF32 || entry.dtype == DType::kF16 || entry.dtype == DType::kBF16);
}

}  // namespace

std::string LinearTensor::Sibling(std::string_view weight_suffix) const {
  CheckInternal(weight_suffix.starts_with("weight"), "a sibling named ", weight_suffix);
  return fused_experts ? StrCat(module, weight_suffix.substr(std::string_view("weight").size()))
                       : StrCat(module, ".", weight_suffix);
}

std::optional<LinearTensor> AsLinear(const TensorEntry& entry) {
  const std::vector<int64_t>& shape = entry.shape;
  if (!IsFloat(entry) || std::find(shape.begin(), shape.end(), 0) != shape.end()) {
    return std::nullopt;
  }
  const std::string_view name = entry.name;
  if (shape.size() == 2 && name.ends_with(kWeightSuffix)) {
    const std::string_view module = name.substr(0, name.size() - kWeightSuffix.size());
    if (Contains(kTables, LastPart(module))) {
      return std::nullopt;
    }
    return LinearTensor{std::string(module), 1, shape[0], shape[1], false};
  }
  if (shape.size() == 3 &&
      (name.ends_with(".experts.gate_up_proj") || name.ends_with(".experts.down_proj"))) {
    return LinearTensor{entry.name, shape[0], shape[1], shape[2], true};
  }
  return std::nullopt;
}

bool KeptByDefault(std::string_view module) { return Contains(kKept, LastPart(module)); }

}  // namespace dualfp
