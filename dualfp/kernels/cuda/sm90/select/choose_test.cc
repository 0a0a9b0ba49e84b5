// Selection needs no GPU: the kernel list, the cost model and the tuned rows are host data.

#include "dualfp/kernels/cuda/sm90/select/choose.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>
#include <string>

#include "dualfp/base/error.h"

namespace dualfp::sm90 {
namespace {

using ::testing::HasSubstr;

constexpr WeightFormat kFormats[] = {WeightFormat::kNested,       WeightFormat::kNested12F16,
                                     WeightFormat::kNested12Bf16, WeightFormat::kE4m3,
                                     WeightFormat::kE4m3Promoted, WeightFormat::kF16,
                                     WeightFormat::kBf16};

Choice ChooseBuiltIn(const GemmProblem& problem) {
  return Choose(problem, DeviceModel(), {&BuiltInTable()});
}

TEST(ChooseTest, KernelNamesAreUnique) {
  std::set<std::string> names;
  for (const KernelConfig& config : KernelConfigs()) {
    EXPECT_TRUE(names.insert(Name(config)).second) << Name(config);
    EXPECT_LE(config.shared_bytes, 232448) << Name(config);
  }
}

TEST(ChooseTest, PlansAreFoundByTheirNames) {
  std::set<std::string> names;
  for (const Plan& plan : AllPlans()) {
    EXPECT_TRUE(names.insert(Name(plan)).second) << Name(plan);
    const Plan found = PlanByName(Name(plan));
    EXPECT_EQ(found.config, plan.config);
    EXPECT_EQ(Name(found), Name(plan));
  }
  EXPECT_THROW(PlanByName("nested_split_r1_t1_k1"), Error);
}

// Reading the table checks that each plan exists and can run its row: a kernel that was removed
// while a row names it fails here.
TEST(ChooseTest, TunedRowsAreTheChoice) {
  ASSERT_FALSE(BuiltInTable().rows.empty());
  for (const TunedRow& row : BuiltInTable().rows) {
    const GemmProblem p = DenseProblem(row.format, row.m, row.n, row.k);
    const Choice choice = ChooseBuiltIn(p);
    ASSERT_EQ(choice.row, &row) << row.line;
    EXPECT_EQ(Name(choice.plan), Name(row.plan)) << row.line;
    EXPECT_EQ(choice.microseconds, row.microseconds);
  }
}

// For fewer tokens than its own a row counts where its plan is no worse by the model than there.
TEST(ChooseTest, BetweenRowsTheUpperOneCountsWhereItSuits) {
  const TunedTable table = ParseTunedTable(
      "dualfp-tuned-table 2\ndevice 132 NVIDIA H200\n"
      "nested 65536 5120\n"
      "256 persistent_r128_t256_k64/x2 300\n"
      "1024 persistent_r128_t256_k64/w2 1000\n",
      "t");
  const auto row = [&](int m) {
    return Choose(DenseProblem(WeightFormat::kNested, m, 65536, 5120), DeviceModel(), {&table}).row;
  };
  EXPECT_EQ(row(1024), &table.rows[1]);
  EXPECT_EQ(row(1020), &table.rows[1]);
  EXPECT_EQ(row(256), &table.rows[0]);
  EXPECT_EQ(row(250), &table.rows[0]);
  EXPECT_EQ(row(640), nullptr) << "half of the last tiles would hold no tokens";
  EXPECT_EQ(row(16), nullptr);
  EXPECT_EQ(row(1025), nullptr) << "there is none that large";
}

TEST(ChooseTest, AnyShapeHasAPlan) {
  int chosen = 0;
  for (const WeightFormat format : kFormats) {
    for (int m = 1; m <= 9000; m += 1 + m / 3) {
      for (int n = 16; n <= 130'000; n += 16 * (1 + n / 48)) {
        for (int k = 16; k <= 60'000; k += 16 * (1 + k / 32)) {
          const GemmProblem p = DenseProblem(format, m, n, k);
          const Plan plan = ChooseBuiltIn(p).plan;
          ASSERT_EQ(Unsupported(plan, p), "") << Name(plan) << " " << m << " " << n << " " << k;
          ASSERT_EQ(plan.config->format, format);
          ++chosen;
        }
      }
    }
  }
  EXPECT_GT(chosen, 10'000);
}

TEST(ChooseTest, TheSameProblemHasTheSameChoice) {
  for (const int m : {1, 77, 500}) {
    const GemmProblem p = DenseProblem(WeightFormat::kE4m3, m, 3184, 2000);
    const DeviceModel device;
    const Tables tables = {&BuiltInTable()};
    EXPECT_EQ(Name(Choose(p, device, tables).plan), Name(Choose(p, device, tables).plan));
    EXPECT_EQ(Explain(p, device, tables, 3), Explain(p, device, tables, 3));
  }
}

TEST(ChooseTest, EstimatesArePositiveAndGrowWithTheProblem) {
  for (const WeightFormat format : kFormats) {
    const GemmProblem problem = DenseProblem(format, 512, 4096, 4096);
    const GemmProblem larger = DenseProblem(format, 4096, 8192, 8192);
    for (const RankedPlan& ranked : RankPlans(problem, DeviceModel())) {
      ASSERT_GT(ranked.microseconds, 0) << Name(ranked.plan);
      ASSERT_GT(EstimateCost(ranked.plan, larger, DeviceModel()).total, ranked.microseconds)
          << Name(ranked.plan);
    }
  }
}

TEST(ChooseTest, EpiloguesAndTypesNarrowTheChoice) {
  GemmProblem p = DenseProblem(WeightFormat::kNested, 4096, 4096, 4096);
  EXPECT_NE(ChooseBuiltIn(p).row, nullptr);
  p.epilogue.y_type = OutputType::kF32;
  const Choice choice = ChooseBuiltIn(p);
  EXPECT_EQ(choice.plan.config->family, Family::kSplit);
  EXPECT_EQ(choice.row, nullptr);
}

TEST(ChooseTest, RefusesWhatNoKernelRuns) {
  EXPECT_THROW(ChooseBuiltIn(DenseProblem(WeightFormat::kNested, 16, 4096, 4100)), Error);
  EXPECT_THROW(ChooseBuiltIn(DenseProblem(WeightFormat::kE4m3, 16, 4104, 4096)), Error);
}

TEST(ChooseTest, AnEarlierTableComesFirstAndAnotherGpusDoesNotCount) {
  const GemmProblem p = DenseProblem(WeightFormat::kNested, 16, 4096, 4096);
  const std::string other = Name(RankPlans(p, DeviceModel()).back().plan);
  const std::string rows = "nested 4096 4096\n16 " + other.substr(sizeof("nested")) + " 99.5\n";
  const TunedTable mine =
      ParseTunedTable("dualfp-tuned-table 2\ndevice 132 NVIDIA H200\n" + rows, "mine");
  const TunedTable foreign =
      ParseTunedTable("dualfp-tuned-table 2\ndevice 78 Another GPU\n" + rows, "foreign");
  const DeviceModel device;
  EXPECT_EQ(Name(Choose(p, device, {&mine, &BuiltInTable()}).plan), other);
  EXPECT_EQ(Choose(p, device, {&foreign, &BuiltInTable()}).table, &BuiltInTable());
  const std::string text = Explain(p, device, {&mine, &BuiltInTable()}, 3);
  EXPECT_THAT(text, HasSubstr("plan: " + other));
  EXPECT_THAT(text, HasSubstr("tuned, mine:4: measured 99.50 us at M = 16"));
}

TEST(ChooseTest, CublasLtRunsWhereItsRowSaysThatItIsFaster) {
  const TunedTable table = ParseTunedTable(
      "dualfp-tuned-table 2\ndevice 132 NVIDIA H200\n"
      "f16 4096 4096\n"
      "16 split_r64_t16_k64_c2 10 0.96\n"
      "64 split_r64_t64_k64 10 0.98\n"
      "bf16 4096 4096\n"
      "16 split_r64_t16_k64_c2 10\n",
      "t");
  const auto wins = [&](WeightFormat format, int m) {
    return CublasLtWins(DenseProblem(format, m, 4096, 4096), DeviceModel(), {&table});
  };
  EXPECT_TRUE(wins(WeightFormat::kF16, 16));
  EXPECT_TRUE(wins(WeightFormat::kF16, 15));
  EXPECT_FALSE(wins(WeightFormat::kF16, 64)) << "level";
  EXPECT_FALSE(wins(WeightFormat::kF16, 65)) << "no row";
  EXPECT_FALSE(wins(WeightFormat::kBf16, 16)) << "not measured";
  const auto explain = [&](int m) {
    return Explain(DenseProblem(WeightFormat::kF16, m, 4096, 4096), DeviceModel(), {&table}, 1);
  };
  EXPECT_THAT(explain(16), HasSubstr("cuBLASLt takes 0.96 of that and runs where it is installed"));
  EXPECT_THAT(explain(64), HasSubstr("cuBLASLt takes 0.98 of that\n"));
}

TEST(ChooseTest, ExplainsTheModelsChoice) {
  const GemmProblem p = DenseProblem(WeightFormat::kE4m3, 100, 1040, 2064);
  const std::string text = Explain(p, DeviceModel(), {&BuiltInTable()}, 3);
  EXPECT_THAT(text, HasSubstr("plan: " + Name(RankPlans(p, DeviceModel()).front().plan)));
  EXPECT_THAT(text, HasSubstr("the cost model's best; no tuned row for N = 1040, K = 2064"));
}

}  // namespace
}  // namespace dualfp::sm90
