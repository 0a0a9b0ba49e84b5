// Sequences that attention tests take step by step, and what loops in double make of them.

#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "dualfp/kernels/backend_test_util.h"

namespace dualfp {

struct AttentionCase {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t window;
  DType dtype;
};

// Whether 16-bit products are summed, of queries and weights rounded to the type that the cache is
// multiplied in.
inline bool UsesTensorCores(const OpsUnderTest& test, const AttentionCase& shape) {
  const bool compiled = shape.head_dim == 64 || shape.head_dim == 80 || shape.head_dim == 96 ||
                        shape.head_dim == 128 || shape.head_dim == 256;
  return test.backend->device == DeviceType::kCuda && compiled && test.activation != DType::kF32 &&
         shape.dtype != DType::kF32;
}

// Sequences with their whole keys and values, and a cache that they are written to through
// shuffled block tables.
class Sequences {
 public:
  Sequences(const OpsUnderTest& test, const AttentionCase& shape, std::vector<int32_t> lengths,
            int num_threads, bool batch_invariant = false)
      : test_(test),
        ops_(*test.backend->ops),
        shape_(shape),
        lengths_(std::move(lengths)),
        batch_invariant_(batch_invariant),
        device_(*test.backend, num_threads) {
    int32_t blocks = 0;
    for (const int32_t length : lengths_) {
      begin_.push_back(tokens_);
      tokens_ += length;
      max_blocks_ = std::max<int64_t>(max_blocks_, (length + 15) / 16);
      blocks += (length + 15) / 16;
    }
    std::vector<int32_t> pool(blocks + 3);
    std::iota(pool.begin(), pool.end(), 0);
    std::shuffle(pool.begin(), pool.end(), std::mt19937(7));
    for (const int32_t length : lengths_) {
      tables_.emplace_back(pool.end() - (length + 15) / 16, pool.end());
      pool.resize(pool.size() - (length + 15) / 16);
    }
    const int64_t kv_width = shape.kv_heads * shape.head_dim;
    query_ = Random(tokens_ * shape.heads * shape.head_dim, 1);
    key_ = Random(tokens_ * kv_width, 2);
    value_ = Random(tokens_ * kv_width, 3);
    // A GPU keeps to what has been written: the rest may be NaN.
    const int64_t cache_bytes = (blocks + 3) * kKvBlockSize * kv_width * DTypeSize(shape.dtype);
    const std::vector<uint8_t> unwritten(cache_bytes,
                                         test.backend->device == DeviceType::kCuda ? 0xff : 0);
    const KvLayout& layout = test.backend->kv_layout;
    const auto put = [&](const std::array<int64_t, 4>& s) {
      return device_.Put(unwritten, shape.dtype, {s[0], s[1], s[2], s[3]});
    };
    cache_.key = put(layout.KeyShape(blocks + 3, shape.kv_heads, shape.head_dim));
    cache_.value = put(layout.ValueShape(blocks + 3, shape.kv_heads, shape.head_dim));
    if (shape.dtype == DType::kF8E4M3) {
      cache_.key_scale = 0.03125f * 1.1f;
      cache_.value_scale = 0.0625f * 0.9f;
      // Heads have their own where the backend takes them.
      if (shape.kv_heads > 1 && test.backend->device == DeviceType::kCpu) {
        for (int64_t head = 0; head < shape.kv_heads; ++head) {
          key_head_scales_.push_back(cache_.key_scale * (1.0f + 0.7f * static_cast<float>(head)));
          value_head_scales_.push_back(cache_.value_scale / (1.0f + static_cast<float>(head)));
        }
        cache_.key_head_scales = {key_head_scales_.data(), DType::kF32, {shape.kv_heads}};
        cache_.value_head_scales = {value_head_scales_.data(), DType::kF32, {shape.kv_heads}};
      }
    }
    out_.assign(tokens_ * shape.heads * shape.head_dim, NAN);
  }

