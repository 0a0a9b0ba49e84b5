// Nested12 planes on the GPU against numeric/nested12.h, weight by weight.

#include "dualfp/kernels/cuda/nested12_planes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/base/error.h"
#include "dualfp/kernels/cuda/nested12_gpu_util.h"
#include "dualfp/kernels/cuda/upload.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cuda {
namespace {

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

template <class T>
std::vector<T> Read(const ConstTensorView& view) {
  std::vector<T> values(view.num_bytes() / static_cast<int64_t>(sizeof(T)));
  CheckCuda(cudaMemcpy(values.data(), view.data, view.num_bytes(), cudaMemcpyDeviceToHost), "read");
  return values;
}

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

class Nested12PlanesGpuTest : public GpuTest {};

TEST_F(Nested12PlanesGpuTest, PlanesAreThoseOfTheHost) {
  for (const auto& [n, k] : {std::pair<int64_t, int64_t>{32, 16},
                             {16, 144},
                             {272, 400},
                             {16, 1008},
                             {32, 1024},
                             {48, 1040},
                             {4096, 256},
                             {16, 12'288},
                             {16, 36'864}}) {
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

TEST_F(Nested12PlanesGpuTest, NibblesOfADiskAreThoseOfSplit) {
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

TEST_F(Nested12PlanesGpuTest, APieceIsWhereItsRowsAre) {
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

// A loaded weight and one whose memory gets other weights, in pieces of 32 rows.
TEST_F(Nested12PlanesGpuTest, UploaderRefillsInPlace) {
  constexpr int64_t kN = 80;
  constexpr int64_t kK = 272;
  PlaneUploader uploader(0, int64_t{40} * 2 * kK);
  DeviceWeight weight;
  const void* memory = nullptr;
  for (const uint64_t seed : {8, 9}) {
    const std::vector<uint16_t> w = RandomWeights(kN, kK, seed);
    const HostPlanes host(w, kN, kK);
    const ConstTensorView source(w.data(), DType::kBF16, {kN, kK});
    const NestReport report =
        memory == nullptr
            ? uploader.Nest("w", source, kN * kK, stream_, &weight, QuantFormat::kNested12)
            : uploader.Refill("w", source, kN * kK, stream_, &weight);
    EXPECT_EQ(report.elements, kN * kK);
    EXPECT_EQ(report.outliers, static_cast<int64_t>(host.tiny_index.size()));
    EXPECT_TRUE(memory == nullptr || memory == weight.weight.values.data);
    memory = weight.weight.values.data;
    EXPECT_EQ(Read<uint8_t>(weight.weight.values), host.upper);
    EXPECT_EQ(Read<uint8_t>(weight.weight.lower), host.nibbles);
    EXPECT_EQ(Read<float>(weight.weight.scales), host.row_scale);
    const GuardedDevice merged(kN * kK * 2);
    MergeNested12(
        weight.weight.values.data, weight.weight.lower.data, weight.weight.scales.as<float>(),
        static_cast<const TinyWeight*>(weight.weight.tiny.data), kN, kK, merged.as(), stream_);
    EXPECT_EQ(merged.Read<uint16_t>(), w);
  }
  std::vector<uint16_t> w = RandomWeights(kN, kK, 10);
  const ConstTensorView source(w.data(), DType::kBF16, {kN, kK});
  EXPECT_GT(uploader.Refill("w", source, 3, stream_, &weight).outliers, 3);
  EXPECT_EQ(weight.weight.values.data, nullptr);
  w[777] = 0x7f80;
  EXPECT_THROW(uploader.Nest("w", source, 9, stream_, &weight, QuantFormat::kNested12), Error);
  const ConstTensorView fp16(w.data(), DType::kF16, {kN, kK});
  EXPECT_THROW(uploader.Nest("w", fp16, 9, stream_, &weight, QuantFormat::kNested12), Error);
}

TEST_F(Nested12PlanesGpuTest, NotANumberIsCountedAndFound) {
  std::vector<uint16_t> w = RandomWeights(32, 144, 6);
  w[20 * 144 + 7] = 0x7fc0;
  w[25 * 144] = 0xff80;
  const DevicePlanes device(w, 32, 144, stream_);
  EXPECT_EQ(device.counts.non_finite, 2u);
  EXPECT_EQ(~device.counts.not_before, 20u * 144 + 7);
}

TEST_F(Nested12PlanesGpuTest, WhatExceedsTheListIsCounted) {
  const std::vector<uint16_t> w = RandomWeights(32, 1040, 7);
  const DevicePlanes device(w, 32, 1040, stream_, 5);
  EXPECT_EQ(device.index.size(), 5u);
  EXPECT_EQ(device.counts.tiny, HostPlanes(w, 32, 1040).tiny_index.size());
}

}  // namespace
}  // namespace dualfp::cuda
