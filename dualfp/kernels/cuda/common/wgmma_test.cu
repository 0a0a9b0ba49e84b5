// Every form of wgmma that wgmma.cuh wraps: operands' types, A in registers and in shared memory.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp8.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "dualfp/kernels/cuda/common/mbarrier.cuh"
#include "dualfp/kernels/cuda/common/tma.cuh"
#include "dualfp/kernels/cuda/common/wgmma.cuh"
#include "dualfp/kernels/cuda/gpu_test_util.h"

namespace dualfp::cuda {
namespace {

enum class Type { kF16, kBf16, kE4m3 };

constexpr int kRows = 64;
constexpr int kRowBytes = 128;  // of K

// 32 bytes of K.
template <Type kType, int kColumns>
__device__ void Shared(float (&d)[kColumns / 2], uint64_t a, uint64_t b, int accumulate) {
  if constexpr (kType == Type::kF16) {
    Mma<kColumns>::SharedF16(d, a, b, accumulate);
  } else if constexpr (kType == Type::kBf16) {
    Mma<kColumns>::SharedBf16(d, a, b, accumulate);
  } else {
    Mma<kColumns>::SharedE4m3(d, a, b, accumulate);
  }
}
template <Type kType, int kColumns>
__device__ void Registers(float (&d)[kColumns / 2], const uint32_t (&a)[4], uint64_t b,
                          int accumulate) {
  if constexpr (kType == Type::kF16) {
    Mma<kColumns>::RegistersF16(d, a, b, accumulate);
  } else if constexpr (kType == Type::kBf16) {
    Mma<kColumns>::RegistersBf16(d, a, b, accumulate);
  } else {
    Mma<kColumns>::RegistersE4m3(d, a, b, accumulate);
  }
}

// d[kRows, kColumns] = a · bᵀ by one warpgroup; rows of a and b are kRowBytes.
template <Type kType, int kColumns, bool kRegisters>
__global__ void __launch_bounds__(128) Multiply(const uint8_t* a, const uint8_t* b, float* d) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  __shared__ alignas(1024) uint8_t shared[(kRows + kColumns) * kRowBytes];
  uint8_t* const shared_b = shared + kRows * kRowBytes;
  const int thread = static_cast<int>(threadIdx.x);
  for (int i = thread; i < (kRows + kColumns) * kRowBytes; i += 128) {
    const int row = i / kRowBytes;  // of a, then of b: both begin at multiples of eight
    const int swizzled = i ^ (row % 8) << 4;
    shared[swizzled] = row < kRows ? a[i] : b[i - kRows * kRowBytes];
  }
  FenceAsyncShared();
  __syncthreads();
  const int row = thread / 32 * 16 + thread % 32 / 4;
  uint32_t fragments[4][4];
  for (int step = 0; step < 4; ++step) {
    for (int i = 0; i < 4; ++i) {
      const int offset = (row + i % 2 * 8) * kRowBytes + step * 32 + i / 2 * 16 + thread % 4 * 4;
      fragments[step][i] = *reinterpret_cast<const uint32_t*>(a + offset);
    }
  }
  float sums[kColumns / 2];
  const uint64_t first_a = WgmmaDescriptor128B(SharedAddress(shared));
  const uint64_t first_b = WgmmaDescriptor128B(SharedAddress(shared_b));
  WgmmaFence();
#pragma unroll
  for (int step = 0; step < 4; ++step) {
    if constexpr (kRegisters) {
      Registers<kType, kColumns>(sums, fragments[step], first_b + step * 2, step > 0);
    } else {
      Shared<kType, kColumns>(sums, first_a + step * 2, first_b + step * 2, step > 0);
    }
  }
  WgmmaCommit();
  WgmmaWait<0>();
  WgmmaPin(sums);
#pragma unroll
  for (int i = 0; i < kColumns / 2; ++i) {
    const int column = i / 4 * 8 + thread % 4 * 2 + i % 2;
    d[(row + i / 2 % 2 * 8) * kColumns + column] = sums[i];
  }
#endif
}

void Append(Type type, float value, std::vector<uint8_t>& bytes) {
  const auto append = [&](const auto& v) {
    const auto* first = reinterpret_cast<const uint8_t*>(&v);
    bytes.insert(bytes.end(), first, first + sizeof(v));
  };
  if (type == Type::kF16) {
    append(__float2half(value));
  } else if (type == Type::kBf16) {
    append(__float2bfloat16(value));
  } else {
    append(__nv_fp8_e4m3(value));
  }
}

class WgmmaGpuTest : public GpuTest {
 protected:
  void SetUp() override {
    GpuTest::SetUp();
    cudaDeviceProp properties{};
    if (HasGpu() &&
        (cudaGetDeviceProperties(&properties, 0) != cudaSuccess || properties.major != 9)) {
      GTEST_SKIP() << "wgmma is of compute capability 9.0";
    }
  }

  // Small integers, whose sums every format has exactly.
  template <Type kType, int kColumns>
  void Check() {
    const int k = kType == Type::kE4m3 ? kRowBytes : kRowBytes / 2;
    std::mt19937 random(kColumns);
    std::uniform_int_distribution<int> values(-4, 4);
    std::vector<float> a(kRows * k);
    std::vector<float> b(kColumns * k);
    std::vector<uint8_t> a_bytes;
    std::vector<uint8_t> b_bytes;
    for (float& v : a) {
      Append(kType, v = static_cast<float>(values(random)), a_bytes);
    }
    for (float& v : b) {
      Append(kType, v = static_cast<float>(values(random)), b_bytes);
    }
    std::vector<float> expected(kRows * kColumns);
    for (int row = 0; row < kRows; ++row) {
      for (int column = 0; column < kColumns; ++column) {
        for (int i = 0; i < k; ++i) {
          expected[row * kColumns + column] += a[row * k + i] * b[column * k + i];
        }
      }
    }
    const GuardedDevice gpu_a(a_bytes);
    const GuardedDevice gpu_b(b_bytes);
    GuardedDevice d(static_cast<int64_t>(expected.size() * sizeof(float)));
    const std::string what =
        std::to_string(static_cast<int>(kType)) + ", " + std::to_string(kColumns) + " columns";
    Multiply<kType, kColumns, false>
        <<<1, 128, 0, stream_>>>(gpu_a.as<uint8_t>(), gpu_b.as<uint8_t>(), d.as<float>());
    EXPECT_EQ(d.Read<float>(), expected) << "A in shared memory, type " << what;
    d.Poison();
    Multiply<kType, kColumns, true>
        <<<1, 128, 0, stream_>>>(gpu_a.as<uint8_t>(), gpu_b.as<uint8_t>(), d.as<float>());
    EXPECT_EQ(d.Read<float>(), expected) << "A in registers, type " << what;
  }

  template <Type kType>
  void CheckAll() {
    Check<kType, 8>();
    Check<kType, 24>();
    Check<kType, 256>();
  }
};

TEST_F(WgmmaGpuTest, EveryForm) {
  CheckAll<Type::kF16>();
  CheckAll<Type::kBf16>();
  CheckAll<Type::kE4m3>();
}

}  // namespace
}  // namespace dualfp::cuda
