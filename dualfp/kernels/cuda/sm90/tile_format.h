#pragma once

namespace dualfp::sm90 {

enum class WeightFormat : int {
  kNested,        // two byte planes, decoded to FP16; X is FP16
  kNested12F16,   // Nested12 planes, decoded to FP16; X is FP16
  kNested12Bf16,  // the same planes, decoded to BF16; X is BF16
  kE4m3,          // E4M3 weights (or an upper plane); X is E4M3
  kE4m3Promoted,  // the same, sums promoted to FP32 every 128 of K, where scales may change
  kF16,           // as they are; X is FP16
  kBf16,          // as they are; X is BF16
};

constexpr bool IsPlain(WeightFormat format) {
  return format == WeightFormat::kF16 || format == WeightFormat::kBf16;
}

constexpr bool IsNested12(WeightFormat format) {
  return format == WeightFormat::kNested12F16 || format == WeightFormat::kNested12Bf16;
}

// Of two planes, which are decoded on the way to the tensor cores.
constexpr bool IsDecoded(WeightFormat format) {
  return format == WeightFormat::kNested || IsNested12(format);
}

// X is E4M3.
constexpr bool IsE4m3(WeightFormat format) {
  return format == WeightFormat::kE4m3 || format == WeightFormat::kE4m3Promoted;
}

}  // namespace dualfp::sm90
