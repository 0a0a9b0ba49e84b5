#include "dualfp/kernels/reference/rows.h"

#include <algorithm>
#include <cmath>

#include "dualfp/base/check.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/e8m0.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::reference {
namespace {

float LoadElement(const void* row, DType dtype, int64_t index) {
  switch (dtype) {
    case DType::kF32:
      return static_cast<const float*>(row)[index];
    case DType::kF16:
      return Fp16ToFloat(static_cast<const uint16_t*>(row)[index]);
    case DType::kBF16:
      return Bf16ToFloat(static_cast<const uint16_t*>(row)[index]);
    default:
      Fail(ErrorCode::kInternal, "row of ", DTypeName(dtype));
  }
}

void StoreElement(void* row, DType dtype, int64_t index, float value) {
  switch (dtype) {
    case DType::kF32:
      static_cast<float*>(row)[index] = value;
      return;
    case DType::kF16:
      static_cast<uint16_t*>(row)[index] = FloatToFp16(value);
      return;
    case DType::kBF16:
      static_cast<uint16_t*>(row)[index] = FloatToBf16(value);
      return;
    default:
      Fail(ErrorCode::kInternal, "row of ", DTypeName(dtype));
  }
}

float MaxMagnitude(const void* x, DType dtype, int64_t n) {
  float amax = 0.0f;
  for (int64_t i = 0; i < n; ++i) {
    const float magnitude = std::fabs(LoadElement(x, dtype, i));
    amax = magnitude > amax ? magnitude : amax;
  }
  return amax;
}

void ToFloat(const void* x, DType dtype, int64_t n, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = LoadElement(x, dtype, i);
  }
}

void Encode(const void* x, DType dtype, int64_t n, float scale, uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i) {
    codes[i] = FloatToE4m3(LoadElement(x, dtype, i) / scale);
  }
}

void EncodeQuotient(const void* x, DType dtype, int64_t n, float factor, bool multiply,
                    bool rounded, uint8_t* codes) {
  for (int64_t i = 0; i < n; ++i) {
    const float value = LoadElement(x, dtype, i);
    float quotient = multiply ? value * factor : value / factor;
    if (rounded && dtype == DType::kF16) {
      quotient = Fp16ToFloat(FloatToFp16(quotient));
    } else if (rounded && dtype == DType::kBF16) {
      quotient = Bf16ToFloat(FloatToBf16(quotient));
    }
    codes[i] = FloatToE4m3(quotient);
  }
}

void Quantize(const void* x, DType dtype, int64_t n, float scale, float* out) {
  for (int64_t i = 0; i < n; ++i) {
    out[i] = E4m3ToFloat(FloatToE4m3(LoadElement(x, dtype, i) / scale));
  }
}

float Silu(float x) { return x / (1.0f + std::exp(-x)); }

void Finish(const float* sums, int64_t n, const cpu::RowEpilogue& e) {
  const auto scaled = [&](int64_t i) {
    float value = sums[i] * e.x_scale * e.w_scale;
    if (e.w_scales != nullptr) {
      value *= e.w_scales[i];
    }
    return e.bias == nullptr ? value : value + e.bias[i];
  };
  const bool pairs = e.activation == Activation::kSiluMul;
  for (int64_t i = 0; i < (pairs ? n / 2 : n); ++i) {
    float value = scaled(pairs ? 2 * i : i);
    if (pairs) {
      value = Silu(value) * scaled(2 * i + 1);
    }
    if (e.residual != nullptr) {
      value += LoadElement(e.residual, e.y_dtype, i);
    }
    StoreElement(e.y, e.y_dtype, i, value);
  }
}

void AddOutliers(const Weight& weight, int64_t row, float* values) {
  const int64_t* begin = weight.outliers.index.as<int64_t>();
  const int64_t* end = begin + weight.outliers.size();
  const float* remainders = weight.outliers.value.as<float>();
  for (const int64_t* it = std::lower_bound(begin, end, row * weight.k);
       it != end && *it < (row + 1) * weight.k; ++it) {
    values[*it - row * weight.k] += remainders[it - begin];
  }
}

