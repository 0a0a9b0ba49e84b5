// Tensor maps: what the copy engine must know about a matrix (CUDA driver API,
// cuTensorMapEncodeTiled, reached through the runtime so that nothing links against the driver).

#pragma once

#include <cuda.h>

#include <cstdint>

namespace dualfp::cuda {

enum class MapElement { kU8, kF16 };

// A row-major matrix and the box that one copy moves. Boxes are 32, 64 or 128 bytes wide and
// swizzled by their width; coordinates outside the matrix read as zero.
struct MatrixMap {
  const void* data = nullptr;  // aligned to 16 bytes
  MapElement element = MapElement::kU8;
  int64_t rows = 0;
  int64_t columns = 0;
  int64_t row_stride = 0;  // elements; a multiple of 16 bytes
  int box_rows = 0;        // <= 256
  int box_columns = 0;
};

// Throws kInvalidArgument when the driver refuses (alignment, strides) and kUnsupported without
// one.
CUtensorMap EncodeTensorMap(const MatrixMap& map);

}  // namespace dualfp::cuda
