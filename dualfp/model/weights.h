// Loading a model: checkpoint tensors become Weights of the chosen format while they stream by.
//
// Memory peaks at the finished model plus one source tensor: tensors are read one at a time through
// the mapping and their pages given back.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/model/model.h"
#include "dualfp/model/weight_source.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {

// Linear layers with a larger share of weights beyond +-1.75 stay plain: the sparse list would cost
// more than 12 bytes for every thousand weights, and its look-ups time.
inline constexpr double kDefaultMaxOutlierShare = 0.001;

// And of 12-bit planes with a larger share of remainders (formats.md, Nested12).
inline constexpr double kMaxRemainderShare = 0.01;

struct LoadOptions {
  // How linear layers are held; nothing: what is quantized as it is stored, with what it leaves
  // plain; of other checkpoints BF16 weights as nested12, others as nested. lm_head and a table
  // tied to it are held as nested12 where that is exact (of BF16, with this scheme or none) and
  // plain elsewhere; they compute exactly.
  std::optional<WeightScheme> scheme;

  // Layers that are held otherwise, by the names of their modules in the checkpoint
  // ("model.layers.0.mlp.up_proj"); the first rule that matches counts. A pattern is a name, a
  // wildcard pattern or re:REGEX (io/name_pattern.h); plain leaves a layer as it is.
  struct Rule {
    std::string pattern;
    WeightScheme scheme;
  };
  std::vector<Rule> rules;

  double max_outlier_share = kDefaultMaxOutlierShare;
  // lm_head and a tied table are held as the layers are and compute at their precisions, FP8
  // included; kUnsupported for FP8 alone where they are one tensor.
  bool nest_lm_head = false;
  ModelShard shard;
  // Bytes of the checkpoint done and in total; called from the loading thread. Dummy weights count
  // as if they came from an FP16 checkpoint.
  std::function<void(int64_t done, int64_t total)> progress;
};

// Throws dualfp::Error as WeightSource does, and kInvalidFile for a NaN or infinity, naming the
// tensor and the place.
Model LoadModel(const ModelConfig& config, WeightSource& source, const LoadOptions& options,
                ThreadPool& threads);

// DIRECTORY/config.json and its checkpoint.
Model LoadModel(const std::filesystem::path& directory, const LoadOptions& options,
                ThreadPool& threads);

}  // namespace dualfp
