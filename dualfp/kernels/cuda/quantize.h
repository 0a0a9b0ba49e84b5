// Activations to E4M3 on the GPU, alone or fused with what produces them. One pass over the input;
// the output is K-permuted (docs/formats.md) as the FP8 GEMM wants it.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dualfp::cuda {

// What feeds the quantizer, row by row. Fusing changes no bit: SiLU * up is rounded to the element
// type before it is quantized, as if it had been stored in between.
enum class QuantizeSource {
  kPlain,          // x [M, K]
  kRmsNorm,        // x [M, K] (+ residual [M, K], updated in place to the sum), times weight [K]
  kSiluMul,        // gate and up interleaved, x [M, 2K] = g0, u0, g1, u1, ...: silu(g) * u
  kSiluMulHalves,  // gate then up, x [M, 2K]
};

enum class QuantizeType { kF16, kBf16 };  // of x and residual

constexpr int64_t kQuantizeMaxK = 32768;
constexpr int64_t kQuantizeGroup = 128;  // elements of K that share a scale, see group_stride

struct QuantizeArgs {
  QuantizeSource source = QuantizeSource::kPlain;
  QuantizeType type = QuantizeType::kF16;
  int64_t m = 0;
  int64_t k = 0;  // of the output: a multiple of 16, at most kQuantizeMaxK
  const void* x = nullptr;
  int64_t x_stride = 0;           // elements between rows; a multiple of 8
  void* residual = nullptr;       // kRmsNorm, optional; contiguous rows
  const float* weight = nullptr;  // kRmsNorm: [K]; not written by the stream's previous kernel
  float epsilon = 1e-5f;          // kRmsNorm
  // One scale for all rows, on the device; positive. nullptr = dynamic.
  const float* static_scale = nullptr;
  float fixed_scale = 0.0f;  // the same as a number; 0: none
  // Dynamic: 0 = a scale per token, scale [M]; else one per token and 128 of K, that of group g
  // and row m at scale[g * group_stride + m].
  int64_t group_stride = 0;
  void* q = nullptr;       // E4M3 [M, K], contiguous
  float* scale = nullptr;  // amax / 448 (1 where that is 0); written in the static case too
  int chunks = 0;          // 8-element pieces of a row that a thread holds: 1, 2, 4, 8; 0 = chosen
};

// Enqueues; `overlap` as in sm90::Launch. All pointers are aligned to 16 bytes.
// Throws kInvalidArgument.
void Quantize(const QuantizeArgs& args, cudaStream_t stream, bool overlap);

// Floats that QuantizePerTensor wants at `scale`: the scale, then scratch.
constexpr int64_t kPerTensorFloats = 1024;

// One scale for the whole of x [M, K], in scale[0]: amax over all rows, then q = x / scale.
// One launch; what fits stays on the chip between the maximum and the rounding.
void QuantizePerTensor(const void* x, int64_t x_stride, QuantizeType type, int64_t m, int64_t k,
                       void* q, float* scale, cudaStream_t stream);

}  // namespace dualfp::cuda
