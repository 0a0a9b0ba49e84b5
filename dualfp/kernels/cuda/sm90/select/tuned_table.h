// Measured choices, as text: what `dualfp tune` writes, what is compiled in (tuned_h200.txt), and
// what DUALFP_TUNED_TABLE names.
//
//   dualfp-tuned-table 2
//   device 132 NVIDIA H200               multiprocessors, name
//   kernels 6f1c0a2b9d3e                 KernelFingerprint() of the build that was timed
//   # FORMAT N K of a weight, then its rows: M PLAN MICROSECONDS [CUBLASLT]
//   nested 4096 4096
//   1 split_r64_t8_k128_c2/s2 10.9
//   16 split_r64_t16_k128_c2/s2 11.2
//   f16 4096 4096
//   16 split_r64_t16_k64_c2/s2 11.1 1.24
//
// A row names its plan without the format. It is for problems of its weight's format, N and K, and
// of its M; for M between rows, see choose.h. Rows of plain weights may end with cuBLASLt's time,
// by its own choice of a kernel, over the plan's.

#pragma once

#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/kernels/cuda/sm90/gemm.h"

namespace dualfp::sm90 {

// Of the sources that the Hopper kernels are compiled from: times of another fingerprint may not
// be those of this build.
std::string_view KernelFingerprint();

struct TunedRow {
  WeightFormat format = WeightFormat::kNested;
  int n = 0;
  int k = 0;
  int m = 0;
  Plan plan;
  double microseconds = 0;
  double cublaslt = 0;  // cuBLASLt's time over the plan's; 0: not measured
  int line = 0;
};

struct TunedTable {
  std::string origin;  // the file's path, for messages
  std::string device;
  int sms = 0;
  std::string kernels;
  std::vector<TunedRow> rows;  // by format, n, k, m

  // Rows of one weight, by M.
  std::span<const TunedRow> Find(WeightFormat format, int n, int k) const;
  std::string ToText() const;
};

// Throws kInvalidFile "ORIGIN:LINE: ...": a malformed line, a plan that this build does not have or
// that cannot run the row's problem, a row given twice.
TunedTable ParseTunedTable(std::string_view text, std::string_view origin);

// Throws kNotFound, kIo and what ParseTunedTable() throws.
TunedTable LoadTunedTable(const std::filesystem::path& path);

// Compiled in.
const TunedTable& BuiltInTable();

// The table that DUALFP_TUNED_TABLE names, read once; nullptr where it is not set.
const TunedTable* EnvironmentTable();

}  // namespace dualfp::sm90
