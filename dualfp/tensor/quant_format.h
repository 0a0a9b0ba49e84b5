// How a weight matrix is stored, and at which precisions it can compute.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "dualfp/numeric/fp4.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp {

// What a caller asks for at each call, per step and per layer. kExact is the exact weight: FP16's,
// or BF16's where the checkpoint is BF16.
enum class Precision : uint8_t { kExact, kFp8, kFp4 };

// "exact", "fp8", "fp4".
std::string_view PrecisionName(Precision precision);
// Also by the alias of "exact", "fp16".
std::optional<Precision> ParsePrecision(std::string_view name);

// What happens to a layer's input X [M, K] before a product at kFp8 (kernels/quantize.h has the
// arithmetic). Every scale is F32 but kDynamicMx's.
enum class ActivationQuant : uint8_t {
  kNone,              // weight-only: X is used as it is
  kDynamicPerToken,   // s[m] = amax(X[m,:]) / 448, X/s rounded to E4M3 (the default at kFp8)
  kDynamicPerTensor,  // one s for all rows: rows of a batch then depend on each other
  kStaticPerTensor,   // s = Weight::input_scale
  // s[m,g] = amax / 448 over kActivationGroup consecutive elements of a row, as checkpoints with
  // 128x128 weight blocks expect.
  kDynamicPerGroup,
  // s[m,g] = 2^ceil(log2(amax / 448)) over kMxGroup consecutive elements, as MXFP8 weights expect.
  kDynamicMx,
};

inline constexpr int64_t kActivationGroup = 128;  // of kDynamicPerGroup
inline constexpr int64_t kMxGroup = 32;           // of kDynamicMx and of MX weights

// "weight-only", "per-token", "per-tensor", "static", "per-group", "mx".
std::string_view ActivationQuantName(ActivationQuant quant);

// Whether scales lie along K, so that a row has several.
constexpr bool HasGroupScales(ActivationQuant quant) {
  return quant == ActivationQuant::kDynamicPerGroup || quant == ActivationQuant::kDynamicMx;
}

// Over what a scale is shared.
enum class ScaleGranularity : uint8_t {
  kNone,
  kPerTensor,   // [1]
  kPerChannel,  // [N]: one for each output row of the weight
  kBlock128,    // [blocks of 128 rows, ceil(K/128)]: RowParts (row_parts.h) maps rows to blocks
  kGroup,       // [N, K/group_size]: group_size is the format's
};

// Bits that a GEMM reads per element at each precision, scales included (amortised); 0 where the
// format does not offer it.
struct BitsPerWeight {
  float stored = 0;
  float fp16 = 0;
  float fp8 = 0;
  float fp4 = 0;
};

// Elements as codes of their own, times a scale. Codes of 4 bits lie two a byte, even k in the low
// nibble. Formats whose planes mean something else together (plain, nested) have no codec.
struct ElementCodec {
  int bits = 0;   // of a code: 4 or 8; 0: no codec
  float max = 0;  // the largest value of a code
  float (*decode)(uint8_t code) = nullptr;
  uint8_t (*encode)(float value) = nullptr;  // nearest, saturating
};

// What a format is: all that loading, quantizing and the reference kernels need to know. `values`
// is the dtype of Weight::values (kPlain: the checkpoint's). Formats with a codec have scales per
// tensor, channel or 128x128 block, or, with a group_size, per so many elements along K.
struct QuantFormatInfo {
  std::string_view name;
  BitsPerWeight bits;
  DType values = DType::kF8E4M3;
  ElementCodec codec;
  int group_size = 0;
  DType scales = DType::kF32;  // F32; F8_E4M3 with a global F32 scale; or F8_E8M0
};

inline constexpr ElementCodec kE4m3Codec{8, kE4m3Max, E4m3ToFloat, FloatToE4m3};
inline constexpr ElementCodec kE2m1Codec{4, kE2m1Max, E2m1ToFloat, FloatToE2m1};

// Weight formats. A new one is an enumerator and its row, in the same place of both.
enum class QuantFormat : uint8_t { kPlain, kNested, kNested12, kFp8, kNvfp4, kMxfp4, kMxfp8 };
inline constexpr std::array kQuantFormats = {
    QuantFormatInfo{"plain", {16, 16}, DType::kF16},
    QuantFormatInfo{"nested", {16, 16, 8}},    // E4M3 upper, exact FP16 with the lower (formats.md)
    QuantFormatInfo{"nested12", {12, 12, 8}},  // E4M3 upper, exact BF16 with a nibble
    QuantFormatInfo{"fp8", {8, 8, 8}, DType::kF8E4M3, kE4m3Codec},
    QuantFormatInfo{"nvfp4", {4.5, 4.5, 4.5, 4.5}, DType::kU8, kE2m1Codec, 16, DType::kF8E4M3},
    QuantFormatInfo{"mxfp4", {4.25, 4.25, 4.25, 4.25}, DType::kU8, kE2m1Codec, 32, DType::kF8E8M0},
    QuantFormatInfo{"mxfp8", {8.25, 8.25, 8.25}, DType::kF8E4M3, kE4m3Codec, 32, DType::kF8E8M0},
};

// "none", "tensor", "channel", "block", "group".
std::string_view ScaleGranularityName(ScaleGranularity granularity);

constexpr const QuantFormatInfo& GetQuantFormatInfo(QuantFormat format) {
  return kQuantFormats.at(static_cast<size_t>(format));
}

// Whether the format offers a precision.
constexpr bool Offers(const QuantFormatInfo& info, Precision precision) {
  return (precision == Precision::kExact ? info.bits.fp16
          : precision == Precision::kFp8 ? info.bits.fp8
                                         : info.bits.fp4) > 0;
}

}  // namespace dualfp