float GlobalScale(const Weight& weight, int64_t row) {
  if (!weight.global_scale) {
    return 1.0f;
  }
  const bool by_part = weight.global_scale.num_elements() > 1;
  return weight.global_scale.as<float>()[by_part ? weight.parts.Part(row) : 0];
}

// The scale of element (row, column).
float ScaleOf(const Weight& weight, int64_t row, int64_t column) {
  const void* scales = weight.scales.data;
  const QuantFormatInfo& info = GetQuantFormatInfo(weight.format);
  switch (weight.scale_granularity) {
    case ScaleGranularity::kNone:
      return 1.0f;
    case ScaleGranularity::kPerTensor:
      return *static_cast<const float*>(scales);
    case ScaleGranularity::kPerChannel:
      return static_cast<const float*>(scales)[row];
    case ScaleGranularity::kBlock128:
      return static_cast<const float*>(
          scales)[weight.parts.BlockRow(row) * ((weight.k + 127) / 128) + column / 128];
    case ScaleGranularity::kGroup: {
      const int64_t index = row * (weight.k / info.group_size) + column / info.group_size;
      switch (info.scales) {
        case DType::kF8E4M3:
          return E4m3ToFloat(static_cast<const uint8_t*>(scales)[index]) * GlobalScale(weight, row);
        case DType::kF8E8M0:
          return E8m0ToFloat(static_cast<const uint8_t*>(scales)[index]);
        default:
          return static_cast<const float*>(scales)[index];
      }
    }
  }
  Fail(ErrorCode::kInternal, "unknown scale granularity");
}

}  // namespace

const cpu::RowInner kRowInner = {MaxMagnitude, ToFloat, Quantize, Encode, EncodeQuotient, Finish};

void DecodeWeightRow(const Weight& weight, Precision precision, int64_t row, float* values) {
  const int64_t k = weight.k;
  const auto* bytes = weight.values.as<uint8_t>();
  switch (weight.format) {
    case QuantFormat::kPlain: {
      const uint8_t* source = bytes + row * k * DTypeSize(weight.values.dtype);
      for (int64_t i = 0; i < k; ++i) {
        values[i] = LoadElement(source, weight.values.dtype, i);
      }
      return;
    }
    case QuantFormat::kNested: {
      const uint8_t* upper = bytes + row * k;
      const uint8_t* lower = weight.lower.as<uint8_t>() + row * k;
      for (int64_t i = 0; i < k; ++i) {
        values[i] = precision == Precision::kExact ? Fp16ToFloat(NestedMerge(upper[i], lower[i]))
                                                   : E4m3ToFloat(upper[i]) * kNestedScale;
      }
      AddOutliers(weight, row, values);
      return;
    }
    case QuantFormat::kNested12: {
      const uint8_t* upper = bytes + row * k;
      const uint8_t* nibbles = weight.lower.as<uint8_t>() + row * ((k + 1) / 2);
      const int shift = weight.scales.as<int8_t>()[row];
      if (precision == Precision::kFp8) {
        for (int64_t i = 0; i < k; ++i) {
          values[i] = E4m3ToFloat(upper[i]) * Nested12RowScale(shift);
        }
        return;
      }
      for (int64_t i = 0; i < k; ++i) {
        const bool odd = i % 2 != 0;
        const auto nibble = static_cast<uint8_t>(odd ? nibbles[i / 2] >> 4 : nibbles[i / 2] & 15);
        values[i] = ScaleByPowerOfTwo(Nested12ToFloat({upper[i], nibble}, odd), -shift);
      }
      AddOutliers(weight, row, values);
      return;
    }
    default: {
      const ElementCodec& codec = GetQuantFormatInfo(weight.format).codec;
      const uint8_t* codes = bytes + row * k * codec.bits / 8;
      for (int64_t i = 0; i < k; ++i) {
        const uint8_t code = codec.bits == 8 ? codes[i]
                             : i % 2 == 0    ? codes[i / 2] & 15
                                             : codes[i / 2] >> 4;
        values[i] = codec.decode(code) * ScaleOf(weight, row, i);
      }
    }
  }
}

}  // namespace dualfp::reference
