// New weights in place, through the filler that loaded the old ones.

#include "dualfp/base/check.h"
#include "dualfp/model/fill_linear.h"
#include "dualfp/model/model.h"

namespace dualfp {
namespace {

// A tensor that the caller holds in memory.
class MemoryRows : public TensorRows {
 public:
  explicit MemoryRows(const ConstTensorView& view)
      : TensorRows(view.dtype, view.shape[1]), view_(view) {}

  const void* Row(int64_t index, void*) const override {
    return static_cast<const char*>(view_.data) + index * view_.strides[0] * DTypeSize(dtype_);
  }

 private:
  ConstTensorView view_;
};

}  // namespace

void Model::Refill(const std::string& tensor, const ConstTensorView& values, ThreadPool& threads) {
  bool found = false;
  const auto refill = [&](Linear& linear) {
    bool touched = false;
    for (const LinearPart& part : linear.parts) {
      const bool is_table = &linear == &embedding && config.tie_word_embeddings &&
                            (tensor == "lm_head.weight" || tensor == "model.embed_tokens.weight");
      if (part.tensor + ".weight" != tensor && !is_table) {
        continue;
      }
      touched = true;
      Check(values.rank == 2 && values.shape[0] == part.tensor_rows &&
                values.shape[1] == part.tensor_columns && values.strides[1] == 1,
            ErrorCode::kInvalidArgument, "refill of ", tensor, ": got ", Describe(values),
            ", expected [", part.tensor_rows, ", ", part.tensor_columns, "]");
      // Plain values keep their dtype; F32 takes all.
      const bool plain = linear.weight.format == QuantFormat::kPlain;
      const bool any = !plain || linear.weight.values.dtype == DType::kF32;
      Check(any ? values.dtype == DType::kF32 || values.dtype == DType::kF16 ||
                      values.dtype == DType::kBF16
                : values.dtype == linear.weight.values.dtype,
            ErrorCode::kInvalidArgument, "refill of ", tensor, ": got ", DTypeName(values.dtype),
            ", expected ", any ? "F32, F16 or BF16" : DTypeName(linear.weight.values.dtype));
      RemoveOutliers(linear, part);
      FillPart(linear, part, MemoryRows(values), linear.weight.n * linear.weight.k,
               ErrorCode::kInvalidArgument, threads);
    }
    if (touched) {
      FinishOutliers(linear);
      found = true;
    }
  };
  refill(embedding);
  for (LayerWeights& layer : layers) {
    for (Linear* linear : layer.linears()) {
      refill(*linear);
    }
  }
  refill(lm_head);
  if (config.tie_word_embeddings) {
    lm_head.weight = embedding.weight;
  }
  Check(found, ErrorCode::kNotFound, "refill: no linear weight came from a tensor ", tensor);
}

}  // namespace dualfp
