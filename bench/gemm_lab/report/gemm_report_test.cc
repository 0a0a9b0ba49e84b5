// Shapes, records, plots and the report of GPU measurements: all without a GPU.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <regex>

#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/report/performance_report.h"
#include "bench/gemm_lab/report/record_file.h"
#include "bench/gemm_lab/report/shapes.h"
#include "dualfp/base/error.h"

namespace dualfp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

TEST(GemmShapesTest, ParsesSizes) {
  EXPECT_THAT(ParseSizes("7"), ElementsAre(7));
  EXPECT_THAT(ParseSizes("64,1,16,16"), ElementsAre(1, 16, 64));
  EXPECT_THAT(ParseSizes("1,16:50:16"), ElementsAre(1, 16, 32, 48));
  EXPECT_THAT(ParseSizes("3:3:5"), ElementsAre(3));
  for (const char* bad : {"", "0", "-1", "1,", "4:2:1", "1:4", "1:4:0", "1:2:3:4", "x", "1.5",
                          "99999999999", "1 2"}) {
    EXPECT_THROW(ParseSizes(bad), Error) << bad;
  }
}

TEST(GemmShapesTest, ParsesShapes) {
  EXPECT_TRUE(ParseShape("6144,4096").SameSize({6144, 4096, ""}));
  for (const char* bad : {"6144", "6144,", "6144,4096,1", "6144,4100", "0,16", "a,b"}) {
    EXPECT_THROW(ParseShape(bad), Error) << bad;
  }
}

TEST(GemmShapesTest, ThereAreFourteenPublishedSizes) {
  EXPECT_EQ(PublishedShapes({1}).size(), 14u);
  const std::vector<GemmShape> shards = PublishedShapes({1, 2, 4});
  EXPECT_EQ(shards.size(), 42u);
  for (const GemmShape& shape : shards) {
    EXPECT_EQ(shape.n % 16, 0);
    EXPECT_EQ(shape.k % 16, 0);
  }
  for (const GemmShape& summary : SummaryShapes()) {
    EXPECT_TRUE(std::any_of(shards.begin(), shards.end(), [&](const GemmShape& s) {
      return s.SameSize(summary);
    })) << summary.name;
  }
}

TEST(GemmShapesTest, ServedSizesBeginWithThePublishedOnesAndNoneComesTwice) {
  const std::vector<GemmShape> shapes = ServedShapes();
  const std::vector<GemmShape> published = PublishedShapes({1, 2, 4});
  ASSERT_GT(shapes.size(), 2 * published.size());
  size_t fitted = 0;
  for (size_t i = 0; i < shapes.size(); ++i) {
    if (i < published.size()) {
      EXPECT_TRUE(shapes[i].SameSize(published[i]));
    }
    EXPECT_TRUE(std::none_of(shapes.begin(), shapes.begin() + static_cast<int64_t>(i),
                             [&](const GemmShape& s) { return s.SameSize(shapes[i]); }))
        << shapes[i].name;
    fitted += IsFittedShape(shapes[i].n, shapes[i].k) ? 1 : 0;
  }
  EXPECT_GT(fitted, shapes.size() / 3);
  EXPECT_LT(fitted, shapes.size() * 2 / 3);
}

TEST(GemmShapesTest, ShardsDivideNOfQkvAndKOfDown) {
  ModelConfig config;
  config.hidden_size = 4096;
  config.num_attention_heads = 32;
  config.num_key_value_heads = 8;
  config.head_dim = 128;
  config.intermediate_size = 14336;
  const std::vector<GemmShape> shapes = ModelShapes(config, "m", {2});
  ASSERT_EQ(shapes.size(), 4u);
  EXPECT_TRUE(shapes[0].SameSize({3072, 4096, ""}));
  EXPECT_EQ(shapes[0].name, "m qkv / 2");
  EXPECT_TRUE(shapes[1].SameSize({4096, 2048, ""}));
  EXPECT_TRUE(shapes[2].SameSize({14336, 4096, ""}));
  EXPECT_TRUE(shapes[3].SameSize({4096, 7168, ""}));
}

