// Every implementation of the cache's writes and of what comes before them, against double.

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <random>
#include <vector>

#include "dualfp/kernels/backend_test_util.h"

namespace dualfp {
namespace {

class KvWriteTest : public ::testing::TestWithParam<OpsUnderTest> {
 protected:
  const OpTable& ops() const { return *GetParam().backend->ops; }
};

// What lies between the product of q, k and v and attention, against double; what is stored in a
// slot of -1 is nowhere, and no other slot changes.
TEST_P(KvWriteTest, RotateAndCacheNormalisesTurnsAndStores) {
  struct Case {
    int64_t head_dim;
    int64_t half;
    bool norm;
  };
  for (const Case& c : {Case{64, 32, false},
                        {64, 32, true},
                        {80, 10, true},
                        {37, 15, true},
                        {128, 64, true},
                        {256, 32, false}}) {
    for (const DType dtype : GetParam().backend->kv_dtypes) {
      SCOPED_TRACE(testing::Message()
                   << c.head_dim << " " << c.half << " " << c.norm << " " << DTypeName(dtype));
      OpsDevice device(*GetParam().backend);
      const DType activation = GetParam().activation;
      const int64_t tokens = 5, heads = 4, kv_heads = 2, blocks = 3;
      const int64_t width = (heads + 2 * kv_heads) * c.head_dim;
      std::mt19937 random(11);
      std::normal_distribution<float> normal;
      const auto make = [&](int64_t count) {
        std::vector<float> values(count);
        std::generate(values.begin(), values.end(), [&] { return normal(random); });
        return values;
      };
      std::vector<float> qkv = RoundedAs(activation, make(tokens * width));
      const std::vector<float> angle = make(tokens * c.half);
      std::vector<float> cos_sin(tokens * 2 * c.half);
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t i = 0; i < c.half; ++i) {
          cos_sin[t * 2 * c.half + i] = std::cos(angle[t * c.half + i]);
          cos_sin[(t * 2 + 1) * c.half + i] = std::sin(angle[t * c.half + i]);
        }
      }
      const std::vector<float> weights[2] = {make(c.head_dim), make(c.head_dim)};
      const std::vector<int32_t> slot = {17, 0, -1, 47, 31};
      const TensorView states = device.PutFloats(qkv, activation, {tokens, width});
      const auto view = [&](int64_t first, int64_t count) {
        TensorView heads_view(states.as<char>() + first * c.head_dim * DTypeSize(activation),
                              activation, {tokens, count, c.head_dim}, states.device);
        heads_view.strides[0] = width;
        return heads_view;
      };
      const KvLayout& layout = GetParam().backend->kv_layout;
      const auto put_cache = [&](const std::array<int64_t, 4>& s) {
        return device.Put(std::vector<uint8_t>(s[0] * s[1] * s[2] * s[3] * DTypeSize(dtype), 0x5a),
                          dtype, {s[0], s[1], s[2], s[3]});
      };
      RotateAndCacheArgs args{
          .cos_sin = device.PutFloats(cos_sin, DType::kF32, {tokens, 2 * c.half}),
          .query = view(0, heads),
          .key = view(heads, kv_heads),
          .value = view(heads + kv_heads, kv_heads),
          .epsilon = 1e-5f,
          .slot = device.PutInts(slot),
          .cache = {put_cache(layout.KeyShape(blocks, kv_heads, c.head_dim)),
                    put_cache(layout.ValueShape(blocks, kv_heads, c.head_dim)), 0.02f, 0.03f}};
      if (c.norm) {
        args.query_weight = device.PutFloats(weights[0], DType::kF32, {c.head_dim});
        args.key_weight = device.PutFloats(weights[1], DType::kF32, {c.head_dim});
      }
      if (dtype != DType::kF8E4M3) {
        args.cache.key_scale = args.cache.value_scale = 1.0f;
      }
      if (ops().rotate_and_cache != nullptr) {
        ops().rotate_and_cache(device.context(), args);
      } else {
        RotateAndCache(device.context(), args);  // of the best backend
      }
      const std::vector<float> after = device.GetFloats(states, tokens * width);
      const std::vector<float> keys = device.GetFloats(args.cache.key);
      const std::vector<float> values = device.GetFloats(args.cache.value);
      uint32_t untouched_bits = 0x5a5a5a5a;
      const float untouched = DecodeAs(dtype, untouched_bits & (DTypeSize(dtype) == 1   ? 0xffu
                                                                : DTypeSize(dtype) == 2 ? 0xffffu
                                                                                        : ~0u));
      std::vector<bool> written(keys.size()), value_written(values.size());
      const auto near = [&](double got, double expected, DType stored, double scale,
                            const char* what) {
        const double bound = 1e-5 * (std::abs(expected) + 1);
        const double step = stored == DType::kF32 ? 0.0
                                                  : UnitRoundoff(stored) * std::abs(expected) +
                                                        SubnormalRoundoff(stored) * scale;
        EXPECT_NEAR(got, expected, bound + step) << what;
      };
      for (int64_t t = 0; t < tokens; ++t) {
        for (int64_t head = 0; head < heads + 2 * kv_heads; ++head) {
          const float* in = &qkv[t * width + head * c.head_dim];
          const int kind = head < heads ? 0 : head < heads + kv_heads ? 1 : 2;
          std::vector<double> x(in, in + c.head_dim);
          if (kind < 2 && c.norm) {
            double sum = 0;
            for (const double v : x) {
              sum += v * v;
            }
            for (int64_t i = 0; i < c.head_dim; ++i) {
              x[i] *= weights[kind][i] / std::sqrt(sum / c.head_dim + 1e-5);
            }
          }
          for (int64_t i = 0; kind < 2 && i < c.half; ++i) {
            const double low = x[i], high = x[c.half + i];
            const double cos = cos_sin[t * 2 * c.half + i];
            const double sin = cos_sin[(t * 2 + 1) * c.half + i];
            x[i] = low * cos - high * sin;
            x[c.half + i] = high * cos + low * sin;
          }
          for (int64_t i = 0; i < c.head_dim; ++i) {
            if (kind == 0) {
              near(after[t * width + head * c.head_dim + i], x[i], activation, 1, "query");
              continue;
            }
            if (slot[t] < 0) {
              continue;
            }
            const int64_t kv_head = (head - heads) % kv_heads;
            const int64_t tile = (slot[t] / 16 * kv_heads + kv_head) * 16 * c.head_dim;
            const bool transposed = kind == 1 && layout.transposed_keys;
            const int64_t at =
                tile + (transposed ? i * 16 + slot[t] % 16 : slot[t] % 16 * c.head_dim + i);
            const double scale = kind == 1 ? args.cache.key_scale : args.cache.value_scale;
            (kind == 1 ? written : value_written)[at] = true;
            const double got = (kind == 1 ? keys : values)[at] * scale;
            const double expected =
                dtype == DType::kF8E4M3 ? std::clamp(x[i], -448 * scale, 448 * scale) : x[i];
            near(got, expected, dtype, scale, kind == 1 ? "key" : "value");
          }
        }
      }
      for (size_t i = 0; i < keys.size(); ++i) {
        EXPECT_TRUE(written[i] || keys[i] == untouched) << i;
        EXPECT_TRUE(value_written[i] || values[i] == untouched) << i;
      }
      if (HasFailure()) {
        return;
      }
    }
  }
}

