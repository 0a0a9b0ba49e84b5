#include "dualfp/quant/calibration/calibrate_checkpoint.h"

#include <algorithm>
#include <string_view>

#include "dualfp/base/check.h"
#include "dualfp/kernels/context.h"
#include "dualfp/model/rope_frequencies.h"
#include "dualfp/model/weights.h"
#include "dualfp/quant/calibration/calibrate.h"

namespace dualfp {
namespace {

// "model.layers.0.self_attn" of "model.layers.0.self_attn.o_proj".
std::string AttentionOf(const LayerWeights& layer) {
  const std::string& tensor = layer.o.parts.at(0).tensor;
  return tensor.substr(0, tensor.rfind('.'));
}

}  // namespace

CalibrationResult CalibrateCheckpoint(const std::filesystem::path& directory,
                                      const CalibrationOptions& options, ThreadPool& threads,
                                      const std::function<void(int64_t, int64_t)>& progress) {
  const std::vector<std::vector<int32_t>> samples =
      ReadCalibrationSamples(options.file, directory, options.limits);
  const Model model = LoadModel(directory, {}, threads);
  CalibrationResult result;
  ObserveOptions observe{.context_length = options.limits.max_tokens, .kv = options.kv};
  observe.context_length = std::min(observe.context_length, MaxContextLength(model.config));
  for (const std::vector<int32_t>& sample : samples) {
    for (const int32_t token : sample) {
      Check(token >= 0 && token < model.config.vocab_size, ErrorCode::kInvalidArgument,
            options.file.string(), ": token ", token, " is not in the model's vocabulary of ",
            model.config.vocab_size);
    }
    ++result.samples;
    result.tokens += std::min(static_cast<int64_t>(sample.size()), observe.context_length);
  }
  const auto count = static_cast<int64_t>(samples.size());
  if (progress) {
    observe.progress = [&](int64_t done) { progress(done, count); };
  }
  const Context context{.threads = &threads};
  const LayerMagnitudes seen = ObserveMagnitudes(context, model, samples, observe);
  const auto add = [&](const std::string& name, const MagnitudeHistogram& histogram) {
    const float scale = histogram.Scale(options.observer, options.percentile);
    result.layers.push_back({name, scale, histogram.amax(), histogram.ClippedShare(scale)});
    return scale;
  };
  for (size_t i = 0; i < model.layers.size(); ++i) {
    const LayerWeights& layer = model.layers[i];
    if (options.inputs) {
      for (const Linear* linear : layer.linears()) {
        const float scale = add(linear->name, seen.inputs.at(linear));
        for (const LinearPart& part : linear->parts) {
          result.scales.inputs[part.tensor] = scale;
        }
      }
    }
    if (options.kv) {
      const std::string attention = AttentionOf(layer);
      result.scales.keys[attention] = add(attention + ".k", seen.keys[i]);
      result.scales.values[attention] = add(attention + ".v", seen.values[i]);
    }
  }
  return result;
}

}  // namespace dualfp
