// One random weight in one format, as often as no cache holds: benchmarks multiply by its copies in
// turn.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/kernels/quantize.h"
#include "dualfp/model/model.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {

// How a weight is stored and multiplied.
struct CpuFormat {
  std::string name;
  WeightScheme scheme;
  DType source;  // of the rows that the filler gets, and so of plain weights
  Precision precision;
  ActivationQuant quant;
};

// Plain types ("f16", ...), then every scheme of the table in tensor/weight_scheme.h by its name:
//   planes without a codec       exact; NAME-fp8 and NAME-fp8-weight-only from the upper plane
//   codes of 8 bits              at FP8; NAME-weight-only without quantized activations
//   codes of 4 bits              at FP4; NAME-fp8 at FP8
std::vector<std::string> CpuFormatNames();

// nullptr where there is none.
const CpuFormat* FindCpuFormat(std::string_view name);

class RotatedWeights {
 public:
  // `fp16` [N, K] are the weights' exact bits, with eight significand bits at most, so that BF16
  // and F32 hold them, too. A round of all copies reads `bytes` or more: by default four times the
  // largest last-level cache in sight.
  RotatedWeights(ThreadPool& threads, const CpuFormat& format, const Buffer& fp16, int64_t n,
                 int64_t k, int64_t bytes = int64_t{128} << 20);

  int64_t size() const { return static_cast<int64_t>(linears_.size()); }
  // Modulo the copies.
  const Weight& operator[](int64_t index) const { return linears_[index % size()].weight; }

 private:
  std::vector<Linear> linears_;
};

}  // namespace dualfp
