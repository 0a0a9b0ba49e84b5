// Weights in GPU memory. A checkpoint is uploaded tensor by tensor and never needs more than its
// own size and a piece of one tensor: planes become the GPU's where they lie, and 16-bit weights
// are split from a staging buffer into their planes.

#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>
#include <string_view>

#include "dualfp/kernels/nest.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/weight.h"

namespace dualfp::cuda {

// A weight and the memory that it shows.
struct DeviceWeight {
  Weight weight;
  Buffer storage;   // planes and scales
  Buffer outliers;  // I64 indices, then F32 values; kNested12: batches
};

// Copies a CPU weight of a format that GPU kernels compute with (plain, nested, nested12, fp8) and
// makes its planes what GPU memory holds (planes.h, nested12_planes.h). Synchronises with `stream`.
// Throws kUnsupported for other formats and where K of a nested or fp8 weight is not a multiple
// of 16.
DeviceWeight Upload(const Weight& weight, int device, cudaStream_t stream);

// Splits 16-bit CPU weights on the GPU. One object uploads many tensors, one after the other.
class PlaneUploader {
 public:
  // Staging of `piece_bytes` (at least a row, of Nested12 16), allocated by the first call and
  // kept.
  explicit PlaneUploader(int device, int64_t piece_bytes = int64_t{64} << 20)
      : device_(device), piece_bytes_(piece_bytes) {}

  // `source` F16 or BF16 [N, K], contiguous, as Nest() (kernels/nest.h) takes it; K a multiple of
  // 16. `format`: kNested, or kNested12 of a BF16 source, whose remainders count as outliers. With
  // more than `max_outliers`, the report says so and `*weight` is left empty: the tensor had better
  // stay plain. Throws kInvalidFile, naming `name` and the element, on NaN or infinity.
  NestReport Nest(std::string_view name, const ConstTensorView& source, int64_t max_outliers,
                  cudaStream_t stream, DeviceWeight* weight,
                  QuantFormat format = QuantFormat::kNested);

  // The same into a weight that Nest() or Upload() made, of the same shape and format: new weights
  // in place, with no memory but the outliers'. If it throws, or has too many outliers
  // (`weight->weight` is then empty), the old weights are lost.
  NestReport Refill(std::string_view name, const ConstTensorView& source, int64_t max_outliers,
                    cudaStream_t stream, DeviceWeight* weight);

 private:
  // Calls split(pointer, first row, rows) for pieces of the source in GPU memory, of multiples of
  // `unit` rows but for the last; waits for all.
  template <class Split>
  void ForEachPiece(const ConstTensorView& source, int64_t unit, cudaStream_t stream,
                    const Split& split);

  int device_;
  int64_t piece_bytes_;
  Buffer staging_;
};

}  // namespace dualfp::cuda
