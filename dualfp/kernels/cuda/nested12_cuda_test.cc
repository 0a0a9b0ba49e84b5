// Nested12 on the GPU: planes against numeric/nested12.h, weight by weight, and every plan of the
// Hopper kernels against the weights that the planes were made of.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <functional>
#include <numeric>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/base/watchdog.h"
#include "dualfp/kernels/cuda/gpu_test_util.h"
#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cuda {
namespace {

using sm90::WeightFormat;

struct Shape {
  int m, n, k;
};

// Rows of very different sizes; of each hundred weights some zeros (of both signs), ties and tiny
// ones of all exponents. One row of sixteen has more tiny ones than a batch has places.
std::vector<uint16_t> RandomWeights(int64_t n, int64_t k, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<uint16_t> w(n * k);
  for (int64_t row = 0; row < n; ++row) {
    const float size = std::ldexp(1.0f, static_cast<int>(random() % 20) - 15);
    for (int64_t i = 0; i < k; ++i) {
      float v = normal(random) * size;
      const uint64_t kind = random() % (row % 16 == 3 ? 8 : 128);
      if (kind == 0) {
        v = std::ldexp(v, -14 - static_cast<int>(random() % 24));
      } else if (kind == 1 && row % 16 != 3) {
        v = std::signbit(v) ? -0.0f : 0.0f;
      }
      w[row * k + i] = FloatToBf16(v);
    }
  }
  if (n >= 32) {
    std::fill_n(w.begin() + 17 * k, k, uint16_t{0});
    w[18 * k] = 0x0001;  // a row of subnormals
    std::fill_n(w.begin() + 18 * k + 1, k - 1, uint16_t{0x8003});
  }
  return w;
}

// What the planes should be.
struct HostPlanes {
  std::vector<uint8_t> upper;
  std::vector<uint8_t> nibbles;
  std::vector<float> row_scale;
  std::vector<int64_t> tiny_index;
  std::vector<uint16_t> tiny_bf16;

  HostPlanes(const std::vector<uint16_t>& w, int64_t n, int64_t k)
      : upper(n * k), nibbles(NibblePlaneBytes(n, k)), row_scale(n) {
    for (int64_t row = 0; row < n; ++row) {
      uint16_t largest = 0;
      for (int64_t i = 0; i < k; ++i) {
        largest = std::max<uint16_t>(largest, w[row * k + i] & 0x7fff);
      }
      const int shift = Nested12RowShift(largest);
      row_scale[row] = std::ldexp(1.0f, -shift);
      for (int64_t i = 0; i < (k + 127) / 128 * 128; ++i) {
        const bool odd = i % 2 != 0;
        Nested12Weight weight = Nested12Split(0, 0, odd);
        if (i < k) {
          weight = Nested12Split(w[row * k + i], shift, odd);
          upper[row * k + PermutedIndex(i)] = weight.bits.upper;
          if (weight.remainder != 0) {
            tiny_index.push_back(row * k + i);
            tiny_bf16.push_back(FloatToBf16(std::ldexp(weight.remainder, shift)));
          }
        }
        uint8_t& byte =
            nibbles[(i / 128 * n + row) * 64 + i % 128 / 32 * 16 + PermutedIndex(i % 16)];
        byte |= weight.bits.nibble << (i % 32 < 16 ? 0 : 4);
      }
    }
  }
};

TEST(Nested12BatchesTest, ListsGoOnInFurtherBatches) {
  constexpr int64_t kK = 64;
  std::vector<int64_t> index;
  std::vector<uint16_t> bf16;
  for (int64_t i = 0; i < 40; ++i) {  // of rows 64..127: more than one batch has
    index.push_back((64 + i % 64) * kK + 63 - i);
  }
  std::sort(index.begin(), index.end());
  for (size_t i = 0; i < index.size(); ++i) {
    bf16.push_back(static_cast<uint16_t>(i + 1));
  }
  const std::vector<TinyWeight> batches = MakeTinyBatches(144, kK, index, bf16);
  ASSERT_EQ(batches.size(), 4 * kTinyBatch);
  for (const size_t empty : {0, 2}) {
    for (int i = 0; i < kTinyBatch; ++i) {
      EXPECT_EQ(batches[empty * kTinyBatch + i].k, kNoTinyWeight);
    }
  }
  EXPECT_EQ(batches[2 * kTinyBatch - 1].k, 3u);
  EXPECT_EQ(batches[4 * kTinyBatch - 1].k, kNoTinyWeight);
  uint32_t last = 0;
  for (int i = 0; i < 40; ++i) {
    const TinyWeight& tiny = batches[i < 31 ? kTinyBatch + i : 3 * kTinyBatch + i - 31];
    EXPECT_GE(tiny.k, last);
    last = tiny.k;
    const int64_t at = (64 + tiny.row) * kK + tiny.k;
    const auto found = std::lower_bound(index.begin(), index.end(), at);
    ASSERT_TRUE(found != index.end() && *found == at) << at;
    EXPECT_EQ(tiny.bf16, bf16[found - index.begin()]);
  }
  EXPECT_EQ(batches[3 * kTinyBatch + 9].k, kNoTinyWeight);
}

TEST(Nested12BatchesTest, IndicesBeyondTheWeightAreRefused) {
  const std::vector<int64_t> index = {16 * 32};
  const std::vector<uint16_t> bf16 = {1};
  EXPECT_THROW(MakeTinyBatches(16, 32, index, bf16), Error);
  EXPECT_THROW(MakeTinyBatches(32, 32, index, {}), Error);
}

class Nested12GpuTest : public GpuTest {};

// Planes of a weight in GPU memory.
struct DevicePlanes {
  GuardedDevice w;
  GuardedDevice upper;
  GuardedDevice nibbles;
  GuardedDevice row_scale;
  Nested12Counts counts{};
  std::vector<int64_t> index;  // ascending
  std::vector<uint16_t> bf16;
  GuardedDevice tiny;

