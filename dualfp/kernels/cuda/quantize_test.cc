#include "dualfp/kernels/cuda/quantize.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "dualfp/base/error.h"
#include "dualfp/kernels/cuda/finish_sums.h"
#include "dualfp/kernels/cuda/gpu_test_util.h"
#include "dualfp/kernels/quantize.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp::cuda {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

uint16_t Encode(QuantizeType type, float v) {
  return type == QuantizeType::kF16 ? FloatToFp16(v) : FloatToBf16(v);
}
float Decode(QuantizeType type, uint16_t bits) {
  return type == QuantizeType::kF16 ? Fp16ToFloat(bits) : Bf16ToFloat(bits);
}
bool IsNan(uint8_t code) { return (code & 0x7F) == 0x7F; }

// Random values whose rows differ in size; one row is zero and one has tiny values.
std::vector<uint16_t> RandomMatrix(QuantizeType type, int64_t rows, int64_t columns,
                                   uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> values(rows * columns);
  for (int64_t m = 0; m < rows; ++m) {
    const float size = m % 7 == 2 ? 0.0f : m % 7 == 4 ? 1e-5f : std::ldexp(1.0f, m % 5 - 2);
    for (int64_t k = 0; k < columns; ++k) {
      values[m * columns + k] = Encode(type, size * normal(random));
    }
  }
  return values;
}

std::vector<float> RandomWeight(int64_t k, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  std::vector<float> weight(k);
  std::generate(weight.begin(), weight.end(), [&] { return normal(random); });
  return weight;
}

struct Result {
  std::vector<uint8_t> codes;  // permuted, as on the device
  std::vector<float> scales;
  std::vector<uint16_t> residual;
};

struct Shape {
  int64_t m;
  int64_t k;
};

constexpr Shape kShapes[] = {{1, 4096},  {3, 16},     {17, 144},  {63, 48},   {65, 1040},
                             {127, 128}, {257, 5120}, {1000, 80}, {2, 14336}, {5, 32768}};

class QuantizeGpuTest : public GpuTest {
 protected:
  Result Run(QuantizeArgs args, const std::vector<uint16_t>& x, const std::vector<float>& weight,
             const std::vector<uint16_t>& residual) {
    const GuardedDevice device_x(x);
    const GuardedDevice device_weight(weight);
    const GuardedDevice device_residual(residual);
    const GuardedDevice codes(args.m * args.k);
    const int64_t groups = args.group_stride == 0 ? 1 : (args.k + 127) / 128;
    const GuardedDevice scales((args.group_stride == 0 ? args.m : args.group_stride * groups) *
                               static_cast<int64_t>(sizeof(float)));
    args.x = device_x.as();
    args.weight = weight.empty() ? nullptr : device_weight.as<float>();
    args.residual = residual.empty() ? nullptr : device_residual.as();
    args.q = codes.as();
    args.scale = scales.as<float>();
    Quantize(args, stream_, true);
    return {codes.Read<uint8_t>(), scales.Read<float>(), device_residual.Read<uint16_t>()};
  }

  static QuantizeArgs Args(QuantizeSource source, QuantizeType type, const Shape& shape) {
    QuantizeArgs args;
    args.source = source;
    args.type = type;
    args.m = shape.m;
    args.k = shape.k;
    const bool pair =
        source == QuantizeSource::kSiluMul || source == QuantizeSource::kSiluMulHalves;
    args.x_stride = pair ? 2 * shape.k : shape.k;
    return args;
  }
};

