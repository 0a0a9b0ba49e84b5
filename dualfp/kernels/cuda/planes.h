// Nested planes on the GPU: split, check and merge at the speed of memory. In GPU memory each
// aligned 16 of K are permuted as docs/formats.md says, and the lower byte is D of numeric/nested.h
// (NestedDeviceLower) where disk and CPU have E.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

namespace dualfp::cuda {

// What SplitPlanes saw; on the device, zeroed by the caller. Calls add to it.
struct SplitCounts {
  unsigned long long outliers;  // finite and |w| > 1.75: stored clamped, listed while room is left
  unsigned long long non_finite;  // an error for the caller to report
  unsigned long long not_before;  // where any is: the complement of the first one's index
  unsigned long long rounded;     // BF16 weights that are not exact in FP16
  unsigned long long invalid;     // CheckPlanes: pairs of bytes that no weight has
  unsigned int largest_error;     // bits of the largest relative error of `rounded`, a float
};

enum class PlaneSource { kF16, kBf16 };

struct OutlierSink {
  SplitCounts* counts = nullptr;
  int64_t* index = nullptr;  // row * K + column, in no order
  float* value = nullptr;    // w - clamp(w)
  int64_t capacity = 0;
};

// w F16 or BF16 [N, K] -> upper, lower U8 [N, K], as GPU memory has them. BF16 rounds to FP16
// first; beyond FP16's range a weight keeps its own value as an outlier. K is a multiple of 16;
// pointers are aligned to 16 bytes. `first_index` is that of w[0, 0] in what the sink lists, for a
// weight that is split in pieces.
void SplitPlanes(const void* w, int64_t n, int64_t k, void* upper, void* lower,
                 const OutlierSink& sink, cudaStream_t stream,
                 PlaneSource source = PlaneSource::kF16, int64_t first_index = 0);

// The inverse (of the clamped weights).
void MergePlanes(const void* upper, const void* lower, int64_t n, int64_t k, void* w,
                 cudaStream_t stream);

// Counts the pairs of bytes that SplitPlanes could not have made, which no decoder may see.
void CheckPlanes(const void* upper, const void* lower, int64_t n, int64_t k, SplitCounts* counts,
                 cudaStream_t stream);

// Planes U8 [N, K] as disk and CPU have them -> as GPU memory has them, in place.
void PlanesToDevice(void* upper, void* lower, int64_t n, int64_t k, cudaStream_t stream);

// For codes that are not nested: permutes each aligned group of 16 bytes: `bytes` is a multiple
// of 16. In place where in == out.
void PermuteBytes(const void* in, void* out, int64_t bytes, cudaStream_t stream);

}  // namespace dualfp::cuda
