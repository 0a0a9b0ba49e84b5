// How a weight matrix is stored, and at which precisions it can compute.

#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace dualfp {

// What a caller asks for at each call, per step and per layer.
enum class Precision : uint8_t { kFp16, kFp8, kFp4 };

// "fp16", "fp8", "fp4".
std::string_view PrecisionName(Precision precision);
std::optional<Precision> ParsePrecision(std::string_view name);

enum class QuantFormat : uint8_t {
  kPlain,   // F16, BF16 or F32 values as in the checkpoint
  kNested,  // two byte planes: E4M3 upper, exact FP16 with the lower (formats.md, NestedFP)
  kFp8,     // E4M3 values and scales
  kNvfp4,   // E2M1 values, one E4M3 scale per 16, one F32 scale per tensor
  kMxfp4,   // E2M1 values, one E8M0 scale per 32
  kMxfp8,   // E4M3 values, one E8M0 scale per 32
};

// Over what a scale is shared.
enum class ScaleGranularity : uint8_t {
  kNone,
  kPerTensor,   // [1]
  kPerChannel,  // [N]: one for each output row of the weight
  kBlock128,    // [ceil(N/128), ceil(K/128)]
  kGroup,       // [N, K/group_size]: group_size is the format's
};

// One row per format. `bits_fp16` and `bits_fp8` are the weight bits that a GEMM at that precision
// reads per element, scales included (amortised); 0 where the format does not offer it.
struct QuantFormatInfo {
  QuantFormat format;
  std::string_view name;
  int group_size;     // elements along K that share a scale; 0 where scales are not grouped
  float bits_stored;  // per element, scales included
  float bits_fp16;
  float bits_fp8;
  float bits_fp4;
};

std::span<const QuantFormatInfo> QuantFormats();
const QuantFormatInfo& GetQuantFormatInfo(QuantFormat format);

}  // namespace dualfp
