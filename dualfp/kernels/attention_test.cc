// Every implementation of paged attention against loops in double, and against itself: on the CPU,
// batches, chunks and threads must not change a bit; on a GPU where it is said.

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "dualfp/kernels/attention_test_util.h"

namespace dualfp {
namespace {

class AttentionTest : public ::testing::TestWithParam<OpsUnderTest> {
 protected:
  const OpTable& ops() const { return *GetParam().backend->ops; }
  bool on_gpu() const { return GetParam().backend->device == DeviceType::kCuda; }

  // Those that the backend takes.
  std::vector<AttentionCase> Shapes() const {
    static const AttentionCase kShapes[] = {
        {4, 4, 64, 0, DType::kF32},     // one query head a kv head
        {8, 2, 128, 0, DType::kF16},    // groups of four
        {6, 2, 96, 40, DType::kF32},    // groups of three, a window
        {5, 1, 80, 0, DType::kF8E4M3},  // one kv head, FP8 cache
        {24, 1, 36, 5, DType::kF16},    // more heads a token than an item's rows; an odd head_dim
        {2, 1, 256, 64, DType::kF8E4M3},
        {6, 3, 64, 0, DType::kF8E4M3},  // a scale for each kv head, on the CPU
    };
    static const AttentionCase kForGpu[] = {
        {8, 1, 64, 0, DType::kBF16},   {16, 1, 128, 0, DType::kF8E4M3},
        {24, 1, 64, 30, DType::kF16},  {3, 3, 80, 0, DType::kF16},
        {6, 2, 96, 40, DType::kBF16},  {4, 2, 256, 0, DType::kF16},
        {4, 2, 256, 0, DType::kBF16},  {4, 4, 96, 0, DType::kF8E4M3},
        {8, 2, 128, 50, DType::kBF16}, {8, 2, 64, 0, DType::kF8E4M3},
        {136, 1, 64, 0, DType::kF16},  {6, 2, 40, 0, DType::kBF16},
    };
    std::vector<AttentionCase> shapes(std::begin(kShapes), std::end(kShapes));
    if (on_gpu()) {
      shapes.insert(shapes.end(), std::begin(kForGpu), std::end(kForGpu));
    }
    return shapes;
  }
};

std::string Name(const AttentionCase& shape) {
  return testing::PrintToString(shape.heads) + "/" + testing::PrintToString(shape.kv_heads) +
         " x " + testing::PrintToString(shape.head_dim) + " window " +
         testing::PrintToString(shape.window) + " " + std::string(DTypeName(shape.dtype));
}

TEST_P(AttentionTest, AgreesWithDouble) {
  for (const AttentionCase& shape : Shapes()) {
    SCOPED_TRACE(Name(shape));
    Sequences sequences(GetParam(), shape, {1, 17, 64, 65, 150}, 3);
    sequences.OnePrefill();
    sequences.CompareWithDouble();
    if (HasFatalFailure()) {
      return;
    }
  }
}

// Decodes, drafted tokens and chunks of prefills in one step, at contexts that are cut into pieces.
TEST_P(AttentionTest, MixedStepsAgreeWithDouble) {
  for (const AttentionCase& shape : Shapes()) {
    for (const bool batch_invariant : {false, true}) {
      if (batch_invariant && !on_gpu()) {
        continue;  // always is
      }
      SCOPED_TRACE(Name(shape));
      Sequences sequences(GetParam(), shape, {700, 33, 200, 1, 258}, 3, batch_invariant);
      sequences.Step({0, 0, 0, 0, 0}, {500, 20, 150, 0, 256});
      sequences.Step({500, 20, 150, 0, 256}, {699, 21, 153, 1, 257});
      sequences.Step({699, 21, 153, 1, 257}, {700, 33, 200, 1, 258});
      sequences.CompareWithDouble(53);
      if (HasFatalFailure()) {
        return;
      }
    }
  }
}

TEST_P(AttentionTest, ChunksBatchesAndThreadsDoNotChangeABit) {
  const std::vector<int32_t> lengths = {130, 33, 200};
  for (const AttentionCase& shape : Shapes()) {
    SCOPED_TRACE(Name(shape));
    if (UsesTensorCores(GetParam(), shape)) {
      continue;  // see what follows
    }
    Sequences whole(GetParam(), shape, lengths, 1);
    whole.OnePrefill();

    Sequences chunked(GetParam(), shape, lengths, 3);
    chunked.Step({0, 0, 0}, {1, 32, 0});
    chunked.Step({1, 32, 0}, {64, 33, 150});     // a decode among prefills
    chunked.Step({64, 33, 150}, {67, 33, 199});  // several query tokens of a decoding sequence
    chunked.Step({67, 33, 199}, {130, 33, 200});
    EXPECT_EQ(whole.out(), chunked.out());

    Sequences decoded(GetParam(), shape, lengths, 2);
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

// What a GPU promises of tensor cores: prefills do not depend on how they are cut, as long as they
// are prefills, and decodes not on their batch, where that is asked for.
TEST_P(AttentionTest, OnAGpuPrefillsKeepTheirBitsAndInvariantDecodesDo) {
  for (const AttentionCase& shape : Shapes()) {
    if (!UsesTensorCores(GetParam(), shape)) {
      continue;
    }
    SCOPED_TRACE(Name(shape));
    const std::vector<int32_t> lengths = {230, 300, 100};
    Sequences whole(GetParam(), shape, lengths, 1);
    whole.OnePrefill();
    Sequences chunked(GetParam(), shape, lengths, 1);
    chunked.Step({0, 0, 0}, {90, 300, 0});
    chunked.Step({90, 300, 0}, {230, 300, 100});
    EXPECT_EQ(whole.out(), chunked.out());

    Sequences together(GetParam(), shape, {400, 33, 1000, 260}, 1, true);
    together.OneDecode();
    for (const auto& [sequence, length] : {std::pair{0, 400}, std::pair{2, 1000}}) {
      std::vector<int32_t> before = {399, 32, 999, 259};
      std::vector<int32_t> after = before;
      after[sequence] = length;
      Sequences alone(GetParam(), shape, {400, 33, 1000, 260}, 1, true);
      alone.Step({0, 0, 0, 0}, before);
      alone.Step(before, after);
      EXPECT_EQ(alone.OutOf(sequence, length - 1), together.OutOf(sequence, length - 1));
    }
    // Again: the counters that merge pieces are where they were.
    Sequences again(GetParam(), shape, {400, 33, 1000, 260}, 1, true);
    again.OneDecode();
    EXPECT_EQ(again.out(), together.out());
  }
}

// Drafted tokens are overwritten by the verified ones.
TEST_P(AttentionTest, RewrittenPositionsCountOnce) {
  const AttentionCase shape{4, 2, 64, 0, DType::kF16};
  Sequences once(GetParam(), shape, {40}, 1);
  once.OnePrefill();
  Sequences twice(GetParam(), shape, {40}, 1);
  twice.Step({0}, {40});
  twice.Step({30}, {40});
  twice.CompareWithDouble();
  if (!UsesTensorCores(GetParam(), shape)) {
    EXPECT_EQ(once.out(), twice.out());
  }
}

// A plan's items are each row of each sequence once, and fit into what was reserved for the largest
// step of any mix of sequences.
TEST_P(AttentionTest, PlansCoverEveryRowOnce) {
  const OpTable& ops = *GetParam().backend->ops;
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

INSTANTIATE_TEST_SUITE_P(All, AttentionTest, ::testing::ValuesIn(AllOpsUnderTest()),
                         [](const auto& test) { return test.param.Name(); });

}  // namespace
}  // namespace dualfp
