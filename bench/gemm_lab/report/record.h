// A recorded measurement of a GEMM on a GPU: a "point" line of what bench/results/h200-*.xz pack.

#pragma once

#include <string>

#include "dualfp/io/json.h"

namespace dualfp {

// Whether a format's operands are a byte each, on the FP8 tensor cores: its name begins with "fp8".
bool IsFp8(const std::string& format);

// Of one weight, as a format's kernels read it.
double WeightBytes(const std::string& format);

struct GemmRecord {
  std::string format;  // a name of formats.h
  int n = 0;
  int k = 0;
  int m = 0;
  std::string plan;
  // Microseconds of a launch by graph replay, weights not in L2; 0: not measured.
  double microseconds = 0;
  double no_overlap_microseconds = 0;     // without programmatic dependent launch
  double with_quantize_microseconds = 0;  // X quantized before each product
  double cublaslt_microseconds = 0;       // the baseline
  // Relative Frobenius errors against FP64 on the same operands.
  double error = 0;
  double cublaslt_error = 0;

  double Speed() const { return cublaslt_microseconds / microseconds; }
  double Operations() const { return 2.0 * n * k * m; }
  // Each operand once: the weight's planes that are read, X, and Y in FP16.
  double Bytes() const;
};

Json ToJson(const GemmRecord& record);
GemmRecord ParseGemmRecord(const JsonFields& fields);

}  // namespace dualfp
