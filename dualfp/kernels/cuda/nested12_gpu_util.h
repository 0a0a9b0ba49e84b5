// Random Nested12 weights in GPU memory, for tests.

#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numeric>
#include <random>
#include <vector>

#include "dualfp/kernels/cuda/gpu_test_util.h"
#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/numeric/bf16.h"

namespace dualfp::cuda {

// Rows of very different sizes; of each hundred weights some zeros (of both signs), ties and tiny
// ones of all exponents. One row of sixteen has more tiny ones than a batch has places.
inline std::vector<uint16_t> RandomWeights(int64_t n, int64_t k, uint64_t seed) {
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

}  // namespace dualfp::cuda
