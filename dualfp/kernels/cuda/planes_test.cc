#include "dualfp/kernels/cuda/planes.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <random>

#include "dualfp/base/error.h"
#include "dualfp/kernels/cuda/gpu_test_util.h"
#include "dualfp/kernels/cuda/upload.h"
#include "dualfp/kernels/gemm_test_util.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/nested.h"

namespace dualfp::cuda {
namespace {

using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

class PlanesGpuTest : public GpuTest {};

std::vector<uint8_t> Permuted(const std::vector<uint8_t>& bytes) {
  std::vector<uint8_t> out(bytes.size());
  for (size_t i = 0; i < bytes.size(); ++i) {
    out[PermutedIndex(static_cast<int64_t>(i))] = bytes[i];
  }
  return out;
}

// Planes of disk and CPU as GPU memory has them.
struct Planes {
  std::vector<uint8_t> upper;
  std::vector<uint8_t> lower;
};

Planes OnDevice(const Planes& planes) {
  std::vector<uint8_t> lower(planes.lower);
  for (size_t i = 0; i < lower.size(); ++i) {
    lower[i] = static_cast<uint8_t>(NestedDeviceLower(planes.upper[i], lower[i]));
  }
  return {Permuted(planes.upper), Permuted(lower)};
}

// Every FP16 pattern that a nested weight can have, at each of the 16 places of a group, beside
// others of any size and sign.
std::vector<uint16_t> AllEligible() {
  std::vector<uint16_t> all;
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    if (NestedEligible(static_cast<uint16_t>(bits))) {
      all.push_back(static_cast<uint16_t>(bits));
    }
  }
  std::shuffle(all.begin(), all.end(), std::mt19937(11));
  while (all.size() % 16 != 1) {  // each copy begins one place further
    all.push_back(0);
  }
  std::vector<uint16_t> w;
  for (int copy = 0; copy < 16; ++copy) {
    w.insert(w.end(), all.begin(), all.end());
  }
  return w;
}

TEST_F(PlanesGpuTest, EveryWeightSplitsChecksAndMerges) {
  const std::vector<uint16_t> w = AllEligible();
  const auto count = static_cast<int64_t>(w.size());
  const GuardedDevice source(w);
  GuardedDevice upper(count);
  GuardedDevice lower(count);
  const GuardedDevice merged(2 * count);
  const GuardedDevice counts(std::vector<uint8_t>(sizeof(SplitCounts)));
  OutlierSink sink;
  sink.counts = counts.as<SplitCounts>();
  SplitPlanes(source.as(), 1, count, upper.as(), lower.as(), sink, stream_);
  CheckPlanes(upper.as(), lower.as(), 1, count, sink.counts, stream_);
  MergePlanes(upper.as(), lower.as(), 1, count, merged.as(), stream_);
  Planes cpu{std::vector<uint8_t>(count), std::vector<uint8_t>(count)};
  for (int64_t i = 0; i < count; ++i) {
    const NestedBytes bytes = NestedSplit(w[i]);
    cpu.upper[i] = bytes.upper;
    cpu.lower[i] = bytes.lower;
  }
  const Planes expected = OnDevice(cpu);
  EXPECT_EQ(upper.Read<uint8_t>(), expected.upper);
  EXPECT_EQ(lower.Read<uint8_t>(), expected.lower);
  EXPECT_EQ(merged.Read<uint16_t>(), w);
  EXPECT_EQ(counts.Read<uint8_t>(), std::vector<uint8_t>(sizeof(SplitCounts)));

  upper.Write(cpu.upper.data(), count);
  lower.Write(cpu.lower.data(), count);
  PlanesToDevice(upper.as(), lower.as(), 1, count, stream_);
  EXPECT_EQ(upper.Read<uint8_t>(), expected.upper);
  EXPECT_EQ(lower.Read<uint8_t>(), expected.lower);
}

// All pairs that a weight has pass, and each of the others is found at every place of a word.
TEST_F(PlanesGpuTest, EveryPairOfBytesIsJudged) {
  Planes right;
  Planes wrong;
  for (uint32_t pair = 0; pair < 0x10000; ++pair) {
    const auto u = static_cast<uint8_t>(pair >> 8);
    const auto d = static_cast<uint8_t>(pair);
    const auto e = static_cast<uint8_t>(NestedDeviceLower(u, d));
    const uint16_t h = NestedMerge(u, e);
    const bool valid = NestedEligible(h) && NestedSplit(h) == NestedBytes{u, e};
    Planes& planes = valid ? right : wrong;
    planes.upper.insert(planes.upper.end(), 16, u);
    planes.lower.insert(planes.lower.end(), 16, d);
  }
  ASSERT_EQ(right.upper.size(), 16u * 2 * (kNestedMaxBits + 1));
  const auto invalid = [&](const Planes& planes) {
    const GuardedDevice upper(planes.upper);
    const GuardedDevice lower(planes.lower);
    const GuardedDevice counts(std::vector<uint8_t>(sizeof(SplitCounts)));
    CheckPlanes(upper.as(), lower.as(), 1, upper.bytes(), counts.as<SplitCounts>(), stream_);
    SplitCounts result;
    std::memcpy(&result, counts.Read<uint8_t>().data(), sizeof(result));
    return result.invalid;
  };
  EXPECT_EQ(invalid(right), 0u);
  EXPECT_EQ(invalid(wrong), wrong.upper.size());
}

TEST_F(PlanesGpuTest, PermutesInPlace) {
  std::vector<uint8_t> bytes(16 * 1031);
  std::mt19937 random(1);
  for (uint8_t& byte : bytes) {
    byte = static_cast<uint8_t>(random());
  }
  const GuardedDevice device(bytes);
  PermuteBytes(device.as(), device.as(), device.bytes(), stream_);
  EXPECT_EQ(device.Read<uint8_t>(), Permuted(bytes));
}

TEST_F(PlanesGpuTest, UploadEqualsTheCpusPlanes) {
  const TestFormat format{"nested",
                          QuantFormat::kNested,
                          DType::kF8E4M3,
                          ScaleGranularity::kNone,
                          Precision::kExact,
                          ActivationQuant::kNone,
                          true};
  const TestWeight cpu(format, 48, 272, 7);
  ASSERT_GT(cpu.weight.outliers.size(), 0);
  // The 16-bit weight that the planes came from.
  const std::vector<double> values = cpu.Values(Precision::kExact);
  std::vector<uint16_t> bits(values.size());
  for (size_t i = 0; i < bits.size(); ++i) {
    bits[i] = FloatToFp16(static_cast<float>(values[i]));
  }
  const DeviceWeight uploaded = Upload(cpu.weight, 0, stream_);
  // Pieces of three rows, the last of which is shorter.
  PlaneUploader uploader(0, int64_t{3} * 2 * 272);
  DeviceWeight nested;
  const NestReport report = uploader.Nest("w", ConstTensorView(bits.data(), DType::kF16, {48, 272}),
                                          10000, stream_, &nested);
  EXPECT_EQ(report.outliers, cpu.weight.outliers.size());
  EXPECT_EQ(report.rounded, 0);
  const DeviceWeight* const both[] = {&uploaded, &nested};
  for (const DeviceWeight* weight : both) {
    EXPECT_EQ(weight->weight.layout, WeightLayout::kSm90);
    const auto read = [](const ConstTensorView& view) {
      std::vector<uint8_t> bytes(view.num_bytes());
      CheckCuda(cudaMemcpy(bytes.data(), view.data, bytes.size(), cudaMemcpyDeviceToHost), "read");
      return bytes;
    };
    const auto host = [](const ConstTensorView& view) {
      return std::vector<uint8_t>(view.as<uint8_t>(), view.as<uint8_t>() + view.num_bytes());
    };
    const Planes expected = OnDevice({host(cpu.weight.values), host(cpu.weight.lower)});
    EXPECT_EQ(read(weight->weight.values), expected.upper);
    EXPECT_EQ(read(weight->weight.lower), expected.lower);
    EXPECT_EQ(read(weight->weight.outliers.index), host(cpu.weight.outliers.index));
    EXPECT_EQ(read(weight->weight.outliers.value), host(cpu.weight.outliers.value));
  }

  // Other weights in the same memory.
  const void* planes = nested.weight.values.data;
  for (uint16_t& b : bits) {
    b = FloatToFp16(Fp16ToFloat(b) / 64);
  }
  const NestReport refilled = uploader.Refill(
      "w", ConstTensorView(bits.data(), DType::kF16, {48, 272}), 10000, stream_, &nested);
  EXPECT_EQ(refilled.outliers, 0);
  EXPECT_EQ(nested.weight.outliers.size(), 0);
  EXPECT_EQ(nested.weight.values.data, planes);
  std::vector<uint16_t> merged(bits.size());
  const GuardedDevice out(static_cast<int64_t>(bits.size()) * 2);
  MergePlanes(nested.weight.values.data, nested.weight.lower.data, 48, 272, out.as(), stream_);
  EXPECT_EQ(out.Read<uint16_t>(), bits);
  EXPECT_THAT(
      [&] {
        uploader.Refill("other", ConstTensorView(bits.data(), DType::kF16, {272, 48}), 0, stream_,
                        &nested);
      },
      ThrowsMessage<Error>(HasSubstr("48 x 272")));
}

TEST_F(PlanesGpuTest, Bf16RoundsAsTheCpuDoes) {
  std::vector<uint16_t> bits(65536 / 16 * 16);
  std::mt19937 random(3);
  for (uint16_t& b : bits) {
    do {
      b = static_cast<uint16_t>(random());
    } while ((b & 0x7F80) == 0x7F80);
  }
  const ConstTensorView source(bits.data(), DType::kBF16, {256, 256});
  ThreadPool threads(2);
  Planes cpu{std::vector<uint8_t>(65536), std::vector<uint8_t>(65536)};
  OutlierBuffers outliers;
  const NestReport expected =
      dualfp::Nest(threads, "w", source, TensorView(cpu.upper.data(), DType::kF8E4M3, {256, 256}),
                   TensorView(cpu.lower.data(), DType::kU8, {256, 256}), 65536, &outliers);
  DeviceWeight weight;
  const NestReport report = PlaneUploader(0).Nest("w", source, 65536, stream_, &weight);
  EXPECT_EQ(report.outliers, expected.outliers);
  EXPECT_EQ(report.rounded, expected.rounded);
  EXPECT_NEAR(report.largest_relative_error, expected.largest_relative_error, 1e-6);
  std::vector<uint8_t> got(65536);
  cudaMemcpy(got.data(), weight.weight.values.data, got.size(), cudaMemcpyDeviceToHost);
  const Planes expected_planes = OnDevice(cpu);
  EXPECT_EQ(got, expected_planes.upper);
  cudaMemcpy(got.data(), weight.weight.lower.data, got.size(), cudaMemcpyDeviceToHost);
  EXPECT_EQ(got, expected_planes.lower);
  std::vector<int64_t> index(report.outliers);
  std::vector<float> value(report.outliers);
  cudaMemcpy(index.data(), weight.weight.outliers.index.data, index.size() * 8,
             cudaMemcpyDeviceToHost);
  cudaMemcpy(value.data(), weight.weight.outliers.value.data, value.size() * 4,
             cudaMemcpyDeviceToHost);
  EXPECT_EQ(index, outliers.index);
  EXPECT_EQ(value, outliers.value);
}

TEST_F(PlanesGpuTest, RefusesWhatIsNoWeight) {
  std::vector<uint16_t> bits(64 * 32, 0x3000);
  const ConstTensorView source(bits.data(), DType::kF16, {64, 32});
  PlaneUploader uploader(0, 1);
  DeviceWeight weight;
  bits[777] = 0x7C00;
  bits[1200] = 0x7E00;
  EXPECT_THAT([&] { uploader.Nest("layer.7", source, 9, stream_, &weight); },
              ThrowsMessage<Error>(HasSubstr("layer.7: element 777 is not finite (2 are not)")));
  bits[777] = bits[1200] = 0x4500;  // 5
  const NestReport report = uploader.Nest("layer.7", source, 1, stream_, &weight);
  EXPECT_EQ(report.outliers, 2);
  EXPECT_EQ(weight.storage.data(), nullptr);
}

// A checkpoint's own size and a piece of one tensor.
TEST_F(PlanesGpuTest, CheckpointFitsItsOwnSizeAndATensor) {
  const std::pair<int64_t, int64_t> shapes[] = {
      {6144, 4096}, {4096, 4096}, {28672, 4096}, {4096, 14336}};
  std::vector<uint16_t> host(int64_t{28672} * 4096);
  for (size_t i = 0; i < host.size(); ++i) {
    host[i] = static_cast<uint16_t>((i * 2654435761u >> 7) % 0x3000);
  }
  size_t free_before = 0;
  size_t total = 0;
  CheckCuda(cudaFree(nullptr), "init");
  cudaMemGetInfo(&free_before, &total);
  const auto start = std::chrono::steady_clock::now();
  PlaneUploader uploader(0);
  std::vector<DeviceWeight> weights;
  int64_t own = 0;
  int64_t largest = 0;
  int64_t most = 0;
  for (int layer = 0; layer < 2; ++layer) {
    for (const auto& [n, k] : shapes) {
      const ConstTensorView source(host.data(), DType::kF16, {n, k});
      uploader.Nest("w", source, n * k / 100, stream_, &weights.emplace_back());
      own += source.num_bytes();
      largest = std::max(largest, source.num_bytes());
      size_t now = 0;
      cudaMemGetInfo(&now, &total);
      most = std::max(most, static_cast<int64_t>(free_before - now));
    }
  }
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  // The list of possible outliers lives during a call only, and is 12 % of a tensor at 1 %.
  EXPECT_LE(most, own + largest * 88 / 100);
  std::printf("uploaded %.2f GB at %.1f GB/s with %.3f GB beyond it; largest tensor %.3f GB\n",
              own * 1e-9, own * 1e-9 / seconds, static_cast<double>(most - own) * 1e-9,
              largest * 1e-9);
}

// Needs no GPU.
TEST(PlanesArgumentsTest, SaysWhatIsWrong) {
  alignas(16) uint8_t memory[64];
  OutlierSink sink;
  EXPECT_THAT([&] { SplitPlanes(memory, 1, 24, memory, memory, sink, nullptr); },
              ThrowsMessage<Error>(HasSubstr("multiple of 16")));
  EXPECT_THAT([&] { SplitPlanes(memory, 1, 16, memory, memory, sink, nullptr); },
              ThrowsMessage<Error>(HasSubstr("counts are required")));
  EXPECT_THAT([&] { PermuteBytes(memory + 1, memory, 16, nullptr); },
              ThrowsMessage<Error>(HasSubstr("aligned to 16 bytes")));
  EXPECT_THAT([&] { PlanesToDevice(memory, memory + 1, 1, 16, nullptr); },
              ThrowsMessage<Error>(HasSubstr("aligned to 16 bytes")));
  Weight weight;
  weight.format = QuantFormat::kNvfp4;
  EXPECT_THAT([&] { Upload(weight, 0, nullptr); }, ThrowsMessage<Error>(HasSubstr("nvfp4")));
  weight.format = QuantFormat::kNested;
  weight.k = 24;
  EXPECT_THAT([&] { Upload(weight, 0, nullptr); }, ThrowsMessage<Error>(HasSubstr("K = 24")));
  weight.k = 32;
  EXPECT_THAT([&] { Upload(weight, 0, nullptr); },
              ThrowsMessage<Error>(HasSubstr("no lower plane")));
  DeviceWeight device;
  std::vector<uint16_t> bits(48);
  EXPECT_THAT(
      [&] {
        PlaneUploader(0).Refill("w", ConstTensorView(bits.data(), DType::kF32, {2, 24}), 0, nullptr,
                                &device);
      },
      ThrowsMessage<Error>(HasSubstr("expected contiguous F16 or BF16")));
}

}  // namespace
}  // namespace dualfp::cuda
