// A linear layer's weight as a checkpoint stores it: rows of floats, or FP8 codes and their scales.

#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "dualfp/io/quantization_config.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

// One tensor, held open for reading row by row. Thread-safe.
class TensorRows {
 public:
  TensorRows(DType dtype, int64_t columns) : dtype_(dtype), columns_(columns) {}
  virtual ~TensorRows() = default;

  DType dtype() const { return dtype_; }
  int64_t columns() const { return columns_; }
  int64_t row_bytes() const { return columns_ * DTypeSize(dtype_); }

  // Row `index`, either in place or written to `scratch` (row_bytes() bytes).
  virtual const void* Row(int64_t index, void* scratch) const = 0;

 protected:
  DType dtype_;
  int64_t columns_;
};

// Element `i` of a row, F32, F16 or BF16.
float LoadFloat(const void* row, DType dtype, int64_t i);

struct StoredMatrix {
  std::unique_ptr<TensorRows> rows;  // F32, F16 or BF16; of a quantized one, codes: F8_E4M3
  LinearQuantization quantization;   // plain: floats
  // Of codes, row-major: value = code * scale. As many as ScaleShape() of the scheme says: one, one
  // a row, one a block of 128 x 128 or one for each group of a row.
  std::vector<float> scales;
  std::optional<float> input_scale;  // of kStaticPerTensor

  bool quantized() const { return quantization.scheme != kPlainWeights; }
  // Of codes: the scale of element (row, column).
  float Scale(int64_t row, int64_t column) const;
};

// Codes as the values that they stand for, F32; floats as they are.
std::unique_ptr<TensorRows> Dequantize(StoredMatrix matrix);

}  // namespace dualfp