  DevicePlanes(const std::vector<uint16_t>& bits, int64_t n, int64_t k, cudaStream_t stream,
               int64_t capacity = 1 << 18)
      : w(bits),
        upper(n * k),
        nibbles(NibblePlaneBytes(n, k)),
        row_scale(n * 4),
        tiny(Split(n, k, stream, capacity)) {}

 private:
  // Fills all but `tiny`, and returns what that should hold.
  std::vector<TinyWeight> Split(int64_t n, int64_t k, cudaStream_t stream, int64_t capacity) {
    const GuardedDevice device_counts(std::vector<Nested12Counts>(1));
    const GuardedDevice device_index(capacity * 8);
    const GuardedDevice device_bf16(capacity * 2);
    const TinySink sink{device_counts.as<Nested12Counts>(), device_index.as<int64_t>(),
                        device_bf16.as<uint16_t>(), capacity};
    SplitNested12(w.as(), n, k, upper.as(), nibbles.as(), row_scale.as<float>(), sink, stream);
    counts = device_counts.Read<Nested12Counts>()[0];
    const auto count = std::min<int64_t>(static_cast<int64_t>(counts.tiny), capacity);
    const std::vector<int64_t> listed = device_index.Read<int64_t>();
    const std::vector<uint16_t> values = device_bf16.Read<uint16_t>();
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](int64_t a, int64_t b) { return listed[a] < listed[b]; });
    for (const int64_t i : order) {
      index.push_back(listed[i]);
      bf16.push_back(values[i]);
    }
    return MakeTinyBatches(n, k, index, bf16);
  }
};

TEST_F(Nested12GpuTest, PlanesAreThoseOfTheHost) {
  for (const auto& [n, k] :
       {std::pair<int64_t, int64_t>{32, 16}, {16, 144}, {272, 400}, {48, 1040}, {4096, 256}}) {
    SCOPED_TRACE(StrCat(n, " x ", k));
    const std::vector<uint16_t> w = RandomWeights(n, k, n + k);
    const HostPlanes host(w, n, k);
    const DevicePlanes device(w, n, k, stream_);
    EXPECT_EQ(device.upper.Read<uint8_t>(), host.upper);
    EXPECT_EQ(device.nibbles.Read<uint8_t>(), host.nibbles);
    EXPECT_EQ(device.row_scale.Read<float>(), host.row_scale);
    EXPECT_EQ(device.index, host.tiny_index);
    EXPECT_EQ(device.bf16, host.tiny_bf16);
    EXPECT_EQ(device.counts.tiny, host.tiny_index.size());
    EXPECT_EQ(device.counts.non_finite, 0u);
    EXPECT_GT(host.tiny_index.size(), 0u);

    GuardedDevice merged(n * k * 2);
    MergeNested12(device.upper.as(), device.nibbles.as(), device.row_scale.as<float>(),
                  device.tiny.as<TinyWeight>(), n, k, merged.as(), stream_);
    EXPECT_EQ(merged.Read<uint16_t>(), w);
  }
}

