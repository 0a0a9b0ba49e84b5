#pragma once

namespace dualfp::sm90 {

enum class WeightFormat : int {
  kNested,        // two byte planes, decoded to FP16; X is FP16
  kE4m3,          // E4M3 weights (or an upper plane); X is E4M3
  kE4m3Promoted,  // the same, sums promoted to FP32 every 128 of K, where scales may change
  kF16,           // as they are; X is FP16
  kBf16,          // as they are; X is BF16
};

constexpr bool IsPlain(WeightFormat format) {
  return format == WeightFormat::kF16 || format == WeightFormat::kBf16;
}

}  // namespace dualfp::sm90