TEST_F(QuantizeGpuTest, CodesAndScalesAreTheDefinition) {
  for (const QuantizeType type : {QuantizeType::kF16, QuantizeType::kBf16}) {
    for (const Shape& shape : kShapes) {
      const auto x = RandomMatrix(type, shape.m, shape.k, 5);
      for (const int64_t group : {int64_t{0}, kQuantizeGroup}) {
        for (const float fixed : {0.0f, 0.011f}) {
          if (fixed != 0 && group != 0) {
            continue;
          }
          QuantizeArgs args = Args(QuantizeSource::kPlain, type, shape);
          const GuardedDevice fixed_scale(std::vector<float>(1, fixed));
          // As a number or from the device's memory.
          args.static_scale = fixed == 0 || shape.m % 2 == 0 ? nullptr : fixed_scale.as<float>();
          args.fixed_scale = args.static_scale == nullptr ? fixed : 0.0f;
          args.group_stride = group == 0 ? 0 : (shape.m + 3) / 4 * 4;
          const Result result = Run(args, x, {}, {});
          const int64_t width = group == 0 ? shape.k : group;
          for (int64_t m = 0; m < shape.m; ++m) {
            for (int64_t begin = 0; begin < shape.k; begin += width) {
              const int64_t end = std::min(shape.k, begin + width);
              float amax = 0;
              for (int64_t k = begin; k < end; ++k) {
                amax = std::max(amax, std::fabs(Decode(type, x[m * shape.k + k])));
              }
              const float scale = fixed != 0 ? fixed : ActivationScale(amax);
              const int64_t at = group == 0 ? m : begin / 128 * args.group_stride + m;
              ASSERT_EQ(result.scales[at], scale) << m << " " << begin << " of " << shape.k;
              for (int64_t k = begin; k < end; ++k) {
                const float v = Decode(type, x[m * shape.k + k]);
                ASSERT_EQ(result.codes[m * shape.k + PermutedIndex(k)], FloatToE4m3(v / scale))
                    << v << " / " << scale << " at " << m << ", " << k << " of " << shape.k;
              }
            }
          }
        }
      }
    }
  }
}

TEST_F(QuantizeGpuTest, EveryChunkCountGivesTheSame) {
  for (const QuantizeSource source : {QuantizeSource::kPlain, QuantizeSource::kRmsNorm,
                                      QuantizeSource::kSiluMul, QuantizeSource::kSiluMulHalves}) {
    const Shape shape{19, 4112};
    QuantizeArgs args = Args(source, QuantizeType::kF16, shape);
    const auto x = RandomMatrix(args.type, shape.m, args.x_stride, 9);
    const std::vector<float> weight = RandomWeight(shape.k, 10);
    args.chunks = 1;
    const Result expected = Run(args, x, weight, x);
    for (const int chunks : {2, 4, 8}) {
      args.chunks = chunks;
      const Result result = Run(args, x, weight, x);
      EXPECT_EQ(result.residual, expected.residual);
      if (source == QuantizeSource::kRmsNorm) {
        continue;  // sums its squares in another order
      }
      EXPECT_EQ(result.codes, expected.codes) << chunks;
      EXPECT_EQ(result.scales, expected.scales) << chunks;
    }
  }
}

TEST_F(QuantizeGpuTest, NanKeepsToItselfAndInfinityPoisonsItsRow) {
  const Shape shape{3, 272};
  auto x = RandomMatrix(QuantizeType::kF16, shape.m, shape.k, 3);
  x[5] = 0x7E00;              // NaN
  x[shape.k + 100] = 0xFC00;  // -inf
  const Result result = Run(Args(QuantizeSource::kPlain, QuantizeType::kF16, shape), x, {}, {});
  EXPECT_TRUE(IsNan(result.codes[PermutedIndex(5)]));
  EXPECT_EQ(std::count_if(result.codes.begin(), result.codes.begin() + shape.k, IsNan), 1);
  EXPECT_TRUE(std::isfinite(result.scales[0]));
  EXPECT_TRUE(std::isinf(result.scales[1]));
}

// |q s - y| within half a step of E4M3, and the scale that the row's largest value asks for.
void ExpectQuantized(const Result& result, const std::vector<double>& y, const Shape& shape,
                     double tolerance) {
  for (int64_t m = 0; m < shape.m; ++m) {
    double amax = 0;
    for (int64_t k = 0; k < shape.k; ++k) {
      amax = std::max(amax, std::fabs(y[m * shape.k + k]));
    }
    const double scale = result.scales[m];
    ASSERT_NEAR(scale, amax == 0 ? 1 : amax / 448, tolerance * amax / 448) << m;
    for (int64_t k = 0; k < shape.k; ++k) {
      const double expected = y[m * shape.k + k];
      const double got = E4m3ToFloat(result.codes[m * shape.k + PermutedIndex(k)]) * scale;
      ASSERT_NEAR(got, expected, (0x1p-4 + tolerance) * std::fabs(expected) + 0x1.01p-10 * scale)
          << m << ", " << k << " of " << shape.k;
    }
  }
}

