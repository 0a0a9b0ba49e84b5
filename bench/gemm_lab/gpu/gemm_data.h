// Random operands of one weight shape on the current device, and the error of a result against
// FP64.

#pragma once

#include <cuda_runtime_api.h>

#include <optional>

#include "bench/gemm_lab/gpu/cublaslt.h"
#include "bench/gemm_lab/gpu/device_memory.h"
#include "bench/gemm_lab/gpu/nested12_data.h"
#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/report/record.h"
#include "dualfp/kernels/cuda/sm90/gemm.h"

namespace dualfp::gpu {

// Several copies of the weights, so that L2 cannot hold them, and activations of every M.
class GemmData {
 public:
  // As many copies as exceed twice an L2 of 60 MB in the smaller format.
  static int CopiesFor(int n, int k);

  // Fills on `stream` and waits.
  GemmData(int n, int k, int max_m, int copies, cudaStream_t stream);

  int n() const { return n_; }
  int k() const { return k_; }
  int max_m() const { return max_m_; }
  int copies() const { return copies_; }

  // Chooses the product that all below is about: of the first `m` rows of X, in a format. Makes the
  // operands that it alone wants, quantizes X, and computes 8 rows with weights copy 0 in FP64.
  void Prepare(const GemmFormat& format, int m, cudaStream_t stream);
  const GemmFormat& format() const { return *format_; }
  int m() const { return m_; }

  // Against weights copy `copy` (taken modulo the copies). FP8 multiplies the upper planes by
  // quantized X: with a scale a token it writes Y / 256, with block scales Y.
  sm90::GemmProblem Problem(int copy) const;

  // The same for cuBLASLt, whose FP8 product lacks the tokens' and the rows' scales unless there
  // are block scales.
  CublasLt::Problem BaselineProblem() const;
  const void* BaselineWeights(int copy) const;

  // As before each FP8 product.
  void QuantizeX(cudaStream_t stream) const;

  uint8_t* y() const { return y_.bytes(); }
  const uint8_t* w16() const { return w16_.bytes(); }
  uint8_t* upper() const { return upper_.bytes(); }
  uint8_t* lower() const { return lower_.bytes(); }

  // Y becomes not-a-numbers.
  void Poison(cudaStream_t stream) const;
  // Relative Frobenius error of Y over the sampled rows; not a number where Y is. Waits.
  double Error(cudaStream_t stream) const { return Error(true, stream); }
  double BaselineError(cudaStream_t stream) const { return Error(false, stream); }

 private:
  bool ScaledByToken() const { return IsFp8(format_->name) && !format_->block_scaled; }
  cudaDataType_t Type() const;
  const void* X() const;
  sm90::BlockScales Scales() const;
  void QuantizeX(int64_t group_stride, float* scale, cudaStream_t stream) const;
  double Error(bool scaled, cudaStream_t stream) const;
  void MakeBf16(cudaStream_t stream);

  int n_;
  int k_;
  int max_m_;
  int copies_;
  const GemmFormat* format_ = nullptr;
  int m_ = 0;
  DeviceMemory w16_;
  DeviceMemory upper_;
  DeviceMemory lower_;
  DeviceMemory x16_;
  DeviceMemory x8_;
  DeviceMemory x_scale_;
  int w_block_stride_;
  DeviceMemory w_block_scale_;           // rows at multiples of four, as cuBLASLt wants them
  DeviceMemory x_group_scale_;           // groups at multiples of four tokens,
  DeviceMemory x_group_scale_baseline_;  // and M apart, as it wants these
  std::optional<DeviceMemory> w_bf16_;   // once BF16 was asked for
  std::optional<DeviceMemory> x_bf16_;
  std::optional<DeviceMemory> w_bf16_in_f16_;  // for Nested12 with FP16 activations
  std::optional<Nested12Data> nested12_;
  DeviceMemory y_;
  DeviceMemory rows_;
  DeviceMemory reference_;
  DeviceMemory error_;
  DeviceMemory workspace_;
};

}  // namespace dualfp::gpu
