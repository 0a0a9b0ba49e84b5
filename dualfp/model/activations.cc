#include "dualfp/model/activations.h"

#include <initializer_list>
#include <utility>

namespace dualfp {
namespace {

constexpr int64_t kAlignment = 256;

}  // namespace

Activations::Activations(const Model& model, int64_t max_rows, int64_t max_logit_rows,
                         int64_t workspace_bytes) {
  const ModelConfig& config = model.config;
  const int64_t dim = config.head_dim;
  int64_t used = 0;
  // Offsets first; addresses once the size is known.
  const auto plan = [&used](DType dtype, std::initializer_list<int64_t> shape) {
    TensorView view(nullptr, dtype, shape);
    const int64_t offset = used;
    used += (view.num_bytes() + kAlignment - 1) / kAlignment * kAlignment;
    return std::pair(view, offset);
  };
  const std::pair<TensorView*, std::pair<TensorView, int64_t>> tensors[] = {
      {&largest_.cos_sin, plan(DType::kF32, {max_rows, config.rope.rotary_dim})},
      {&largest_.hidden, plan(kActivationDType, {max_rows, config.hidden_size})},
      {&largest_.normed, plan(kActivationDType, {max_rows, config.hidden_size})},
      {&largest_.qkv,
       plan(kActivationDType, {max_rows, (model.heads() + 2 * model.kv_heads()) * dim})},
      {&largest_.attention, plan(kActivationDType, {max_rows, model.heads() * dim})},
      {&largest_.mlp, plan(kActivationDType, {max_rows, model.intermediate()})},
      {&largest_.last_hidden, plan(kActivationDType, {max_logit_rows, config.hidden_size})},
      {&largest_.workspace, plan(DType::kU8, {workspace_bytes})}};
  memory_ = Buffer::AllocateCpu(used);
  for (const auto& [tensor, planned] : tensors) {
    *tensor = planned.first;
    tensor->data = static_cast<char*>(memory_.data()) + planned.second;
  }
}

ActivationTensors Activations::First(int64_t rows, int64_t logit_rows) const {
  ActivationTensors step = largest_;
  for (TensorView* tensor :
       {&step.cos_sin, &step.hidden, &step.normed, &step.qkv, &step.attention, &step.mlp}) {
    *tensor = tensor->Rows(0, rows);
  }
  step.last_hidden = step.last_hidden.Rows(0, logit_rows);
  return step;
}

}  // namespace dualfp
