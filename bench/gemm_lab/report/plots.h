// Plots of recorded GEMM measurements.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bench/gemm_lab/report/record.h"

namespace dualfp {

// What a machine reaches at most; 0: unknown.
struct Ceilings {
  double bytes_per_microsecond = 0;      // of a copy, read and written
  double fp16_flop_per_microsecond = 0;  // of a large product
  double fp8_flop_per_microsecond = 0;

  double FlopPerMicrosecond(const std::string& format) const {
    return IsFp8(format) ? fp8_flop_per_microsecond : fp16_flop_per_microsecond;
  }
};

// No lower than the rates of any record.
Ceilings CompleteCeilings(Ceilings ceilings, const std::vector<GemmRecord>& records);

struct Plot {
  std::string file;   // "nested_6144_4096.svg"
  std::string title;  // "NestedFP16, N 6144, K 4096"
  std::string svg;
};

// cuBLASLt's time over ours, over M, a line for each weight: "nested_speed.svg", "fp8_speed.svg".
std::vector<Plot> SpeedPlots(const std::vector<GemmRecord>& records);

// For each format and weight, TFLOP/s and GB/s over M, ours, cuBLASLt's and the roofline's.
std::vector<Plot> RatePlots(const std::vector<GemmRecord>& records, const Ceilings& ceilings);

// "NestedFP16", "FP8", or another format's own name.
std::string FormatTitle(const std::string& format);
// "cuBLASLt FP16": what it is compared with.
std::string BaselineTitle(const std::string& format);

// Into `folder`, which is made if need be.
void WritePlots(const std::filesystem::path& folder, const std::vector<Plot>& plots);

}  // namespace dualfp