TEST_F(QuantizeGpuTest, RmsNormWithResidual) {
  for (const QuantizeType type : {QuantizeType::kF16, QuantizeType::kBf16}) {
    for (const Shape& shape : kShapes) {
      for (const bool has_residual : {false, true}) {
        QuantizeArgs args = Args(QuantizeSource::kRmsNorm, type, shape);
        const auto x = RandomMatrix(type, shape.m, shape.k, 21);
        const std::vector<float> weight = RandomWeight(shape.k, 22);
        auto residual = RandomMatrix(type, has_residual ? shape.m : 0, shape.k, 23);
        const Result result = Run(args, x, weight, residual);
        std::vector<double> y(shape.m * shape.k);
        for (int64_t m = 0; m < shape.m; ++m) {
          double squares = 0;
          for (int64_t k = 0; k < shape.k; ++k) {
            const int64_t i = m * shape.k + k;
            float h = Decode(type, x[i]);
            if (has_residual) {
              residual[i] = Encode(type, h + Decode(type, residual[i]));
              h = Decode(type, residual[i]);
            }
            y[i] = h;
            squares += y[i] * y[i];
          }
          const double factor = 1 / std::sqrt(squares / static_cast<double>(shape.k) + 1e-5f);
          for (int64_t k = 0; k < shape.k; ++k) {
            y[m * shape.k + k] *= factor * weight[k];
          }
        }
        ASSERT_EQ(result.residual, residual);
        ExpectQuantized(result, y, shape, 1e-5);
      }
    }
  }
}

TEST_F(QuantizeGpuTest, SiluMulOfBothLayouts) {
  for (const QuantizeType type : {QuantizeType::kF16, QuantizeType::kBf16}) {
    for (const bool halves : {false, true}) {
      for (const Shape& shape : kShapes) {
        const auto x = RandomMatrix(type, shape.m, 2 * shape.k, 31);
        const Result result = Run(
            Args(halves ? QuantizeSource::kSiluMulHalves : QuantizeSource::kSiluMul, type, shape),
            x, {}, {});
        std::vector<double> y(shape.m * shape.k);
        for (int64_t m = 0; m < shape.m; ++m) {
          for (int64_t k = 0; k < shape.k; ++k) {
            const int64_t row = m * 2 * shape.k;
            const double gate = Decode(type, x[row + (halves ? k : 2 * k)]);
            const double up = Decode(type, x[row + (halves ? shape.k + k : 2 * k + 1)]);
            y[m * shape.k + k] =
                Decode(type, Encode(type, static_cast<float>(gate / (1 + std::exp(-gate)) * up)));
          }
        }
        // A product that falls on the other side of a rounding to the element type.
        ExpectQuantized(result, y, shape, type == QuantizeType::kF16 ? 0x1p-9 : 0x1p-6);
      }
    }
  }
}

// The fused kernel against the two that it replaces.
TEST_F(QuantizeGpuTest, FusedSiluMulEqualsStoringInBetween) {
  const Shape shape{37, 1040};
  const auto x = RandomMatrix(QuantizeType::kF16, shape.m, 2 * shape.k, 41);
  std::vector<float> sums(x.size());
  std::transform(x.begin(), x.end(), sums.begin(), Fp16ToFloat);
  const GuardedDevice device_sums(sums);
  const GuardedDevice stored(shape.m * shape.k * 2);
  FinishArgs finish;
  finish.sums = device_sums.as<float>();
  finish.m = shape.m;
  finish.n = 2 * shape.k;
  finish.y = stored.as();
  finish.y_stride = shape.k;
  finish.silu_mul = true;
  FinishSums(finish, stream_);
  const Result two =
      Run(Args(QuantizeSource::kPlain, QuantizeType::kF16, shape), stored.Read<uint16_t>(), {}, {});
  const Result one = Run(Args(QuantizeSource::kSiluMul, QuantizeType::kF16, shape), x, {}, {});
  EXPECT_EQ(one.scales, two.scales);
  EXPECT_EQ(one.codes, two.codes);
}

