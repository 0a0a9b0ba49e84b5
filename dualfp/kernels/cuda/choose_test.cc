// Selection needs no GPU: the kernel table, the cost model and the tuned rows are host data.

#include "dualfp/kernels/cuda/sm90/choose.h"

#include <gtest/gtest.h>

#include <set>
#include <string>

#include "dualfp/base/error.h"

namespace dualfp::sm90 {
namespace {

GemmProblem MakeProblem(WeightFormat format, int m, int n, int k) {
  GemmProblem p;
  p.format = format;
  p.m = m;
  p.n = n;
  p.k = k;
  p.x_stride = k;
  p.epilogue.y_stride = n;
  static int workspace;  // never touched
  p.workspace = &workspace;
  return p;
}

TEST(ChooseTest, KernelNamesAreUnique) {
  std::set<std::string> names;
  for (const KernelConfig& config : KernelConfigs()) {
    EXPECT_TRUE(names.insert(Name(config)).second) << Name(config);
    EXPECT_LE(config.shared_bytes, 232448) << Name(config);
  }
}

TEST(ChooseTest, TunedRowsAreTheChoice) {
  ASSERT_FALSE(TunedRows().empty());
  for (const TunedRow& row : TunedRows()) {
    const GemmProblem p = MakeProblem(row.format, row.m, row.n, row.k);
    EXPECT_EQ(Name(ChoosePlan(p, DeviceModel())), row.plan)
        << row.n << " " << row.k << " " << row.m;
  }
}

TEST(ChooseTest, AnyShapeHasAPlan) {
  for (const WeightFormat format : {WeightFormat::kNested, WeightFormat::kE4m3}) {
    for (const int m : {1, 3, 17, 63, 65, 127, 257, 1000, 5000}) {
      for (const int n : {16, 272, 1040, 5120, 128256}) {
        for (const int k : {16, 144, 4096, 28672}) {
          const GemmProblem p = MakeProblem(format, m, n, k);
          const Plan plan = ChoosePlan(p, DeviceModel());
          EXPECT_EQ(Unsupported(plan, p), "") << Name(plan);
          EXPECT_EQ(plan.config->format, format);
        }
      }
    }
  }
}

TEST(ChooseTest, EpiloguesAndTypesNarrowTheChoice) {
  GemmProblem p = MakeProblem(WeightFormat::kNested, 4096, 4096, 4096);
  p.epilogue.y_type = OutputType::kF32;
  EXPECT_EQ(ChoosePlan(p, DeviceModel()).config->family, Family::kSplit);
}

TEST(ChooseTest, RefusesWhatNoKernelRuns) {
  EXPECT_THROW(ChoosePlan(MakeProblem(WeightFormat::kNested, 16, 4096, 4100), DeviceModel()),
               Error);
  EXPECT_THROW(ChoosePlan(MakeProblem(WeightFormat::kE4m3, 16, 4104, 4096), DeviceModel()), Error);
}

}  // namespace
}  // namespace dualfp::sm90
