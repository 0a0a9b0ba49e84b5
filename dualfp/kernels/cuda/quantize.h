// Activations to E4M3 on the GPU, alone or fused with what produces them. One pass over the input;
// the output is K-permuted (docs/formats.md) as the FP8 GEMM wants it.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dualfp::cuda {

// What feeds the quantizer, row by row; everything F16, K a multiple of 16 and at most 32768.
enum class QuantizeSource {
  kPlain,          // x [M, K]
  kRmsNorm,        // x [M, K] (+ residual [M, K], updated in place to the sum), times weight [K]
  kSiluMul,        // gate and up interleaved, x [M, 2K] = g0, u0, g1, u1, ...: silu(g) * u
  kSiluMulHalves,  // gate then up, x [M, 2K]
};

struct QuantizeArgs {
  QuantizeSource source = QuantizeSource::kPlain;
  int64_t m = 0;
  int64_t k = 0;  // of the output
  const void* x = nullptr;
  int64_t x_stride = 0;          // elements between rows
  void* residual = nullptr;      // kRmsNorm, optional; contiguous rows
  const void* weight = nullptr;  // kRmsNorm: F16 [K]
  float epsilon = 1e-5f;         // kRmsNorm
  float static_scale = 0.0f;     // 0 = dynamic per token
  void* q = nullptr;             // E4M3 [M, K], contiguous
  float* scale = nullptr;        // [M]: amax / 448 of each row; written in the static case too
};

// Enqueues; `overlap` as in sm90::Launch.
void Quantize(const QuantizeArgs& args, cudaStream_t stream, bool overlap);

// One scale for the whole of x: amax over all rows, then q = x / scale. `scale` [1] is zeroed
// first.
void QuantizePerTensor(const void* x, int64_t m, int64_t k, void* q, float* scale,
                       cudaStream_t stream);

}  // namespace dualfp::cuda
