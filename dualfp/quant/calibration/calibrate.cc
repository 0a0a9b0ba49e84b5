#include "dualfp/quant/calibration/calibrate.h"

#include <algorithm>
#include <numeric>

#include "dualfp/base/check.h"
#include "dualfp/model/decoder.h"
#include "dualfp/model/fill_linear.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxStepTokens = 128;

// The first `tokens` places of a sequence whose blocks are 0, 1, ...
void AddKeys(const TensorView& keys, bool transposed, int64_t tokens, MagnitudeHistogram* out) {
  const int64_t kv_heads = keys.shape[1];
  const int64_t head_dim = keys.shape[transposed ? 2 : 3];
  std::vector<float> row(head_dim);
  for (int64_t token = 0; token < tokens; ++token) {
    const int64_t place = token % kKvBlockSize;
    for (int64_t head = 0; head < kv_heads; ++head) {
      const float* block =
          keys.as<float>() + (token / kKvBlockSize * kv_heads + head) * kKvBlockSize * head_dim;
      for (int64_t i = 0; i < head_dim; ++i) {
        row[i] = transposed ? block[i * kKvBlockSize + place] : block[place * head_dim + i];
      }
      out->Add(row.data(), head_dim);
    }
  }
}

}  // namespace

LayerMagnitudes ObserveMagnitudes(const Context& context, const Model& model,
                                  std::span<const std::vector<int32_t>> samples,
                                  const ObserveOptions& options) {
  const bool any = std::any_of(samples.begin(), samples.end(),
                               [](const std::vector<int32_t>& sample) { return !sample.empty(); });
  Check(any, ErrorCode::kInvalidArgument, "calibration without tokens");
  LayerMagnitudes seen;
  const int64_t layers = model.config.num_hidden_layers;
  if (options.kv) {
    seen.keys.resize(layers);
    seen.values.resize(layers);
  }
  DecoderOptions decoder_options;
  decoder_options.limits.max_tokens = std::min(kMaxStepTokens, options.context_length);
  decoder_options.limits.max_logit_rows = options.lm_head ? decoder_options.limits.max_tokens : 0;
  decoder_options.limits.max_context = options.context_length;
  decoder_options.observe_input = [&seen](const Linear& linear, const ConstTensorView& x) {
    MagnitudeHistogram& histogram = seen.inputs[&linear];
    for (int64_t row = 0; row < x.shape[0]; ++row) {
      histogram.Add(x.Rows(row, row + 1).as<float>(), x.shape[1]);
    }
  };
  Decoder decoder(model, decoder_options);
  const PrecisionPlan plan = PrecisionPlan::Uniform(layers, Precision::kExact);
  KvCache cache(model.KvCacheFor(DType::kF32, KvBlocksFor(options.context_length)));
  const bool transposed = KvLayoutOf(DeviceType::kCpu).transposed_keys;
  std::vector<int32_t> blocks(KvBlocksFor(options.context_length));
  std::iota(blocks.begin(), blocks.end(), 0);
  StepBatch batch = decoder.NewBatch();
  std::vector<float> logits(decoder_options.limits.max_logit_rows * model.config.vocab_size);
  int64_t done = 0;
  for (const std::vector<int32_t>& sample : samples) {
    const auto length = std::min(static_cast<int64_t>(sample.size()), options.context_length);
    for (int64_t begin = 0; begin < length; begin += decoder_options.limits.max_tokens) {
      const int64_t rows = std::min(decoder_options.limits.max_tokens, length - begin);
      batch.Clear();
      batch.AddSequence(std::span(sample).subspan(begin, rows), begin, blocks, length);
      batch.SetPlan(&plan);
      if (options.lm_head) {
        batch.AddAllLogitRows();
      }
      decoder.Forward(
          context, batch, cache,
          {logits.data(), DType::kF32, {batch.num_logit_rows(), model.config.vocab_size}});
    }
    if (options.kv) {
      for (int64_t layer = 0; layer < layers; ++layer) {
        AddKeys(cache.layer(layer).key, transposed, length, &seen.keys[layer]);
        AddKeys(cache.layer(layer).value, false, length, &seen.values[layer]);
      }
    }
    ++done;
    if (options.progress) {
      options.progress(done);
    }
  }
  return seen;
}

void CalibrateInputScales(const Context& context, Model& model, std::span<const int32_t> tokens,
                          int64_t context_length) {
  std::vector<std::vector<int32_t>> pieces;
  for (size_t begin = 0; begin < tokens.size(); begin += context_length) {
    const auto piece =
        tokens.subspan(begin, std::min<size_t>(context_length, tokens.size() - begin));
    pieces.emplace_back(piece.begin(), piece.end());
  }
  // lm_head runs only where it could use a scale.
  const bool head = model.HeadComputesAt(Precision::kFp8);
  const LayerMagnitudes seen = ObserveMagnitudes(
      context, model, pieces, {.context_length = context_length, .lm_head = head});
  const auto set = [&seen](Linear& linear) {
    SetInputScale(linear, seen.inputs.at(&linear).Scale(ScaleObserver::kAmax, 1.0));
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