TEST_F(QuantizeGpuTest, PerTensor) {
  for (const QuantizeType type : {QuantizeType::kF16, QuantizeType::kBf16}) {
    // The last is more than a device keeps in registers and in shared memory.
    for (const Shape& shape : {Shape{1, 16}, Shape{3, 144}, Shape{257, 5120}, Shape{3001, 8192}}) {
      for (const int64_t gap : {0, 8}) {
        if (shape.m > 1000 && (type == QuantizeType::kBf16 || gap != 0)) {
          continue;
        }
        const int64_t stride = shape.k + gap;
        const auto x = RandomMatrix(type, shape.m, stride, 51);
        const GuardedDevice device_x(x);
        const GuardedDevice codes(shape.m * shape.k);
        const GuardedDevice scale(kPerTensorFloats * static_cast<int64_t>(sizeof(float)));
        QuantizePerTensor(device_x.as(), stride, type, shape.m, shape.k, codes.as(),
                          scale.as<float>(), stream_);
        float amax = 0;
        for (int64_t m = 0; m < shape.m; ++m) {
          for (int64_t k = 0; k < shape.k; ++k) {
            amax = std::max(amax, std::fabs(Decode(type, x[m * stride + k])));
          }
        }
        const float expected = ActivationScale(amax);
        ASSERT_EQ(scale.Read<float>()[0], expected);
        const std::vector<uint8_t> q = codes.Read<uint8_t>();
        for (int64_t m = 0; m < shape.m; ++m) {
          for (int64_t k = 0; k < shape.k; ++k) {
            ASSERT_EQ(q[m * shape.k + PermutedIndex(k)],
                      FloatToE4m3(Decode(type, x[m * stride + k]) / expected))
                << m << ", " << k;
          }
        }
      }
    }
  }
}

// Needs no GPU: arguments are checked before anything is enqueued.
TEST(QuantizeArgumentsTest, SaysWhatIsWrong) {
  alignas(16) uint8_t memory[64];
  QuantizeArgs good;
  good.m = 1;
  good.k = 16;
  good.x = memory;
  good.x_stride = 16;
  good.q = memory;
  good.scale = reinterpret_cast<float*>(memory);
  const auto expect = [&](const char* message, auto change) {
    QuantizeArgs args = good;
    change(args);
    EXPECT_THAT([&] { Quantize(args, nullptr, false); }, ThrowsMessage<Error>(HasSubstr(message)));
  };
  expect("K = 24", [](QuantizeArgs& a) { a.k = 24; });
  expect("K = 0", [](QuantizeArgs& a) { a.k = 0; });
  expect("up to 32768", [](QuantizeArgs& a) { a.k = 32784; });
  expect("x, q, scale", [](QuantizeArgs& a) { a.x = nullptr; });
  expect("and weight", [](QuantizeArgs& a) { a.source = QuantizeSource::kRmsNorm; });
  expect("multiples of 16 bytes", [&](QuantizeArgs& a) { a.x = memory + 2; });
  expect("multiples of 16 bytes", [](QuantizeArgs& a) { a.x_stride = 18; });
  expect("group stride -1", [](QuantizeArgs& a) { a.group_stride = -1; });
  expect("static scale", [](QuantizeArgs& a) {
    a.static_scale = a.scale;
    a.group_stride = 4;
  });
  expect("3 chunks", [](QuantizeArgs& a) { a.chunks = 3; });
  EXPECT_THAT(
      [&] {
        QuantizePerTensor(memory, 24, QuantizeType::kF16, 1, 24, memory,
                          reinterpret_cast<float*>(memory), nullptr);
      },
      ThrowsMessage<Error>(HasSubstr("K = 24")));
}

}  // namespace
}  // namespace dualfp::cuda