TEST(GemmFormatsTest, NamesAndWeightsFindTheFormat) {
  EXPECT_THAT(FormatNames(), ElementsAre("nested", "nested12", "nested12-f16", "f16", "bf16", "fp8",
                                         "fp8-nested12", "fp8-promoted", "fp8-block"));
  EXPECT_THAT(TunedFormatNames(), ElementsAre("nested", "nested12", "nested12-f16", "f16", "bf16",
                                              "fp8", "fp8-promoted"));
  for (const GemmFormat& format : GemmFormats()) {
    EXPECT_EQ(FindFormat(format.name), &format);
    // With and without block scales the kernels are the same ones.
    EXPECT_EQ(&FormatOf(format.weights) == &format, IsTuned(format)) << format.name;
  }
  EXPECT_EQ(FormatByName("fp8-block").weights, sm90::WeightFormat::kE4m3Promoted);
  EXPECT_EQ(FormatByName("bf16").weights, sm90::WeightFormat::kBf16);
}

TEST(GemmFormatsTest, AnUnknownNameIsAnErrorThatListsTheOthers) {
  EXPECT_EQ(FindFormat("fp"), nullptr);
  try {
    FormatByName("int4");
    FAIL();
  } catch (const Error& error) {
    EXPECT_STREQ(error.what(),
                 "format \"int4\": expected nested, nested12, nested12-f16, f16, bf16, fp8, "
                 "fp8-nested12, fp8-promoted, fp8-block");
  }
}

class ReportTest : public ::testing::Test {
 protected:
  ReportTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::path(::testing::TempDir()) /
            (std::string("measure_test_") + test->name() + ".jsonl");
  }

  void Write(const std::vector<Json>& records) const {
    std::ofstream file(path_);
    for (const Json& record : records) {
      file << record.dump() << "\n";
    }
  }

  static GemmRecord Point(const std::string& format, int n, int k, int m, double us,
                          double cublaslt_us) {
    GemmRecord r;
    r.format = format;
    r.n = n;
    r.k = k;
    r.m = m;
    r.plan = "a_plan";
    r.microseconds = us;
    r.no_overlap_microseconds = us + 1;
    r.cublaslt_microseconds = cublaslt_us;
    r.with_quantize_microseconds = IsFp8(format) ? us + 2 : 0;
    r.error = 2e-4;
    return r;
  }

  std::filesystem::path path_;
};

const Json kRun = {{"kind", "run"}, {"gpu", "NVIDIA H200"}, {"driver", "580"}, {"command", "c"}};

TEST_F(ReportTest, RecordsSurviveARoundTrip) {
  const GemmRecord record = Point("fp8", 4096, 14336, 64, 18.25, 19.5);
  const Json json = ToJson(record);
  EXPECT_EQ(ToJson(ParseGemmRecord(JsonFields(json, "f:1"))), json);
  EXPECT_DOUBLE_EQ(record.Speed(), 19.5 / 18.25);
  EXPECT_DOUBLE_EQ(record.Operations(), 2.0 * 4096 * 14336 * 64);
  EXPECT_DOUBLE_EQ(record.Bytes(), 4096.0 * 14336 + 64 * 14336 + 2 * 64 * 4096);
  EXPECT_DOUBLE_EQ(Point("nested", 4096, 14336, 64, 1, 1).Bytes(),
                   2.0 * (4096.0 * 14336 + 64 * 14336 + 64 * 4096));
  EXPECT_EQ(Point("fp8-block", 4096, 14336, 64, 1, 1).Bytes(), record.Bytes());
  EXPECT_EQ(Point("bf16", 4096, 14336, 64, 1, 1).Bytes(),
            Point("nested", 4096, 14336, 64, 1, 1).Bytes());
}

