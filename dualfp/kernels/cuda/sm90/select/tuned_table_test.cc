#include "dualfp/kernels/cuda/sm90/select/tuned_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <string>

#include "dualfp/base/error.h"

namespace dualfp::sm90 {
namespace {

using ::testing::HasSubstr;

const std::string kHeader = "dualfp-tuned-table 2\ndevice 132 NVIDIA H200\n";

// A plan of this build that runs nested 4096 x 4096 at M = 16, without the format.
std::string AnyPlan() {
  for (const KernelConfig& config : KernelConfigs()) {
    if (config.format == WeightFormat::kNested && config.family == Family::kSplit) {
      return Name(config).substr(sizeof("nested"));
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
  const TunedTable table =
      ParseTunedTable(kHeader + "nested 4096 4096\n64 " + plan + " 2.5\n# a comment\n\n16 " + plan +
                          " 1.5 # another\nnested 4096 2048\n16 " + plan +
                          " 1\nnested 4096 4096\n1 " + plan + " 1\n",
                      "t");
  const auto rows = table.Find(WeightFormat::kNested, 4096, 4096);
  ASSERT_EQ(rows.size(), 3u);
  EXPECT_EQ(rows[0].m, 1);
  EXPECT_EQ(rows[1].m, 16);
  EXPECT_EQ(rows[1].microseconds, 1.5);
  EXPECT_EQ(rows[1].line, 7);
  EXPECT_EQ(rows[2].m, 64);
  EXPECT_TRUE(table.Find(WeightFormat::kE4m3, 4096, 4096).empty());
  EXPECT_EQ(table.device, "NVIDIA H200");
  EXPECT_EQ(table.sms, 132);
}

TEST(TunedTableTest, ErrorsNameTheFileAndTheLine) {
  const std::string row = "16 " + AnyPlan() + " 1.5\n";
  const std::string weight = kHeader + "nested 4096 4096\n";
  const std::string no_magic = "some.table:1: expected \"dualfp-tuned-table 2\" in the first line";
  EXPECT_EQ(ErrorOf(""), no_magic);
  EXPECT_EQ(ErrorOf("{\"kind\":1}\n"), no_magic);
  EXPECT_EQ(ErrorOf("dualfp-tuned-table 1\n"), no_magic);
  EXPECT_THAT(ErrorOf("dualfp-tuned-table 2\nnested 4096 4096\n" + row),
              HasSubstr("expected a line \"device"));
  EXPECT_EQ(ErrorOf("dualfp-tuned-table 2\ndevice many GPU\n"),
            "some.table:2: expected \"device MULTIPROCESSORS NAME\"");
  EXPECT_EQ(ErrorOf(kHeader + row), "some.table:3: expected \"FORMAT N K\" before the first row");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096\n"), "some.table:3: expected \"FORMAT N K\"");
  EXPECT_EQ(ErrorOf(kHeader + "int4 4096 4096\n"),
            "some.table:3: expected format nested, nested12_f16, nested12_bf16, e4m3, "
            "e4m3_promoted, f16 or bf16");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 -1\n"),
            "some.table:3: expected a positive integer for K");
  EXPECT_EQ(ErrorOf(weight + "16\n"),
            "some.table:4: expected \"M PLAN MICROSECONDS [CUBLASLT]\", got 1 word");
  EXPECT_EQ(ErrorOf(weight + "99999999999 p 1.5\n"),
            "some.table:4: expected a positive integer for M");
  EXPECT_EQ(ErrorOf(weight + "16 split_r1_t1_k1 1.5\n"),
            "some.table:4: no plan of this build is named nested_split_r1_t1_k1");
  EXPECT_THAT(ErrorOf(weight + "16 " + AnyPlan() + "/s1 1.5\n"),
              HasSubstr("some.table:4: no plan of this build is named"));
  EXPECT_THAT(ErrorOf(weight + "16 " + AnyPlan() + "/s99999999999 1.5\n"),
              HasSubstr("some.table:4: no plan of this build is named"));
  EXPECT_EQ(ErrorOf(weight + "16 " + AnyPlan() + " nan\n"),
            "some.table:4: expected a positive number of microseconds");
  EXPECT_EQ(ErrorOf(weight + "16 " + AnyPlan() + " 1.5 1.2\n"),
            "some.table:4: cuBLASLt's time is of plain weights, f16 and bf16");
  EXPECT_EQ(ErrorOf(kHeader + "f16 4096 4096\n16 split_r64_t16_k64_c2 1.5 -1\n"),
            "some.table:4: expected cuBLASLt's time over the plan's, a positive number");
  EXPECT_EQ(ErrorOf(kHeader + "nested 4096 4100\n16 " + AnyPlan() + " 1.5\n"),
            "some.table:4: the plan cannot run this problem: N and K must be multiples of 16");
  EXPECT_EQ(ErrorOf(weight + row + "\n" + row),
            "some.table:6: the same format, N, K and M as line 4");
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
