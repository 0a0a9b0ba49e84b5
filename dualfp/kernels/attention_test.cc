// Every implementation of paged attention against loops in double, and against itself: batches,
// chunks and threads must not change a bit.

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "dualfp/kernels/backend_test_util.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

struct Shape {
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t window;
  DType dtype;
};

// Sequences with their whole keys and values, and a cache that they are written to through
// shuffled block tables.
class Sequences {
 public:
  Sequences(const OpTable& ops, const Shape& shape, std::vector<int32_t> lengths, int num_threads)
      : ops_(ops), shape_(shape), lengths_(std::move(lengths)), threads_(num_threads) {
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
    const int64_t cache_elements = (blocks + 3) * kKvBlockSize * kv_width;
    const size_t cache_bytes = cache_elements * DTypeSize(shape.dtype);
    key_cache_.assign(cache_bytes, 0);
    value_cache_.assign(cache_bytes, 0);
    cache_.key = {
        key_cache_.data(), shape.dtype, {blocks + 3, shape.kv_heads, shape.head_dim, kKvBlockSize}};
    cache_.value = {value_cache_.data(),
                    shape.dtype,
                    {blocks + 3, shape.kv_heads, kKvBlockSize, shape.head_dim}};
    if (shape.dtype == DType::kF8E4M3) {
      cache_.key_scale = 0.03125f * 1.1f;
      cache_.value_scale = 0.0625f * 0.9f;
    }
    const std::vector<float> poison(tokens_ * shape.heads * shape.head_dim, NAN);
    out_ = poison;
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
    std::vector<float> out(tokens * width, NAN);
    const Context run{.threads = &threads_};
    ops_.write_kv_cache(
        run, {.key = {k.data(), DType::kF32, {tokens, shape_.kv_heads, shape_.head_dim}},
              .value = {v.data(), DType::kF32, {tokens, shape_.kv_heads, shape_.head_dim}},
              .slot = {slot.data(), DType::kI32, {tokens}},
              .cache = cache_});
    const AttentionShape shape{shape_.heads, shape_.kv_heads, shape_.head_dim};
    AttentionPlan plan;
    ops_.plan_attention(shape, query_start, context, &plan);
    const AttentionNeeds most = ops_.attention_needs(
        shape, {.max_rows = tokens, .max_sequences = count, .max_context = max_blocks_ * 16});
    EXPECT_LE(static_cast<int64_t>(plan.items.size()), most.items);
    EXPECT_LE(plan.workspace_bytes, most.workspace_bytes);
    ops_.paged_attention(
        run,
        {.query = {q.data(), DType::kF32, {tokens, shape_.heads, shape_.head_dim}},
         .cache = cache_,
         .query_start = {query_start.data(), DType::kI32, {count + 1}},
         .context_length = {context.data(), DType::kI32, {count}},
         .block_table = {table.data(), DType::kI32, {count, max_blocks_}},
         .scale = Scale(),
         .sliding_window = shape_.window,
         .out = {out.data(), DType::kF32, {tokens, shape_.heads, shape_.head_dim}}},
        plan);
    for (int64_t i = 0; i < tokens; ++i) {
      std::memcpy(&out_[rows[i] * width], &out[i * width], width * sizeof(float));
    }
  }

  void OnePrefill() { Step(std::vector<int32_t>(lengths_.size(), 0), lengths_); }

  float Scale() const { return 1 / std::sqrt(static_cast<float>(shape_.head_dim)); }
  const std::vector<float>& out() const { return out_; }

  // What the cache holds of a key or value.
  double Cached(float x, float scale) const {
    switch (shape_.dtype) {
      case DType::kF16:
        return Fp16ToFloat(FloatToFp16(x));
      case DType::kF8E4M3:
        return double{E4m3ToFloat(FloatToE4m3(x / scale))} * scale;
      default:
        return x;
    }
  }