TEST_F(Nested12GpuTest, NibblesOfADiskAreThoseOfSplit) {
  constexpr int64_t kN = 48;
  for (const int64_t k : {16, 144, 400}) {
    const std::vector<uint16_t> w = RandomWeights(kN, k, k);
    std::vector<uint8_t> disk(kN * k / 2);
    for (int64_t row = 0; row < kN; ++row) {
      uint16_t largest = 0;
      for (int64_t i = 0; i < k; ++i) {
        largest = std::max<uint16_t>(largest, w[row * k + i] & 0x7fff);
      }
      for (int64_t i = 0; i < k; ++i) {
        const Nested12Weight weight =
            Nested12Split(w[row * k + i], Nested12RowShift(largest), i % 2 != 0);
        disk[(row * k + i) / 2] |= weight.bits.nibble << (i % 2 * 4);
      }
    }
    const GuardedDevice in(disk);
    const GuardedDevice out(NibblePlaneBytes(kN, k));
    NibblesToDevice(in.as(), kN, k, out.as(), stream_);
    EXPECT_EQ(out.Read<uint8_t>(), HostPlanes(w, kN, k).nibbles) << k;
  }
}

TEST_F(Nested12GpuTest, APieceIsWhereItsRowsAre) {
  constexpr int64_t kN = 64;
  constexpr int64_t kK = 272;
  const std::vector<uint16_t> w = RandomWeights(kN, kK, 5);
  const HostPlanes host(w, kN, kK);
  const GuardedDevice device_w(w);
  const GuardedDevice upper(kN * kK);
  const GuardedDevice nibbles(NibblePlaneBytes(kN, kK));
  const GuardedDevice row_scale(kN * 4);
  const GuardedDevice counts(std::vector<Nested12Counts>(1));
  const TinySink sink{counts.as<Nested12Counts>()};
  for (const auto& [first, rows] : {std::pair<int64_t, int64_t>{16, 48}, {0, 16}}) {
    SplitNested12(device_w.as<uint16_t>() + first * kK, rows, kK, upper.as<uint8_t>() + first * kK,
                  nibbles.as(), row_scale.as<float>() + first, sink, stream_, first, kN);
  }
  EXPECT_EQ(upper.Read<uint8_t>(), host.upper);
  EXPECT_EQ(nibbles.Read<uint8_t>(), host.nibbles);
  EXPECT_EQ(row_scale.Read<float>(), host.row_scale);
  EXPECT_EQ(counts.Read<Nested12Counts>()[0].tiny, host.tiny_index.size());
}

TEST_F(Nested12GpuTest, NotANumberIsCountedAndFound) {
  std::vector<uint16_t> w = RandomWeights(32, 144, 6);
  w[20 * 144 + 7] = 0x7fc0;
  w[25 * 144] = 0xff80;
  const DevicePlanes device(w, 32, 144, stream_);
  EXPECT_EQ(device.counts.non_finite, 2u);
  EXPECT_EQ(~device.counts.not_before, 20u * 144 + 7);
}

TEST_F(Nested12GpuTest, WhatExceedsTheListIsCounted) {
  const std::vector<uint16_t> w = RandomWeights(32, 1040, 7);
  const DevicePlanes device(w, 32, 1040, stream_, 5);
  EXPECT_EQ(device.index.size(), 5u);
  EXPECT_EQ(device.counts.tiny, HostPlanes(w, 32, 1040).tiny_index.size());
}

