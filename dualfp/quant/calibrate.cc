#include "dualfp/quant/calibrate.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/kernels/quantize.h"
#include "dualfp/model/decoder.h"
#include "dualfp/model/fill_linear.h"

namespace dualfp {
namespace {

float MaxMagnitude(const ConstTensorView& x) {
  float amax = 0.0f;
  for (int64_t row = 0; row < x.shape[0]; ++row) {
    const float* values = x.Rows(row, row + 1).as<float>();
    for (int64_t i = 0; i < x.shape[1]; ++i) {
      amax = std::max(amax, std::fabs(values[i]));
    }
  }
  return amax;
}

}  // namespace

void CalibrateInputScales(const Context& context, Model& model, std::span<const int32_t> tokens,
                          int64_t context_length) {
  Check(!tokens.empty(), ErrorCode::kInvalidArgument, "calibration without tokens");
  std::map<const Linear*, float> largest;
  // lm_head runs only where it could use a scale.
  const bool head = model.HeadComputesAt(Precision::kFp8);
  DecoderOptions options;
  options.limits.max_tokens = std::min<int64_t>(128, context_length);
  options.limits.max_logit_rows = head ? options.limits.max_tokens : 0;
  options.limits.max_context = context_length;
  options.observe_input = [&largest](const Linear& linear, const ConstTensorView& x) {
    float& amax = largest[&linear];
    amax = std::max(amax, MaxMagnitude(x));
  };
  Decoder decoder(model, options);
  const PrecisionPlan plan =
      PrecisionPlan::Uniform(model.config.num_hidden_layers, Precision::kExact);
  KvCache cache(model.KvCacheFor(DType::kF32, KvBlocksFor(context_length)));
  std::vector<int32_t> blocks(KvBlocksFor(context_length));
  std::iota(blocks.begin(), blocks.end(), 0);
  StepBatch batch = decoder.NewBatch();
  std::vector<float> logits(options.limits.max_logit_rows * model.config.vocab_size);
  for (size_t piece = 0; piece < tokens.size(); piece += context_length) {
    const auto part =
        tokens.subspan(piece, std::min<size_t>(context_length, tokens.size() - piece));
    const auto length = static_cast<int64_t>(part.size());
    for (int64_t begin = 0; begin < length; begin += options.limits.max_tokens) {
      const int64_t rows = std::min(options.limits.max_tokens, length - begin);
      batch.Clear();
      batch.AddSequence(part.subspan(begin, rows), begin, blocks, length);
      batch.SetPlan(&plan);
      if (head) {
        batch.AddAllLogitRows();
      }
      decoder.Forward(
          context, batch, cache,
          {logits.data(), DType::kF32, {batch.num_logit_rows(), model.config.vocab_size}});
    }
  }
  const auto set = [&largest](Linear& linear) {
    SetInputScale(linear, ActivationScale(largest.at(&linear)));
  };
  for (LayerWeights& layer : model.layers) {
    for (Linear* linear : layer.linears()) {
      set(*linear);
    }
  }
  if (head) {
    set(model.lm_head);
  }
}

}  // namespace dualfp
