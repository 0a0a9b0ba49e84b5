// One random weight in one format, as often as no cache holds: benchmarks multiply by its copies in
// turn.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/kernels/nest.h"
#include "dualfp/kernels/quantize.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {

// How a weight is stored and multiplied.
struct CpuFormat {
  std::string_view name;
  QuantFormat format;
  DType dtype;
  Precision precision;
  ActivationQuant quant;
};

std::span<const CpuFormat> CpuFormats();

// nullptr where there is none.
const CpuFormat* FindCpuFormat(std::string_view name);

// "f16, bf16, ...".
std::string CpuFormatNames();

class RotatedWeights {
 public:
  // `fp16` [N, K] are the weights' exact bits, with eight significand bits at most, so that BF16
  // and F32 hold them, too.
  RotatedWeights(ThreadPool& threads, const CpuFormat& format, const Buffer& fp16, int64_t n,
                 int64_t k);

  int64_t size() const { return static_cast<int64_t>(weights_.size()); }
  // Modulo the copies.
  const Weight& operator[](int64_t index) const { return weights_[index % size()]; }

 private:
  TensorView Allocate(DType dtype, int64_t n, int64_t k);
  TensorView Plain(const ConstTensorView& source, DType dtype);

  std::vector<Buffer> buffers_;
  std::vector<Weight> weights_;
  OutlierBuffers outliers_;
};

}  // namespace dualfp
