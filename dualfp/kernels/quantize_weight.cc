#include "dualfp/kernels/quantize_weight.h"

#include <algorithm>
#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cpu/row_inner.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/e8m0.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {
namespace {

constexpr int64_t kBlock = 128;

int64_t Blocks(int64_t size) { return (size + kBlock - 1) / kBlock; }

const cpu::RowInner& BestRows() { return *BestBackend(DeviceType::kCpu).rows; }

float LoadElement(const void* row, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF16:
      return Fp16ToFloat(static_cast<const uint16_t*>(row)[i]);
    case DType::kBF16:
      return Bf16ToFloat(static_cast<const uint16_t*>(row)[i]);
    default:
      return static_cast<const float*>(row)[i];
  }
}

ConstTensorView Columns(ConstTensorView matrix, int64_t begin, int64_t end) {
  matrix.data = matrix.as<char>() + begin * DTypeSize(matrix.dtype);
  matrix.shape[1] = end - begin;
  return matrix;
}

// Stores the scale of a tile whose largest magnitude is `amax`, and returns what to divide by.
float StoreScale(const QuantFormatInfo& info, float amax, float matrix_scale, void* out) {
  switch (info.scales) {
    case DType::kF8E4M3: {
      const float least = E4m3ToFloat(1);
      const float scale =
          amax == 0 ? 1.0f : std::max(amax / (info.codec.max * matrix_scale), least);
      const uint8_t code = FloatToE4m3(scale);
      *static_cast<uint8_t*>(out) = code;
      return E4m3ToFloat(code) * matrix_scale;
    }
    case DType::kF8E8M0: {
      const uint8_t code = FloatToE8m0Ceil(amax / info.codec.max);
      *static_cast<uint8_t*>(out) = code;
      return E8m0ToFloat(code);
    }
    default: {
      const float scale = amax / info.codec.max;
      return *static_cast<float*>(out) = scale == 0 ? 1.0f : scale;
    }
  }
}

// Codes of a row's elements [begin, begin + count) to where the row's codes begin.
void EncodeRun(const ElementCodec& codec, const void* row, DType dtype, int64_t begin,
               int64_t count, float scale, uint8_t* codes) {
  const auto* run = static_cast<const char*>(row) + begin * DTypeSize(dtype);
  if (codec.encode == kE4m3Codec.encode) {
    BestRows().encode(run, dtype, count, scale, codes + begin);
    return;
  }
  for (int64_t i = 0; i < count; ++i) {
    const uint8_t code = codec.encode(LoadElement(run, dtype, i) / scale);
    if (codec.bits == 8) {
      codes[begin + i] = code;
    } else {
      uint8_t& pair = codes[(begin + i) / 2];
      pair = static_cast<uint8_t>((begin + i) % 2 == 0 ? code : (pair & 15) | code << 4);
    }
  }
}

bool HasRows(const ConstTensorView& view, int64_t rows, int64_t columns) {
  return view && view.rank == 2 && view.shape[0] == rows && view.shape[1] == columns &&
         (columns <= 1 || view.strides[1] == 1);
}

}  // namespace

std::array<int64_t, 2> ScaleShape(const WeightScheme& scheme, int64_t n, int64_t k) {
  const QuantFormatInfo& info = GetQuantFormatInfo(scheme.format);
  const bool grouped = scheme.granularity == ScaleGranularity::kGroup;
  Check(info.codec.bits > 0 && scheme.granularity != ScaleGranularity::kNone &&
            grouped == (info.group_size > 0),
        ErrorCode::kInvalidArgument, "quantize: ", info.name, " has no scales of this granularity");
  switch (scheme.granularity) {
    case ScaleGranularity::kPerChannel:
      return {n, 1};
    case ScaleGranularity::kBlock128:
      return {Blocks(n), Blocks(k)};
    case ScaleGranularity::kGroup:
      Check(k % info.group_size == 0, ErrorCode::kInvalidArgument, "quantize: ", info.name,
            " scales ", info.group_size, " elements together, and K = ", k,
            " is not a multiple of that");
      return {n, k / info.group_size};
    default:
      return {1, 1};
  }
}

float WeightMaxMagnitude(const ConstTensorView& weight) {
  const cpu::RowInner& inner = BestRows();
  float amax = 0.0f;
  for (int64_t row = 0; row < weight.shape[0]; ++row) {
    amax = std::max(
        amax, inner.max_magnitude(weight.Rows(row, row + 1).data, weight.dtype, weight.shape[1]));
  }
  return amax;
}

float WeightMatrixScale(const WeightScheme& scheme, float amax) {
  const QuantFormatInfo& info = GetQuantFormatInfo(scheme.format);
  float scale = 1.0f;
  if (scheme.granularity == ScaleGranularity::kPerTensor) {
    scale = amax / info.codec.max;
  } else if (info.scales == DType::kF8E4M3) {
    scale = amax / (info.codec.max * kE4m3Max);
  }
  return scale == 0 ? 1.0f : scale;
}