  // One step: sequence s advances from `from[s]` to `to[s]` tokens.
  void Step(const std::vector<int32_t>& from, const std::vector<int32_t>& to) {
    std::vector<int32_t> query_start = {0}, context, table, slot;
    std::vector<float> q, k, v;
    const int64_t width = shape_.heads * shape_.head_dim;
    const int64_t kv_width = shape_.kv_heads * shape_.head_dim;
    std::vector<int64_t> rows;
    for (size_t s = 0; s < lengths_.size(); ++s) {
      if (to[s] == from[s]) {
        continue;
      }
      for (int32_t p = from[s]; p < to[s]; ++p) {
        const int64_t row = begin_[s] + p;
        rows.push_back(row);
        q.insert(q.end(), &query_[row * width], &query_[row * width] + width);
        k.insert(k.end(), &key_[row * kv_width], &key_[row * kv_width] + kv_width);
        v.insert(v.end(), &value_[row * kv_width], &value_[row * kv_width] + kv_width);
        slot.push_back(tables_[s][p / 16] * 16 + p % 16);
      }
      query_start.push_back(static_cast<int32_t>(rows.size()));
      context.push_back(to[s]);
      std::vector<int32_t> padded = tables_[s];
      padded.resize(max_blocks_, -1);
      table.insert(table.end(), padded.begin(), padded.end());
    }
    const auto tokens = static_cast<int64_t>(rows.size());
    const auto count = static_cast<int64_t>(context.size());
    const DType dtype = test_.activation;
    Context& run = device_.context();
    const std::initializer_list<int64_t> kv_shape = {tokens, shape_.kv_heads, shape_.head_dim};
    ops_.write_kv_cache(run, {.key = device_.PutFloats(k, dtype, kv_shape),
                              .value = device_.PutFloats(v, dtype, kv_shape),
                              .slot = device_.PutInts(slot),
                              .cache = cache_});
    const AttentionShape shape{shape_.heads, shape_.kv_heads, shape_.head_dim};
    AttentionPlan plan;
    plan.batch_invariant = batch_invariant_;
    ops_.plan_attention(shape, query_start, context, &plan);
    const AttentionNeeds most = ops_.attention_needs(shape, {.max_rows = tokens,
                                                             .max_sequences = count,
                                                             .max_context = max_blocks_ * 16,
                                                             .batch_invariant = batch_invariant_});
    EXPECT_LE(static_cast<int64_t>(plan.items.size()), most.items);
    EXPECT_LE(plan.workspace_bytes, most.workspace_bytes);
    run.workspace = device_.Put(std::vector<uint8_t>(plan.workspace_bytes, 0xff), DType::kU8,
                                {plan.workspace_bytes});
    const TensorView out = device_.PutFloats(std::vector<float>(tokens * width, NAN), dtype,
                                             {tokens, shape_.heads, shape_.head_dim});
    ops_.paged_attention(
        run,
        {.query = device_.PutFloats(q, dtype, {tokens, shape_.heads, shape_.head_dim}),
         .cache = cache_,
         .query_start = device_.PutInts(query_start),
         .context_length = device_.PutInts(context),
         .block_table = device_.PutInts(table, {count, max_blocks_}),
         .scale = Scale(),
         .sliding_window = shape_.window,
         .out = out},
        plan);
    const std::vector<float> got = device_.GetFloats(out);
    for (int64_t i = 0; i < tokens; ++i) {
      std::memcpy(&out_[rows[i] * width], &got[i * width], width * sizeof(float));
    }
  }

  void OnePrefill() { Step(std::vector<int32_t>(lengths_.size(), 0), lengths_); }

  // The last token of each as a decode, all in one step.
  void OneDecode() {
    std::vector<int32_t> before = lengths_;
    for (int32_t& length : before) {
      --length;
    }
    Step(std::vector<int32_t>(lengths_.size(), 0), before);
    Step(before, lengths_);
  }

  float Scale() const { return 1 / std::sqrt(static_cast<float>(shape_.head_dim)); }
  const std::vector<float>& out() const { return out_; }
  std::vector<float> OutOf(size_t sequence, int32_t position) const {
    const int64_t width = shape_.heads * shape_.head_dim;
    const auto begin = out_.begin() + (begin_[sequence] + position) * width;
    return {begin, begin + width};
  }

