// Random operands of one weight shape on the current device, and the error of a result against
// FP64.

#pragma once

#include <cuda_runtime_api.h>

#include "apps/gpu/device_memory.h"
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

  // The first M rows against weights copy `copy` (taken modulo the copies). kE4m3 multiplies the
  // upper planes by X quantized per token, and writes Y / 256.
  sm90::GemmProblem Problem(sm90::WeightFormat format, int m, int copy) const;

  // What cuBLASLt is given: FP16, or the E4M3 codes as they are.
  const void* PlainWeights(bool fp8, int copy) const;
  const void* PlainX(bool fp8) const { return fp8 ? x8_.bytes() : x16_.bytes(); }

  // Quantizes the first M rows of X per token, as before each kE4m3 product.
  void QuantizeX(int m, cudaStream_t stream) const;

  uint8_t* y() const { return y_.bytes(); }
  const uint8_t* w16() const { return w16_.bytes(); }
  uint8_t* upper() const { return upper_.bytes(); }
  uint8_t* lower() const { return lower_.bytes(); }

  // Prepares Error() for weights copy 0 and this M: 8 rows in FP64.
  void MakeReference(sm90::WeightFormat format, int m, cudaStream_t stream);
  // Y becomes not-a-numbers.
  void Poison(int m, cudaStream_t stream) const;
  // Relative Frobenius error of Y over the sampled rows; not a number where Y is. Waits.
  // `scaled_by_token`: Y holds the token's scale (ours does, cuBLASLt's Y does not).
  double Error(sm90::WeightFormat format, bool scaled_by_token, cudaStream_t stream) const;

 private:
  int n_;
  int k_;
  int max_m_;
  int copies_;
  DeviceMemory w16_;
  DeviceMemory upper_;
  DeviceMemory lower_;
  DeviceMemory x16_;
  DeviceMemory x8_;
  DeviceMemory x_scale_;
  DeviceMemory y_;
  DeviceMemory rows_;
  DeviceMemory reference_;
  DeviceMemory error_;
  DeviceMemory workspace_;
};

// Errors below this are rounding: of Y to FP16, and of wgmma's E4M3 accumulation.
double LargestError(sm90::WeightFormat format);

}  // namespace dualfp::gpu