  void CompareWithDouble() const {
    const int64_t dim = shape_.head_dim;
    for (size_t s = 0; s < lengths_.size(); ++s) {
      for (int32_t p = 0; p < lengths_[s]; ++p) {
        for (int64_t head = 0; head < shape_.heads; ++head) {
          const int64_t kv_head = head / (shape_.heads / shape_.kv_heads);
          const auto cached = [&](const std::vector<float>& x, int32_t key, int64_t d,
                                  float scale) {
            return Cached(x[((begin_[s] + key) * shape_.kv_heads + kv_head) * dim + d], scale);
          };
          const int64_t row = (begin_[s] + p) * shape_.heads + head;
          const int32_t first = shape_.window > 0 ? std::max<int32_t>(0, p - shape_.window + 1) : 0;
          std::vector<double> score(p + 1);
          double largest = -INFINITY, size = 0;
          for (int32_t key = first; key <= p; ++key) {
            double dot = 0, magnitude = 0;
            for (int64_t d = 0; d < dim; ++d) {
              const double term = query_[row * dim + d] * cached(key_, key, d, cache_.key_scale);
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
              const double term =
                  std::exp(score[key] - largest) / sum * cached(value_, key, d, cache_.value_scale);
              expected += term;
              magnitude += std::abs(term);
            }
            // A score's rounding error (head_dim additions) is a relative error of its weight, in
            // the numerator and in the sum; then come the additions over the keys.
            const double bound =
                5.96e-8 * (2 * (dim + 4) * size + 2 * (p + 1 - first) + 16) * magnitude;
            ASSERT_NEAR(out_[row * dim + d], expected, bound)
                << "sequence " << s << " position " << p << " head " << head << " d " << d;
          }
        }
      }
    }
  }

 private:
  static std::vector<float> Random(int64_t count, uint32_t seed) {
    std::mt19937 generator(seed);
    std::normal_distribution<float> normal;
    std::vector<float> values(count);
    for (float& value : values) {
      value = normal(generator);
    }
    return values;
  }

  const OpTable& ops_;
  Shape shape_;
  std::vector<int32_t> lengths_;
  ThreadPool threads_;
  std::vector<int64_t> begin_;
  int64_t tokens_ = 0;
  int64_t max_blocks_ = 0;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<float> query_, key_, value_, out_;
  std::vector<char> key_cache_, value_cache_;
  PagedKv cache_;
};

class AttentionTest : public ::testing::TestWithParam<const Backend*> {};

const Shape kShapes[] = {
    {4, 4, 64, 0, DType::kF32},     // one query head a kv head
    {8, 2, 128, 0, DType::kF16},    // groups of four
    {6, 2, 96, 40, DType::kF32},    // groups of three, a window
    {5, 1, 80, 0, DType::kF8E4M3},  // one kv head, FP8 cache
    {24, 1, 36, 5, DType::kF16},    // more heads a token than an item's rows; an odd head_dim
    {2, 1, 256, 64, DType::kF8E4M3},
};

TEST_P(AttentionTest, AgreesWithDouble) {
  for (const Shape& shape : kShapes) {
    SCOPED_TRACE(testing::Message() << shape.heads << "/" << shape.kv_heads << " x "
                                    << shape.head_dim << " window " << shape.window);
    Sequences sequences(*GetParam()->ops, shape, {1, 17, 64, 65, 150}, 3);
    sequences.OnePrefill();
    sequences.CompareWithDouble();
    if (HasFatalFailure()) {
      return;
    }
  }
}

TEST_P(AttentionTest, ChunksBatchesAndThreadsDoNotChangeABit) {
  const std::vector<int32_t> lengths = {130, 33, 200};
  for (const Shape& shape : kShapes) {
    Sequences whole(*GetParam()->ops, shape, lengths, 1);
    whole.OnePrefill();

    Sequences chunked(*GetParam()->ops, shape, lengths, 3);
    chunked.Step({0, 0, 0}, {1, 32, 0});
    chunked.Step({1, 32, 0}, {64, 33, 150});     // a decode among prefills
    chunked.Step({64, 33, 150}, {67, 33, 199});  // several query tokens of a decoding sequence
    chunked.Step({67, 33, 199}, {130, 33, 200});
    EXPECT_EQ(whole.out(), chunked.out());

    Sequences decoded(*GetParam()->ops, shape, lengths, 2);
    std::vector<int32_t> done = {0, 0, 0};
    while (done != lengths) {
      std::vector<int32_t> next = done;
      for (int s = 0; s < 3; ++s) {
        next[s] = std::min(lengths[s], done[s] + 1);
      }
      decoded.Step(done, next);
      done = next;
    }
    EXPECT_EQ(whole.out(), decoded.out());
  }
}

