// From one checkpoint to another: the work of every scheme as a list of tasks, and what runs it.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/io/json.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/quant/conversion/partial_checkpoint.h"

namespace dualfp {

// The work that one source tensor makes. A worker holds that tensor and what it becomes.
struct ConversionTask {
  std::vector<TensorSpec> outputs;
  int64_t bytes = 0;  // of the source: for progress
  // Writes all of the outputs; called by one thread, while others run other tasks.
  std::function<void(PartialCheckpoint& out)> run;
};

// A layer that was meant to be converted and stays as it is, and why.
struct KeptLayer {
  std::string module;
  std::string reason;
};

struct ConversionReport {
  int64_t converted = 0;   // matrices
  int64_t remainders = 0;  // of nested ones: outliers, or remainders of nested12
  int64_t rounded = 0;     // weights that nested ones, FP16, do not hold exactly
  std::vector<KeptLayer> kept;
  int64_t bytes_in = 0;  // of all tensors
  int64_t bytes_out = 0;
  int64_t tasks_resumed = 0;  // done by an earlier run that was interrupted
};

struct Conversion {
  Json config;           // of the new config.json
  Json hf_quant_config;  // of a file of that name; null: none
  std::vector<ConversionTask> tasks;
  ConversionReport report;
  // What the bytes depend on beside the source: options. An interrupted run is gone on with only
  // where they are the same.
  std::string identity;
};

// Bytes of the source done and in total; called by several threads, one at a time.
using ConversionProgress = std::function<void(int64_t done, int64_t total)>;

// DIRECTORY/config.json, an object, with hf_quant_config.json as its quantization_config where it
// has none. Throws kInvalidFile for anything else.
Json ReadConfigJson(const std::filesystem::path& directory);

// Throws kUnsupported for a checkpoint that is quantized already, by its config or its dtypes.
void CheckNotQuantized(const Checkpoint& checkpoint, const Json& config);

// The tensor as it is.
ConversionTask CopyTask(const Checkpoint& checkpoint, const TensorEntry& entry);

// Writes `out` from `in`, whose checkpoint the tasks read: tensors, config.json, and copies of the
// other files of `in` (tokenizer, generation config, chat template, model card) but for weights in
// other formats. `out` is absent until all of it is there; a run that was killed, or that failed
// for lack of space, is gone on with by the next one, and after another error nothing is left.
// Throws kInvalidArgument where `out` exists and is not an empty directory or is `in`, and what
// tasks throw.
ConversionReport RunConversion(const std::filesystem::path& in, const std::filesystem::path& out,
                               Conversion conversion, const Checkpoint& checkpoint,
                               ThreadPool& threads, const ConversionProgress& progress = {},
                               uint64_t max_shard_bytes = kDefaultMaxShardBytes);

}  // namespace dualfp
