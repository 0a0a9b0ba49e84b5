// A model directory's weights and what belongs to them, by options whose values are the names that
// command lines and bindings use.

#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/io/hf_config.h"
#include "dualfp/model/model.h"
#include "dualfp/tensor/dtype.h"
#include "dualfp/text/tokenizer.h"

namespace dualfp {

struct ModelOptions {
  // A directory with config.json and safetensors weights; commands find those of Hub ids.
  std::string model;
  std::string quantization = "auto";  // WeightSchemeNames()'s
  // Layers that stay as they are, and "PATTERN=SCHEME" for those that are held otherwise: patterns
  // of module names in the checkpoint (LoadOptions::Rule).
  std::vector<std::string> quantization_ignore;
  std::vector<std::string> quantization_layers;
  std::string load_format = "auto";  // "dummy": random weights for any config.json
  bool quantize_lm_head = false;
  int threads = 0;  // of the CPU; 0: one per core
};

using LoadProgress = std::function<void(int64_t done, int64_t total)>;  // bytes

// `config` is the directory's. Throws kInvalidArgument for a name that is not one, and as
// LoadModel() of model/weights.h.
Model LoadModel(const ModelOptions& options, const ModelConfig& config, ThreadPool& threads,
                LoadProgress progress = {});

// A tokenizer may have more ids than the model or fewer (models pad their tables). Tokens below the
// result are in both: no others can be drawn. Warns where a prompt could have ids that the model
// has not.
int64_t DrawableTokens(const Tokenizer& tokenizer, const ModelConfig& config);

// Throws kInvalidArgument, naming `what` and the token, for one that the model does not have.
void CheckTokens(std::span<const int32_t> tokens, const ModelConfig& config, std::string_view what);

// The ids that end an answer: config.json's, then those that only generation_config.json has, then
// the tokenizer's own end token, which chat fine-tunes often change alone.
std::vector<int32_t> EndTokenIds(const ModelConfig& config, const GenerationConfig& generation,
                                 std::optional<int32_t> tokenizer_end);

// ParseKvCacheDType()'s names and "auto": FP8 where the checkpoint says so, else F32 on the CPU.
// Throws kInvalidArgument.
DType KvCacheDType(const std::string& name, const ModelConfig& config);

// "512 B", "2.21 GB": powers of ten, three digits.
std::string HumanBytes(int64_t bytes);

// "Loaded MODEL: 2.21 GB in 1.4 s (1.6 GB/s), 112 of 112 linear layers nested", or "fp8".
std::string DescribeLoad(const ModelOptions& options, const Model& model);

// What a reader should know about a loaded model: why some of the layers compute in FP16 only
// although nesting was asked for, and how many weights their format does not hold exactly.
std::vector<std::string> LoadWarnings(const Model& model);

// Throws kUnsupported, with the reason, unless some linear layer of the model computes at FP8.
void CheckComputesAtFp8(const Model& model);

}  // namespace dualfp