// Rounding, saturation and NaN, bit by bit.
TEST_P(KvWriteTest, WriteKvCacheStoresTheNearest) {
  const std::vector<float> x = RoundedAs(
      GetParam().activation, {0.0f, -0.0f, 1.0f, 1e-9f, 70000.0f, -1e30f, 448.0f, 0.3f, -2.7f,
                              65504.0f, 3e38f, 17.0f, 1e-5f, 460.0f, -0.013f, 6.1e-5f});
  for (const DType dtype : GetParam().backend->kv_dtypes) {
    OpsDevice device(*GetParam().backend);
    const auto width = static_cast<int64_t>(x.size());
    const std::vector<uint8_t> empty(16 * width * DTypeSize(dtype));
    const KvLayout& layout = GetParam().backend->kv_layout;
    const auto key_shape = layout.KeyShape(1, 1, width);
    const TensorView states = device.PutFloats(x, GetParam().activation, {1, 1, width});
    PagedKv cache{device.Put(empty, dtype, {1, 1, key_shape[2], key_shape[3]}),
                  device.Put(empty, dtype, {1, 1, 16, width})};
    if (dtype == DType::kF8E4M3) {
      cache.key_scale = cache.value_scale = 0.37f;
    }
    ops().write_kv_cache(
        device.context(),
        {.key = states, .value = states, .slot = device.PutInts({5}), .cache = cache});
    const std::vector<float> keys = device.GetFloats(cache.key);
    const std::vector<float> values = device.GetFloats(cache.value);
    for (int64_t i = 0; i < width; ++i) {
      const float largest = dtype == DType::kF16 ? 65504.0f : 0x1.fep127f;
      const float expected = dtype == DType::kF8E4M3 ? RoundedAs(dtype, x[i] / 0.37f)
                             : dtype == DType::kF32
                                 ? x[i]
                                 : RoundedAs(dtype, std::clamp(x[i], -largest, largest));
      EXPECT_EQ(keys[layout.transposed_keys ? i * 16 + 5 : 5 * width + i], expected) << x[i];
      EXPECT_EQ(values[5 * width + i], expected) << x[i];
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, KvWriteTest, ::testing::ValuesIn(AllOpsUnderTest()),
                         [](const auto& test) { return test.param.Name(); });

}  // namespace
}  // namespace dualfp
