#include "dualfp/model/stored_matrix.h"

#include <array>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/quantize_weight.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

constexpr int64_t kBlock = 128;

class DequantizedRows : public TensorRows {
 public:
  explicit DequantizedRows(StoredMatrix matrix)
      : TensorRows(DType::kF32, matrix.rows->columns()), matrix_(std::move(matrix)) {}

  const void* Row(int64_t index, void* scratch) const override {
    // A float's row is four times a code's: the codes come to its end and are read before they are
    // overwritten.
    auto* out = static_cast<float*>(scratch);
    const auto* codes = static_cast<const uint8_t*>(
        matrix_.rows->Row(index, static_cast<uint8_t*>(scratch) + 3 * columns_));
    for (int64_t i = 0; i < columns_; ++i) {
      out[i] = E4m3ToFloat(codes[i]) * matrix_.Scale(index, i);
    }
    return out;
  }

 private:
  StoredMatrix matrix_;
};

}  // namespace

float LoadFloat(const void* row, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF16:
      return Fp16ToFloat(static_cast<const uint16_t*>(row)[i]);
    case DType::kBF16:
      return Bf16ToFloat(static_cast<const uint16_t*>(row)[i]);
    default:
      return static_cast<const float*>(row)[i];
  }
}

float StoredMatrix::Scale(int64_t row, int64_t column) const {
  const int64_t columns = rows->columns();
  switch (quantization.scheme.granularity) {
    case ScaleGranularity::kNone:
      return 1.0f;
    case ScaleGranularity::kPerTensor:
      return scales[0];
    case ScaleGranularity::kPerChannel:
      return scales[row];
    case ScaleGranularity::kBlock128:
      return scales[row / kBlock * ((columns + kBlock - 1) / kBlock) + column / kBlock];
    case ScaleGranularity::kGroup: {
      const int64_t group = GetQuantFormatInfo(quantization.scheme.format).group_size;
      return scales[row * (columns / group) + column / group];
    }
  }
  Fail(ErrorCode::kInternal, "unknown scale granularity");
}

std::unique_ptr<TensorRows> Dequantize(StoredMatrix matrix) {
  if (!matrix.quantized()) {
    return std::move(matrix.rows);
  }
  return std::make_unique<DequantizedRows>(std::move(matrix));
}

}  // namespace dualfp