TEST_F(ReportTest, SummarisesTheSixWeights) {
  // Speeds 0.5 and 2 at M = 1 and 16 in FP16: mean 1, worst 0.5. FP8: 1.21 and 1.
  // The last weight is none of the six: it is listed, not counted.
  Write({kRun,
         ToJson(Point("nested", 6144, 4096, 1, 20, 10)),
         ToJson(Point("nested", 6144, 4096, 16, 5, 10)),
         ToJson(Point("nested", 6144, 4096, 48, 10, 9.9)),
         ToJson(Point("fp8", 6144, 4096, 1, 10, 12.1)),
         ToJson(Point("fp8", 6144, 4096, 16, 3, 3)),
         ToJson(Point("fp8", 1024, 1024, 16, 3, 300)),
         {{"kind", "quantize"},
          {"source", "plain"},
          {"k", 4096},
          {"m", 1024},
          {"us", 5.0},
          {"of_copy", 0.81}},
         {{"kind", "quantize"},
          {"source", "plain"},
          {"k", 4096},
          {"m", 1},
          {"us", 1.0},
          {"of_copy", 0.01}}});
  ModelQuality quality{"fp8"};
  quality.unseen.Add(0.96);
  quality.unseen.Add(0.90);
  const Report report =
      MakePerformanceReport(ReadPerformanceRecords({path_}), {quality}, "plots", "the command");
  const std::string& text = report.markdown;
  EXPECT_THAT(text,
              HasSubstr("| NestedFP16 ÷ cuBLASLt FP16, M = 1 … 4096 | 2 | **1.000** | 0.500 |"));
  EXPECT_THAT(text, HasSubstr("| the same, M ≤ 64 | 2 | **1.000** | 0.500 |"));
  EXPECT_THAT(text, HasSubstr("| 1 | **0.990** | 0.990 |"));
  EXPECT_THAT(text, HasSubstr("| FP8 ÷ cuBLASLt FP8, M = 1 … 4096 | 2 | **1.100** | 1.000 |"));
  // 10 / 12 and 10 / 5.
  EXPECT_THAT(text,
              HasSubstr("| FP8 with quantization of X ÷ cuBLASLt FP16 | 2 | **1.291** | 0.833"));
  EXPECT_THAT(text, HasSubstr("M ≥ 1024 | 1 | **0.810**"));
  EXPECT_THAT(text, HasSubstr("FP8, unseen shapes | 2 | **0.930** | 0.900"));
  EXPECT_THAT(text, HasSubstr("Written by `the command`"));
  // Tables and rates are of the largest weight only.
  EXPECT_THAT(text, HasSubstr("## FP8, N 6144, K 4096"));
  EXPECT_THAT(text, Not(HasSubstr("N 1024, K 1024")));
  EXPECT_THAT(text, HasSubstr("| 16 | 10.00 | 5.00 | 2.000 | 6.00 |"));
  EXPECT_LT(text.find("## NestedFP16"), text.find("## FP8"));
  for (const Plot& plot : report.plots) {
    EXPECT_THAT(plot.svg, StartsWith("<svg "));
    EXPECT_THAT(plot.svg, Not(HasSubstr("nan")));
    EXPECT_THAT(text, HasSubstr("](plots/" + plot.file + ")"));
  }
  EXPECT_EQ(report.plots.size(), 2u + 2u);
}