// A product on raw pointers. X and Y have the format's type, or Y is FP32.
class PlanProblem {
 public:
  PlanProblem(WeightFormat format, const Shape& shape, cudaStream_t stream)
      : shape_(shape),
        bf16_(format == WeightFormat::kNested12Bf16),
        w_(RandomWeights(shape.n, shape.k, shape.n * 31 + shape.k)),
        planes_(w_, shape.n, shape.k, stream),
        x_(int64_t{shape.m} * shape.k * 2),
        y_(int64_t{shape.m} * Stride() * 4),
        workspace_(sm90::kWorkspaceBytes) {
    sm90::InitWorkspace(workspace_.as(), stream);
    problem.format = format;
    problem.m = shape.m;
    problem.n = shape.n;
    problem.k = shape.k;
    problem.w = planes_.upper.as();
    problem.w_lower = planes_.nibbles.as();
    problem.tiny = planes_.tiny.as<TinyWeight>();
    problem.x = x_.as();
    problem.x_stride = shape.k;
    problem.epilogue.w_scale = planes_.row_scale.as<float>();
    problem.epilogue.w_scale_stride = 1;
    problem.epilogue.y = y_.as();
    problem.epilogue.y_stride = Stride();
    problem.epilogue.y_type = bf16_ ? sm90::OutputType::kBf16 : sm90::OutputType::kF16;
    problem.workspace = workspace_.as();
  }

  // Token m picks column (first + m) of W.
  void SetOneHot(int first) {
    std::vector<uint16_t> x(int64_t{shape_.m} * shape_.k, 0);
    for (int m = 0; m < shape_.m; ++m) {
      x[int64_t{m} * shape_.k + (first + m) % shape_.k] = Bits(1.0f);
    }
    x_.Write(x.data(), x_.bytes());
    // Wide tiles round v in FP16 fragments, to units of 2^-24; Y is rounded in all.
    const std::vector<float> scale = planes_.row_scale.Read<float>();
    expected_.clear();
    rounded_.clear();
    for (int m = 0; m < shape_.m; ++m) {
      for (int n = 0; n < shape_.n; ++n) {
        const float w = Bf16ToFloat(w_[int64_t{n} * shape_.k + (first + m) % shape_.k]);
        const float v = Fp16ToFloat(FloatToFp16(w / scale[n]));
        expected_.push_back(bf16_ ? w : Fp16ToFloat(FloatToFp16(w)));
        rounded_.push_back(bf16_ ? w : Fp16ToFloat(FloatToFp16(v * scale[n])));
      }
    }
  }
  void SetRandom(uint64_t seed) {
    std::mt19937_64 random(seed);
    std::normal_distribution<float> normal;
    std::vector<uint16_t> x(int64_t{shape_.m} * shape_.k);
    std::generate(x.begin(), x.end(), [&] { return Bits(normal(random)); });
    x_.Write(x.data(), x_.bytes());
    reference_.assign(int64_t{shape_.m} * shape_.n, 0.0);
    std::vector<double> w(shape_.k);
    for (int n = 0; n < shape_.n; ++n) {
      for (int k = 0; k < shape_.k; ++k) {
        w[k] = Bf16ToFloat(w_[int64_t{n} * shape_.k + k]);
      }
      for (int m = 0; m < shape_.m; ++m) {
        double sum = 0;
        for (int k = 0; k < shape_.k; ++k) {
          sum += w[k] * Value(x[int64_t{m} * shape_.k + k]);
        }
        reference_[int64_t{m} * shape_.n + n] = sum;
      }
    }
  }

  void Poison() { y_.Poison(); }
  std::vector<uint16_t> Y() const {
    std::vector<uint16_t> all = y_.Read<uint16_t>();
    all.resize(int64_t{shape_.m} * Stride());
    return all;
  }

  // After SetOneHot: Y is W.
  void ExpectWeights(const std::vector<uint16_t>& y, bool wide) const {
    const std::vector<float>& expected = wide ? rounded_ : expected_;
    int wrong = 0;
    for (int m = 0; m < shape_.m; ++m) {
      for (int n = 0; n < shape_.n; ++n) {
        const float got = Value(y[int64_t{m} * Stride() + n]);
        if (!(got == expected[int64_t{m} * shape_.n + n]) && ++wrong < 5) {
          ADD_FAILURE() << "token " << m << " row " << n << ": " << got << ", expected "
                        << expected[int64_t{m} * shape_.n + n];
        }
      }
    }
  }

