// Nested planes on the GPU: split, check and merge at the speed of memory.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dualfp::cuda {

// What SplitPlanes saw; on the device, zeroed by the caller.
struct SplitCounts {
  unsigned long long outliers;  // finite and |w| > 1.75: stored clamped, listed while room is left
  unsigned long long non_finite;  // an error for the caller to report
};

struct OutlierSink {
  SplitCounts* counts = nullptr;
  int64_t* index = nullptr;  // row * K + column, in no order
  float* value = nullptr;    // w - clamp(w)
  int64_t capacity = 0;
};

// w F16 [N, K] -> upper, lower U8 [N, K], with each aligned 16 of K permuted as docs/formats.md
// says. K is a multiple of 16; pointers are aligned to 16 bytes.
void SplitPlanes(const void* w, int64_t n, int64_t k, void* upper, void* lower,
                 const OutlierSink& sink, cudaStream_t stream);

// The inverse (of the clamped weights).
void MergePlanes(const void* upper, const void* lower, int64_t n, int64_t k, void* w,
                 cudaStream_t stream);

// Permutes each aligned group of 16 bytes: `bytes` is a multiple of 16. In place where in == out.
void PermuteBytes(const void* in, void* out, int64_t bytes, cudaStream_t stream);

}  // namespace dualfp::cuda
