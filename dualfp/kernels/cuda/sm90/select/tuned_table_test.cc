#include "dualfp/kernels/cuda/sm90/select/tuned_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "dualfp/base/error.h"

namespace dualfp::sm90 {
namespace {

using ::testing::HasSubstr;

const std::string kHeader = "dualfp-tuned-table 1\ndevice 132 NVIDIA H200\n";

// A plan of this build that runs 4096 x 4096 at M = 16.
std::string AnyPlan() {
  for (const KernelConfig& config : KernelConfigs()) {
    if (config.format == WeightFormat::kNested && config.family == Family::kSplit) {
      return Name(config);
    }
  }
  return "";
}

std::string ErrorOf(const std::string& text) {
  try {
    ParseTunedTable(text, "some.table");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
    return error.what();
  }
  return "no error";
}

TEST(TunedTableTest, TextSurvivesARoundTrip) {
  const std::string text = BuiltInTable().ToText();
  EXPECT_EQ(ParseTunedTable(text, "again").ToText(), text);
}

TEST(TunedTableTest, FindsTheRowsOfAWeightByM) {
  const std::string plan = AnyPlan();
  const TunedTable table = ParseTunedTable(
      kHeader + "nested 4096 4096 64 " + plan + " 2.5\n# a comment\n\nnested 4096 " + "4096 16 " +
          plan + " 1.5 # another\nnested 4096 2048 16 " + plan + " 1\n",
      "t");
  const auto rows = table.Find(WeightFormat::kNested, 4096, 4096);
  ASSERT_EQ(rows.size(), 2u);
  EXPECT_EQ(rows[0].m, 16);
  EXPECT_EQ(rows[0].microseconds, 1.5);
  EXPECT_EQ(rows[0].line, 6);
  EXPECT_EQ(rows[1].m, 64);
  EXPECT_TRUE(table.Find(WeightFormat::kE4m3, 4096, 4096).empty());
  EXPECT_EQ(table.device, "NVIDIA H200");
  EXPECT_EQ(table.sms, 132);
}

TEST(TunedTableTest, ErrorsNameTheFileAndTheLine) {
  const std::string row = "nested 4096 4096 16 " + AnyPlan() + " 1.5\n";
  EXPECT_EQ(ErrorOf(""), "some.table:1: expected \"dualfp-tuned-table 1\" in the first line");
  EXPECT_EQ(ErrorOf("{\"kind\":1}\n"),
            "some.table:1: expected \"dualfp-tuned-table 1\" in the first line");
  EXPECT_EQ(ErrorOf("dualfp-tuned-table 2\n"),
            "some.table:1: expected \"dualfp-tuned-table 1\" in the first line");
  EXPECT_THAT(ErrorOf("dualfp-tuned-table 1\n" + row), HasSubstr("expected a line \"device"));
  EXPECT_EQ(ErrorOf("dualfp-tuned-table 1\ndevice many GPU\n"),
            "some.table:2: expected \"device MULTIPROCESSORS NAME\"");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 4096 16\n"),
            "some.table:3: expected \"FORMAT N K M PLAN MICROSECONDS [CUBLASLT]\", got 4 words");
  EXPECT_EQ(ErrorOf(kHeader + "int4 4096 4096 16 p 1.5\n"),
            "some.table:3: expected format nested, nested12_f16, nested12_bf16, e4m3, "
            "e4m3_promoted, f16 or bf16");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 -1 16 p 1.5\n"),
            "some.table:3: expected a positive integer for K");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 4096 99999999999 p 1.5\n"),
            "some.table:3: expected a positive integer for M");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 4096 16 nested_split_r1_t1_k1 1.5\n"),
            "some.table:3: no plan of this build is named nested_split_r1_t1_k1");
  EXPECT_THAT(ErrorOf(kHeader + "nested 4096 4096 16 " + AnyPlan() + "/s1 1.5\n"),
              HasSubstr("some.table:3: no plan of this build is named"));
  EXPECT_THAT(ErrorOf(kHeader + "nested 4096 4096 16 " + AnyPlan() + "/s99999999999 1.5\n"),
              HasSubstr("some.table:3: no plan of this build is named"));
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 4096 16 " + AnyPlan() + " nan\n"),
            "some.table:3: expected a positive number of microseconds");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 4096 16 " + AnyPlan() + " 1.5 1.2\n"),
            "some.table:3: cuBLASLt's time is of plain weights, f16 and bf16");
  EXPECT_EQ(ErrorOf(kHeader + "f16 4096 4096 16 f16_split_r64_t16_k64_c2 1.5 -1\n"),
            "some.table:3: expected cuBLASLt's time over the plan's, a positive number");
  EXPECT_EQ(ErrorOf(kHeader + "e4m3 4096 4096 16 " + AnyPlan() + " 1.5\n"),
            "some.table:3: the plan cannot run this problem: another weight format");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 4100 16 " + AnyPlan() + " 1.5\n"),
            "some.table:3: the plan cannot run this problem: N and K must be multiples of 16");
  EXPECT_EQ(ErrorOf(kHeader + row + "\n" + row),
            "some.table:5: the same format, N, K and M as line 3");
}

TEST(TunedTableTest, LoadsFiles) {
  const std::string path = ::testing::TempDir() + "/tuned_table_test.table";
  std::ofstream(path) << BuiltInTable().ToText();
  EXPECT_EQ(LoadTunedTable(path).rows.size(), BuiltInTable().rows.size());
  EXPECT_EQ(LoadTunedTable(path).origin, path);
  try {
    LoadTunedTable(path + ".none");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
  }
  EXPECT_THROW(LoadTunedTable(::testing::TempDir()), Error);
}

}  // namespace
}  // namespace dualfp::sm90
