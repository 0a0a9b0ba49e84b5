// The static scales of a checkpoint by running it over calibration data.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/quant/calibration/calibration_samples.h"
#include "dualfp/quant/calibration/magnitude_histogram.h"
#include "dualfp/quant/conversion/quantize_plan.h"

namespace dualfp {

struct CalibrationOptions {
  std::filesystem::path file;  // of ReadCalibrationSamples()
  SampleLimits limits;
  ScaleObserver observer = ScaleObserver::kAmax;
  double percentile = 0.9999;  // share of values that kPercentile does not clip
  bool inputs = true;          // of linear layers
  bool kv = false;             // keys (after RoPE) and values
};

// What one scale does to the values that it was made from.
struct ScaleReport {
  std::string name;  // "model.layers.0.self_attn.o_proj", "model.layers.0.self_attn.k"
  float scale = 1;
  float amax = 0;
  double clipped_share = 0;
};

struct CalibrationResult {
  StaticScales scales;
  std::vector<ScaleReport> layers;  // in the order of the model
  int64_t samples = 0;
  int64_t tokens = 0;
};

// Loads the model of the directory, which must be one that the engine runs, and reads the samples
// exactly. Throws as LoadModel(), ReadCalibrationSamples() and ObserveMagnitudes() do.
CalibrationResult CalibrateCheckpoint(const std::filesystem::path& directory,
                                      const CalibrationOptions& options, ThreadPool& threads,
                                      const std::function<void(int64_t, int64_t)>& progress = {});

}  // namespace dualfp
