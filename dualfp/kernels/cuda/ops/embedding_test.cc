// Rows of tables that lie as Hopper's products want them; other tables are in elementwise_test.cc.

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "dualfp/kernels/backend_test_util.h"
#include "dualfp/kernels/cuda/gpu_test_util.h"
#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cuda {
namespace {

constexpr int64_t kRows = 130;  // more than two lists of tiny weights
constexpr int64_t kWidth = 144;

class EmbeddingGpuTest : public GpuTest {
 protected:
  void Check(const Weight& weight, OpsDevice& device, const std::vector<float>& expected) {
    const std::vector<int32_t> tokens = {129, 0, 3, 64, 63, 77};
    const auto count = static_cast<int64_t>(tokens.size());
    const Backend& backend = BestBackend(DeviceType::kCuda);
    for (const DType dtype : backend.activations) {
      const TensorView y =
          device.PutFloats(std::vector<float>(count * kWidth, NAN), dtype, {count, kWidth});
      backend.ops->embedding(device.context(),
                             {.weight = &weight, .token = device.PutInts(tokens), .y = y});
      const std::vector<float> got = device.GetFloats(y);
      for (int64_t t = 0; t < count; ++t) {
        for (int64_t i = 0; i < kWidth; ++i) {
          ASSERT_EQ(got[t * kWidth + i], RoundedAs(dtype, expected[tokens[t] * kWidth + i]))
              << tokens[t] << ", " << i;
        }
      }
    }
  }

  static std::vector<float> Random(uint32_t seed) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(kRows * kWidth);
    for (float& value : values) {
      value = normal(random);
    }
    return values;
  }
};

TEST_F(EmbeddingGpuTest, NestedPlanes) {
  OpsDevice device(BestBackend(DeviceType::kCuda));
  const std::vector<float> source = Random(1);
  std::vector<uint8_t> upper(kRows * kWidth), lower(kRows * kWidth);
  std::vector<int64_t> index;
  std::vector<float> remainder, exact(kRows * kWidth);
  for (int64_t i = 0; i < kRows * kWidth; ++i) {
    uint16_t bits = FloatToFp16(source[i]);
    exact[i] = Fp16ToFloat(bits);
    if (!NestedEligible(bits)) {
      bits = static_cast<uint16_t>((bits & 0x8000) | kNestedMaxBits);
      index.push_back(i);
      remainder.push_back(exact[i] - Fp16ToFloat(bits));
    }
    const NestedBytes bytes = NestedSplit(bits);
    const int64_t at = i / kWidth * kWidth + PermutedIndex(i % kWidth);
    upper[at] = bytes.upper;
    lower[at] = static_cast<uint8_t>(NestedDeviceLower(bytes.upper, bytes.lower));
  }
  ASSERT_GT(index.size(), 100u);
  const auto count = static_cast<int64_t>(index.size());
  Weight weight{.format = QuantFormat::kNested, .n = kRows, .k = kWidth};
  weight.layout = WeightLayout::kSm90;
  weight.values = device.Put(upper, DType::kF8E4M3, {kRows, kWidth});
  weight.lower = device.Put(lower, DType::kU8, {kRows, kWidth});
  weight.outliers.index = device.Put(index, DType::kI64, {count});
  weight.outliers.value = device.Put(remainder, DType::kF32, {count});
  Check(weight, device, exact);
}

TEST_F(EmbeddingGpuTest, Nested12Planes) {
  OpsDevice device(BestBackend(DeviceType::kCuda));
  const std::vector<float> source = Random(2);
  std::vector<uint8_t> upper(kRows * kWidth), nibbles(NibblePlaneBytes(kRows, kWidth));
  std::vector<float> scales(kRows), exact(kRows * kWidth);
  std::vector<int64_t> index;
  std::vector<uint16_t> remainder;
  for (int64_t row = 0; row < kRows; ++row) {
    const int shift = static_cast<int>(-3 - row % 5);
    scales[row] = std::ldexp(1.0f, -shift);
    for (int64_t k = 0; k < kWidth; ++k) {
      const int64_t i = row * kWidth + k;
      const uint16_t bits = FloatToBf16(i % 7 == 0 ? source[i] * 1e-5f : source[i]);
      exact[i] = Bf16ToFloat(bits);
      const Nested12Weight split = Nested12Split(bits, shift, k % 2 != 0);
      upper[row * kWidth + PermutedIndex(k)] = split.bits.upper;
      const int64_t at = (k / kNibbleBlock * kRows + row) * (kNibbleBlock / 2) +
                         k % kNibbleBlock / 32 * 16 + PermutedIndex(k % 16);
      nibbles[at] |= static_cast<uint8_t>(split.bits.nibble << (k % 32 >= 16 ? 4 : 0));
      if (split.remainder != 0.0f) {
        index.push_back(i);
        remainder.push_back(FloatToBf16(std::ldexp(split.remainder, shift)));
      }
    }
  }
  ASSERT_GT(index.size(), 64u * 32u) << "lists go on";
  const std::vector<TinyWeight> tiny = MakeTinyBatches(kRows, kWidth, index, remainder);
  Weight weight{.format = QuantFormat::kNested12, .n = kRows, .k = kWidth};
  weight.layout = WeightLayout::kSm90;
  weight.values = device.Put(upper, DType::kF8E4M3, {kRows, kWidth});
  weight.lower = device.Put(nibbles, DType::kU8, {static_cast<int64_t>(nibbles.size())});
  weight.scales = device.Put(scales, DType::kF32, {kRows});
  weight.tiny = device.Put(tiny, DType::kI64, {static_cast<int64_t>(tiny.size())});
  Check(weight, device, exact);
}

}  // namespace
}  // namespace dualfp::cuda