  // After SetRandom: relative Frobenius error against FP64 with the exact weights, beyond what
  // rounding Y to its type makes.
  double Error(const std::vector<uint16_t>& y) const {
    double error = 0;
    double norm = 0;
    for (int m = 0; m < shape_.m; ++m) {
      for (int n = 0; n < shape_.n; ++n) {
        const double expected = reference_[int64_t{m} * shape_.n + n];
        const double got = Value(y[int64_t{m} * Stride() + n]);
        const double rounding =
            std::max(std::abs(expected) * (bf16_ ? 0x1p-8 : 0x1p-11), bf16_ ? 0.0 : 0x1p-25);
        const double beyond = std::max(0.0, std::abs(got - expected) - rounding);
        error += std::isnan(got) ? NAN : beyond * beyond;
        norm += expected * expected;
      }
    }
    return std::sqrt(error / norm);
  }

  // The same of a Y in FP32, where nothing is rounded.
  double ErrorF32() const {
    const std::vector<float> y = y_.Read<float>();
    double error = 0;
    double norm = 0;
    for (int m = 0; m < shape_.m; ++m) {
      for (int n = 0; n < shape_.n; ++n) {
        const double expected = reference_[int64_t{m} * shape_.n + n];
        const double difference = y[int64_t{m} * Stride() + n] - expected;
        error += difference * difference;
        norm += expected * expected;
      }
    }
    return std::sqrt(error / norm);
  }

  sm90::GemmProblem problem;

 private:
  int64_t Stride() const { return shape_.n + 8; }
  uint16_t Bits(float v) const { return bf16_ ? FloatToBf16(v) : FloatToFp16(v); }
  float Value(uint16_t bits) const { return bf16_ ? Bf16ToFloat(bits) : Fp16ToFloat(bits); }

  Shape shape_;
  bool bf16_;
  std::vector<uint16_t> w_;
  DevicePlanes planes_;
  GuardedDevice x_;
  GuardedDevice y_;
  GuardedDevice workspace_;
  std::vector<double> reference_;
  std::vector<float> expected_;
  std::vector<float> rounded_;
};

constexpr std::chrono::minutes kHangLimit{1};
constexpr WeightFormat kFormats[] = {WeightFormat::kNested12F16, WeightFormat::kNested12Bf16};

// Beyond the rounding of Y; sums are FP32.
constexpr double kLargestError = 1e-5;

// One-hot tokens and random ones, these twice, through plans: all or one of each kernel.
void RunPlans(WeightFormat format, const Shape& shape,
              const std::function<bool(const sm90::Plan&)>& filter, bool once, cudaStream_t stream,
              int* count) {
  PlanProblem p(format, shape, stream);
  Watchdog dog(kHangLimit);
  for (const bool one_hot : {true, false}) {
    if (one_hot) {
      p.SetOneHot(shape.k / 3);
    } else {
      p.SetRandom(9);
    }
    std::set<const void*> seen;
    for (const sm90::RankedPlan& ranked : sm90::RankPlans(p.problem, sm90::DeviceModel())) {
      if (!filter(ranked.plan) || (once && !seen.insert(ranked.plan.config->function).second)) {
        continue;
      }
      const std::string what = StrCat(Name(ranked.plan), ", M ", shape.m, " N ", shape.n, " K ",
                                      shape.k, one_hot ? ", one-hot" : ", random");
      SCOPED_TRACE(what);
      const Watchdog::Watch watch(dog, [&] { std::fprintf(stderr, "HUNG: %s\n", what.c_str()); });
      p.Poison();
      sm90::Launch(ranked.plan, p.problem, stream, *count % 2 == 1);
      const std::vector<uint16_t> y = p.Y();
      if (one_hot) {
        p.ExpectWeights(y, ranked.plan.config->patches);
      } else {
        EXPECT_LT(p.Error(y), kLargestError);
      }
      if (!one_hot) {
        p.Poison();
        sm90::Launch(ranked.plan, p.problem, stream, true);
        EXPECT_EQ(y, p.Y());
      }
      ++*count;
      if (::testing::Test::HasFailure()) {
        return;
      }
    }
  }
}