void QuantizeWeightRows(const ConstTensorView& weight, const WeightScheme& scheme,
                        float matrix_scale, const TensorView& codes, const TensorView& scales) {
  const QuantFormatInfo& info = GetQuantFormatInfo(scheme.format);
  const int64_t k = weight.shape[1];
  const bool blocked = scheme.granularity == ScaleGranularity::kBlock128;
  const int64_t tile_rows = blocked ? weight.shape[0] : 1;
  const int64_t tile_columns = blocked                                          ? kBlock
                               : scheme.granularity == ScaleGranularity::kGroup ? info.group_size
                                                                                : k;
  for (int64_t begin = 0; begin < weight.shape[0]; begin += tile_rows) {
    const ConstTensorView strip = weight.Rows(begin, begin + tile_rows);
    for (int64_t column = 0; column < k; column += tile_columns) {
      const int64_t count = std::min(tile_columns, k - column);
      float scale = matrix_scale;
      if (scheme.granularity != ScaleGranularity::kPerTensor) {
        const TensorView row = scales.Rows(begin / tile_rows, begin / tile_rows + 1);
        scale = StoreScale(info, WeightMaxMagnitude(Columns(strip, column, column + count)),
                           matrix_scale,
                           row.as<char>() + column / tile_columns * DTypeSize(info.scales));
      }
      for (int64_t i = begin; i < begin + tile_rows; ++i) {
        EncodeRun(info.codec, weight.Rows(i, i + 1).data, weight.dtype, column, count, scale,
                  codes.Rows(i, i + 1).as<uint8_t>());
      }
    }
  }
}

void EncodeE4m3(const void* weights, DType dtype, int64_t n, const E4m3Quotient& quotient,
                uint8_t* codes) {
  BestRows().encode_quotient(weights, dtype, n, quotient.factor, quotient.multiply,
                             quotient.rounded, codes);
}

void QuantizeWeight(const Context& context, const ConstTensorView& weight,
                    const WeightScheme& scheme, const TensorView& codes, const TensorView& scales,
                    const TensorView& global_scale) {
  const QuantFormatInfo& info = GetQuantFormatInfo(scheme.format);
  const int64_t n = weight.rank == 2 ? weight.shape[0] : 0;
  const int64_t k = weight.rank == 2 ? weight.shape[1] : 0;
  Check(HasRows(weight, n, k) && (weight.dtype == DType::kF32 || weight.dtype == DType::kF16 ||
                                  weight.dtype == DType::kBF16),
        ErrorCode::kInvalidArgument, "quantize: the weight is ", Describe(weight),
        ", expected F32, F16 or BF16 [N, K]");
  const auto [scale_rows, scale_columns] = ScaleShape(scheme, n, k);
  Check(HasRows(codes, n, k * info.codec.bits / 8) && codes.dtype == info.values,
        ErrorCode::kInvalidArgument, "quantize: the codes are ", Describe(codes), ", expected ",
        DTypeName(info.values), "[", n, ", ", k * info.codec.bits / 8, "]");
  TensorView grid = scales;
  if (!HasRows(scales, scale_rows, scale_columns)) {
    Check(scales.is_contiguous() && scales.num_elements() == scale_rows * scale_columns,
          ErrorCode::kInvalidArgument, "quantize: the scales are ", Describe(scales),
          ", expected [", scale_rows, ", ", scale_columns, "]");
    grid = TensorView(scales.data, scales.dtype, {scale_rows, scale_columns}, scales.device);
  }
  Check(scales.dtype == info.scales, ErrorCode::kInvalidArgument, "quantize: the scales are ",
        Describe(scales), ", expected ", DTypeName(info.scales));
  const bool has_global = info.scales == DType::kF8E4M3;
  Check(!has_global ||
            (global_scale.dtype == DType::kF32 && global_scale.num_elements() == 1 && global_scale),
        ErrorCode::kInvalidArgument, "quantize: ", info.name, " needs a global scale, F32[1]");
  Check(weight.device.type == DeviceType::kCpu && codes.device == weight.device &&
            scales.device == weight.device,
        ErrorCode::kUnsupported, "quantize: weight, codes and scales must be on the CPU");
  Check(context.threads != nullptr, ErrorCode::kInvalidArgument, "quantize: no thread pool");

  float matrix_scale = 1.0f;
  if (has_global || scheme.granularity == ScaleGranularity::kPerTensor) {
    matrix_scale = WeightMatrixScale(scheme, WeightMaxMagnitude(weight));
    *(has_global ? global_scale : grid).as<float>() = matrix_scale;
  }
  const int64_t strip = scheme.granularity == ScaleGranularity::kBlock128 ? kBlock : 1;
  context.threads->ParallelFor(Blocks(n), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin * kBlock; row < std::min(n, end * kBlock); row += strip) {
      const int64_t last = std::min(n, row + strip);
      const TensorView strip_scales = scheme.granularity == ScaleGranularity::kPerTensor
                                          ? TensorView()
                                          : grid.Rows(row / strip, row / strip + 1);
      QuantizeWeightRows(weight.Rows(row, last), scheme, matrix_scale, codes.Rows(row, last),
                         strip_scales);
    }
  });
}

}  // namespace dualfp
