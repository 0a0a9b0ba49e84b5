// `dualfp quantize` as a function: from options by name to a checkpoint on the disk.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/quant/calibration/calibrate_checkpoint.h"
#include "dualfp/quant/conversion/conversion.h"
#include "dualfp/quant/conversion/quantize_plan.h"

namespace dualfp {

struct QuantizeOptions {
  std::string scheme = "fp8-channel";  // one of QuantizeSchemeNames()
  std::string method;                  // quant_method; empty: the scheme's own
  Division division = Division::kProducer;
  ScaleSearch search = ScaleSearch::kAmax;
  bool ue8m0 = false;
  std::vector<std::string> ignore;    // patterns of modules (io/name_pattern.h)
  std::filesystem::path recipe;       // of ReadRecipe(); empty: none
  std::filesystem::path calibration;  // data for static scales; empty: none
  SampleLimits calibration_limits;
  ScaleObserver observer = ScaleObserver::kAmax;
  double percentile = 0.9999;  // of inputs that ScaleObserver::kPercentile does not clip
  bool fp8_kv_cache = false;   // scales of keys and values, by calibration
  uint64_t max_shard_bytes = kDefaultMaxShardBytes;
};

// "fp8-channel", "fp8", ..., "bf16".
std::vector<std::string> QuantizeSchemeNames();

struct QuantizeReport {
  ConversionReport conversion;
  CalibrationResult calibration;  // empty without
};

// Samples of calibration done and in total.
using CalibrationProgress = std::function<void(int64_t done, int64_t total)>;

// Writes the directory `out` from the checkpoint `in`. Errors as PlanQuantization() and
// RunConversion() have them, and kInvalidArgument for options that do not fit together.
QuantizeReport QuantizeCheckpoint(const std::filesystem::path& in, const std::filesystem::path& out,
                                  const QuantizeOptions& options, ThreadPool& threads,
                                  const CalibrationProgress& calibrating = {},
                                  const ConversionProgress& converting = {});

}  // namespace dualfp