// Drafted tokens are overwritten by the verified ones.
TEST_P(AttentionTest, RewrittenPositionsCountOnce) {
  const Shape shape{4, 2, 64, 0, DType::kF16};
  Sequences once(*GetParam()->ops, shape, {40}, 1);
  once.OnePrefill();
  Sequences twice(*GetParam()->ops, shape, {40}, 1);
  twice.Step({0}, {40});
  twice.Step({30}, {40});
  EXPECT_EQ(once.out(), twice.out());
}

// A plan's items are each row of each sequence once, and fit into what was reserved for the largest
// step of any mix of sequences.
TEST_P(AttentionTest, PlansCoverEveryRowOnce) {
  const OpTable& ops = *GetParam()->ops;
  constexpr AttentionLimits kLimits{.max_rows = 128, .max_sequences = 20, .max_context = 1000};
  std::mt19937 random(3);
  for (const AttentionShape& shape :
       {AttentionShape{8, 8, 64}, AttentionShape{8, 2, 64}, AttentionShape{24, 1, 64}}) {
    const AttentionNeeds most = ops.attention_needs(shape, kLimits);
    for (int round = 0; round < 200; ++round) {
      std::vector<int32_t> start = {0}, context;
      while (std::ssize(context) < kLimits.max_sequences && start.back() < kLimits.max_rows) {
        const auto left = static_cast<int32_t>(kLimits.max_rows) - start.back();
        const int32_t rows =
            round == 0 ? std::min(7, left) : 1 + static_cast<int32_t>(random() % left);
        start.push_back(start.back() + rows);
        context.push_back(rows + static_cast<int32_t>(random() % 500));
      }
      AttentionPlan plan;
      ops.plan_attention(shape, start, context, &plan);
      ASSERT_LE(std::ssize(plan.items), most.items);
      std::vector<int> times(start.back(), 0);
      for (const AttentionItem& item : plan.items) {
        ASSERT_LT(item.row_begin, item.row_end);
        ASSERT_LE(start[item.sequence], item.row_begin);
        ASSERT_LE(item.row_end, start[item.sequence + 1]);
        for (int32_t row = item.row_begin; row < item.row_end; ++row) {
          ++times[row];
        }
      }
      ASSERT_EQ(times, std::vector<int>(start.back(), 1));
    }
  }
}

TEST(AttentionPlanTest, PlanningAStepKeepsWhatWasReserved) {
  const AttentionShape shape{4, 2, 64};
  AttentionPlan plan =
      MakeAttentionPlan(DeviceType::kCpu, shape, {.max_rows = 64, .max_sequences = 8});
  const AttentionItem* const memory = plan.items.data();
  const std::vector<int32_t> start = {0, 1, 33, 64};
  const std::vector<int32_t> context = {50, 32, 40};
  for (int step = 0; step < 3; ++step) {
    PlanPagedAttention(DeviceType::kCpu, shape, start, context, &plan);
    EXPECT_FALSE(plan.items.empty());
    EXPECT_EQ(plan.items.data(), memory);
  }
}

TEST(AttentionPlanTest, LengthsThatCannotBeAreErrors) {
  AttentionPlan plan;
  const auto try_lengths = [&](std::vector<int32_t> start, std::vector<int32_t> context) {
    PlanPagedAttention(DeviceType::kCpu, {4, 2, 64}, start, context, &plan);
  };
  EXPECT_NO_THROW(try_lengths({0, 3}, {3}));
  EXPECT_THROW(try_lengths({0, 3}, {2}), Error);
  EXPECT_THROW(try_lengths({3, 0}, {3}), Error);
  EXPECT_THROW(try_lengths({0, 1}, {1, 1}), Error);
  EXPECT_THROW(MakeAttentionPlan(DeviceType::kCpu, {4, 3, 64}, {}), Error);
  EXPECT_THROW(MakeAttentionPlan(DeviceType::kCpu, {4, 2, kMaxHeadDim + 1}, {}), Error);
}

INSTANTIATE_TEST_SUITE_P(All, AttentionTest, ::testing::ValuesIn(BackendsWithOps()),
                         [](const auto& test) { return std::string(test.param->name); });

}  // namespace
}  // namespace dualfp