TEST_F(Nested12GpuTest, EveryPlan) {
  constexpr Shape kShapes[] = {{1, 272, 144},  {3, 400, 1040}, {17, 1040, 2064}, {63, 528, 1552},
                               {65, 656, 512}, {127, 272, 80}, {257, 400, 336},  {600, 144, 272}};
  const auto filter = [](const sm90::Plan& plan) {
    const sm90::ClusterShape& c = plan.cluster;
    const bool sums = plan.parts != 1;
    return sums ? plan.raster_group == sm90::Plan().raster_group && plan.parts != 5 &&
                      plan.parts != 6
                : c.split == 1 || c.split == 3 || c.split == 8 || c.size() == 8;
  };
  int runs = 0;
  for (const WeightFormat format : kFormats) {
    for (const Shape& shape : kShapes) {
      RunPlans(format, shape, filter, false, stream_, &runs);
      if (HasFailure()) {
        return;
      }
    }
  }
  std::printf("%d runs of plans\n", runs);
  EXPECT_GT(runs, 500);
}

// Tiles enough for several rounds, in which rings run on from tile to tile.
TEST_F(Nested12GpuTest, EveryPersistentKernelInManyRounds) {
  const auto filter = [](const sm90::Plan& plan) {
    return plan.config->family == sm90::Family::kPersistent && plan.cluster.size() <= 2 &&
           plan.parts <= 1;
  };
  for (const WeightFormat format : kFormats) {
    int runs = 0;
    RunPlans(format, {130, 20'016, 272}, filter, false, stream_, &runs);
    EXPECT_GT(runs, 30);
    if (HasFailure()) {
      return;
    }
  }
}

TEST_F(Nested12GpuTest, Fp32ResultsAreExactSums) {
  for (const WeightFormat format : kFormats) {
    PlanProblem p(format, {17, 1040, 2064}, stream_);
    p.SetRandom(4);
    p.problem.epilogue.y_type = sm90::OutputType::kF32;
    int runs = 0;
    for (const sm90::RankedPlan& ranked : sm90::RankPlans(p.problem, sm90::DeviceModel())) {
      if (ranked.plan.cluster.size() <= 2) {
        p.Poison();
        sm90::Launch(ranked.plan, p.problem, stream_, true);
        EXPECT_LT(p.ErrorF32(), 1e-5) << Name(ranked.plan);
        ++runs;
      }
    }
    EXPECT_GT(runs, 10);
  }
}

// Each kernel of a family once, little enough for compute-sanitizer.
struct FamilyCase {
  WeightFormat format;
  sm90::Family family;
  bool clusters;
};

class Nested12FamilyGpuTest : public GpuTest, public ::testing::WithParamInterface<FamilyCase> {};

TEST_P(Nested12FamilyGpuTest, EveryKernelOnce) {
  const FamilyCase& param = GetParam();
  const auto filter = [&](const sm90::Plan& plan) {
    return plan.config->family == param.family && (plan.cluster.size() > 1) == param.clusters;
  };
  int runs = 0;
  RunPlans(param.format, {33, 272, 400}, filter, true, stream_, &runs);
  EXPECT_GT(runs, 0);
}

INSTANTIATE_TEST_SUITE_P(
    All, Nested12FamilyGpuTest, ::testing::ValuesIn([] {
      std::vector<FamilyCase> cases;
      for (const WeightFormat format : kFormats) {
        for (const sm90::Family family : {sm90::Family::kSplit, sm90::Family::kPersistent}) {
          for (const bool clusters : {false, true}) {
            cases.push_back({format, family, clusters});
          }
        }
      }
      return cases;
    }()),
    [](const auto& test) {
      const FamilyCase& param = test.param;
      return std::string(param.format == WeightFormat::kNested12F16 ? "F16" : "Bf16") +
             (param.family == sm90::Family::kSplit ? "Split" : "Persistent") +
             (param.clusters ? "Clusters" : "");
    });

}  // namespace
}  // namespace dualfp::cuda