TEST_F(ReportTest, OtherFormatsHaveALineOfTheirMean) {
  // Over all M of the six shapes: 4 and 1 are a mean of 2; 1024 x 1024 does not count.
  Write({kRun, ToJson(Point("f16", 6144, 4096, 1, 5, 20)),
         ToJson(Point("f16", 6144, 4096, 48, 10, 10)), ToJson(Point("f16", 1024, 1024, 16, 3, 300)),
         ToJson(Point("bf16", 6144, 4096, 1, 10, 9)),
         ToJson(Point("fp8-promoted", 6144, 4096, 1, 10, 11)),
         ToJson(Point("fp8-block", 6144, 4096, 1, 10, 12)),
         ToJson(Point("fp8-block", 6144, 4096, 16, 10, 0)),
         ToJson(Point("nested", 6144, 4096, 1, 10, 10))});
  const Report report = MakePerformanceReport(ReadPerformanceRecords({path_}), {}, "plots", "c");
  const std::string& text = report.markdown;
  EXPECT_THAT(text, HasSubstr("\n| FP16 ÷ cuBLASLt FP16 | 2 | **2.000** | 1.000 |\n"));
  EXPECT_THAT(text, HasSubstr("\n| BF16 ÷ cuBLASLt BF16 | 1 | **0.900** | 0.900 |\n"));
  EXPECT_THAT(text, HasSubstr("\n| FP8, promoted ÷ cuBLASLt FP8 promoted | 1 | **1.100** |"));
  // A point without a baseline is listed, not counted.
  EXPECT_THAT(text,
              HasSubstr("\n| FP8, block scales ÷ cuBLASLt FP8 block scales | 1 | **1.200** |"));
  EXPECT_THAT(text, HasSubstr("| 16 | - | 10.00 | - | 11.00 | 12.00 |"));
  EXPECT_THAT(text, Not(HasSubstr("\n| NestedFP16 ÷ cuBLASLt FP16 |")));
  EXPECT_THAT(text, Not(HasSubstr("| FP8 ÷")));
  EXPECT_THAT(text, HasSubstr("## FP8, block scales, N 6144"));
  const auto plot = [&](const std::string& file) {
    const auto found = std::find_if(report.plots.begin(), report.plots.end(),
                                    [&](const Plot& p) { return p.file == file; });
    return found == report.plots.end() ? "none" : found->title + found->svg;
  };
  EXPECT_THAT(plot("bf16_speed.svg"), StartsWith("BF16: speed over cuBLASLt BF16"));
  EXPECT_THAT(plot("fp8-promoted_speed.svg"), HasSubstr("over cuBLASLt FP8 promoted"));
  EXPECT_THAT(plot("f16_6144_4096.svg"), HasSubstr("cuBLASLt FP16"));
  EXPECT_THAT(plot("bf16_6144_4096.svg"), HasSubstr("cuBLASLt BF16"));
}

TEST_F(ReportTest, ALaterRecordReplacesAnEarlierOne) {
  Write({kRun, ToJson(Point("fp8", 6144, 4096, 1, 20, 10)),
         ToJson(Point("fp8", 6144, 4096, 1, 10, 10))});
  const PerformanceRecords records = ReadPerformanceRecords({path_});
  ASSERT_EQ(records.points.size(), 1u);
  EXPECT_EQ(records.points[0].microseconds, 10);
}

TEST_F(ReportTest, TheRooflineBoundsEveryPoint) {
  const std::vector<GemmRecord> records = {Point("nested", 6144, 4096, 1, 15, 16),
                                           Point("nested", 6144, 4096, 4096, 300, 280)};
  const Ceilings highest = CompleteCeilings({}, records);
  EXPECT_DOUBLE_EQ(highest.fp16_flop_per_microsecond, records[1].Operations() / 280);
  EXPECT_DOUBLE_EQ(highest.bytes_per_microsecond,
                   std::max(records[0].Bytes() / 15, records[1].Bytes() / 280));
  const Ceilings known = CompleteCeilings({9e6, 1e8, 0}, records);
  EXPECT_EQ(known.bytes_per_microsecond, 9e6);
  EXPECT_EQ(known.fp16_flop_per_microsecond, highest.fp16_flop_per_microsecond);
}

TEST_F(ReportTest, ErrorsNameTheFileAndTheLine) {
  const auto error_of = [&](const std::string& text) -> std::string {
    std::ofstream(path_) << text;
    try {
      ReadPerformanceRecords({path_});
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  const std::string at = path_.string();
  EXPECT_THAT(error_of(kRun.dump() + "\n{\"kind\":\"point\"}\n"),
              StartsWith(at + ":2: field format"));
  EXPECT_THAT(error_of("{\"kind\":\"run\",\"gpu\":\"A\"}\n{\"kind\":\"run\",\"gpu\":\"B\"}\n"),
              StartsWith(at + ":2: field gpu: the other records are of another GPU"));
  EXPECT_THAT(error_of("[1]\n"), StartsWith(at + ":1"));
  EXPECT_THAT(error_of("nonsense\n"), StartsWith(at + ":1"));
  EXPECT_THROW(ReadPerformanceRecords({path_.string() + ".none"}), Error);
}

}  // namespace
}  // namespace dualfp