  // What the cache holds of keys or values.
  std::vector<double> Cached(const std::vector<float>& x, float all,
                             const std::vector<float>& heads) const {
    std::vector<double> cached(x.size());
    for (size_t i = 0; i < x.size(); ++i) {
      const float scale = heads.empty() ? all : heads[i / shape_.head_dim % heads.size()];
      cached[i] = shape_.dtype == DType::kF8E4M3
                      ? double{RoundedAs(shape_.dtype, x[i] / scale)} * scale
                      : RoundedAs(shape_.dtype, x[i]);
    }
    return cached;
  }

  // Every `step`-th position, and the last ones.
  void CompareWithDouble(int32_t step = 1) const {
    const int64_t dim = shape_.head_dim;
    const std::vector<double> keys = Cached(key_, cache_.key_scale, key_head_scales_);
    const std::vector<double> values = Cached(value_, cache_.value_scale, value_head_scales_);
    constexpr double kEps = 5.96e-8;
    // Of a query's rounding to the cache's type, and of a weight's.
    const bool rounds = UsesTensorCores(test_, shape_);
    const DType matrix = shape_.dtype == DType::kF8E4M3 ? DType::kF16 : shape_.dtype;
    const double query_error = rounds && test_.activation != matrix ? UnitRoundoff(matrix) : 0.0;
    const double weight_error = rounds ? UnitRoundoff(matrix) + 0x1p-20 : 0.0;
    for (size_t s = 0; s < lengths_.size(); ++s) {
      for (int32_t p = 0; p < lengths_[s]; ++p) {
        if (p % step != 0 && p + 4 < lengths_[s]) {
          continue;
        }
        for (int64_t head = 0; head < shape_.heads; ++head) {
          const int64_t kv_head = head / (shape_.heads / shape_.kv_heads);
          const auto at = [&](int32_t key) {
            return ((begin_[s] + key) * shape_.kv_heads + kv_head) * dim;
          };
          const int64_t row = (begin_[s] + p) * shape_.heads + head;
          const int32_t first = shape_.window > 0 ? std::max<int32_t>(0, p - shape_.window + 1) : 0;
          std::vector<double> score(p + 1);
          double largest = -INFINITY, size = 0;
          for (int32_t key = first; key <= p; ++key) {
            double dot = 0, magnitude = 0;
            for (int64_t d = 0; d < dim; ++d) {
              const double term = query_[row * dim + d] * keys[at(key) + d];
              dot += term;
              magnitude += std::abs(term);
            }
            score[key] = dot * Scale();
            largest = std::max(largest, score[key]);
            size = std::max(size, magnitude * Scale());
          }
          double sum = 0;
          for (int32_t key = first; key <= p; ++key) {
            sum += std::exp(score[key] - largest);
          }
          for (int64_t d = 0; d < dim; ++d) {
            double expected = 0, magnitude = 0;
            for (int32_t key = first; key <= p; ++key) {
              const double term = std::exp(score[key] - largest) / sum * values[at(key) + d];
              expected += term;
              magnitude += std::abs(term);
            }
            // A score's rounding error (head_dim additions) is a relative error of its weight, in
            // the numerator and in the sum; then come the additions over the keys, and what the
            // result is stored as.
            const double bound = (kEps * (2 * (dim + 4) * size + 2 * (p + 1 - first) + 16) +
                                  2 * query_error * size + 2 * weight_error) *
                                 magnitude;
            const double stored =
                test_.activation == DType::kF32
                    ? 0.0
                    : UnitRoundoff(test_.activation) * (std::abs(expected) + bound) +
                          SubnormalRoundoff(test_.activation);
            ASSERT_NEAR(out_[row * dim + d], expected, bound + stored)
                << "sequence " << s << " position " << p << " head " << head << " d " << d;
          }
        }
      }
    }
  }

 private:
  std::vector<float> Random(int64_t count, uint32_t seed) const {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) {
      value = RoundedAs(test_.activation, normal(generator));
    }
    return values;
  }

  OpsUnderTest test_;
  const OpTable& ops_;
  AttentionCase shape_;
  std::vector<int32_t> lengths_;
  bool batch_invariant_;
  OpsDevice device_;
  std::vector<int64_t> begin_;
  int64_t tokens_ = 0;
  int64_t max_blocks_ = 0;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<float> query_, key_, value_, out_;
  PagedKv cache_;
  std::vector<float> key_head_scales_, value_head_scales_;
};

}  // namespace dualfp
