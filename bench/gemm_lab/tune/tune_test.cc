// The tuner with a timer that needs no GPU, and its record file.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <functional>
#include <memory>
#include <mutex>
#include <set>
#include <sstream>
#include <thread>

#include "bench/gemm_lab/gemm_lab.h"
#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/tune/tune_log.h"
#include "bench/gemm_lab/tune/tuner.h"
#include "dualfp/base/error.h"

namespace dualfp::gpu {
namespace {

using sm90::WeightFormat;
using ::testing::HasSubstr;
using ::testing::StartsWith;

const Json kRun = {{"kind", "run"}, {"gpu", "NVIDIA H200"}, {"sms", 132}, {"kernels", "abc"}};

std::string ReadAll(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// What happened to all timers of a test.
struct Calls {
  std::atomic<int> measured{0};
  std::atomic<int> raced{0};
  std::atomic<int> points{0};
};

// Plans take a time that follows from their name; `favourite` takes least.
class FakeTimer : public PlanTimer {
 public:
  explicit FakeTimer(Calls& calls) : calls_(calls) {}

  Time Measure(const TunePoint& point, const sm90::Plan& plan, double /*limit*/) override {
    ++calls_.measured;
    if (point.m == throw_at) {
      throw Error(ErrorCode::kInternal, "the GPU is lost");
    }
    if (Name(plan) == hangs) {
      std::this_thread::sleep_for(std::chrono::seconds(20));
    }
    return {Microseconds(plan), Name(plan) == wrong ? 0.5 : 1e-4};
  }

  Winner Race(const TunePoint& point, std::span<const sm90::Plan> plans) override {
    ++calls_.raced;
    Winner winner;
    for (size_t i = 0; i < plans.size(); ++i) {
      if (i == 0 || Microseconds(plans[i]) < winner.microseconds) {
        winner.plan = i;
        winner.microseconds = Microseconds(plans[i]);
      }
    }
    winner.cublaslt = sm90::IsPlain(point.format) ? 5.0 : 0.0;
    return winner;
  }

  std::string favourite;
  std::string wrong;
  std::string hangs;
  int throw_at = 0;

 private:
  double Microseconds(const sm90::Plan& plan) const {
    return Name(plan) == favourite ? 1.0 : 10.0 + Name(plan).size();
  }

  Calls& calls_;
};

class TuneTest : public ::testing::Test {
 protected:
  TuneTest() {
    const auto* test = ::testing::UnitTest::GetInstance()->current_test_info();
    path_ = std::filesystem::path(::testing::TempDir()) /
            (std::string("tune_test_") + test->name() + ".jsonl");
    std::filesystem::remove(path_);
    for (const int m : {1, 16, 64}) {
      points_.push_back({WeightFormat::kNested, 4096, 4096, m});
      points_.push_back({WeightFormat::kE4m3, 4096, 2048, m});
    }
    options_.top = 12;
  }

  // The names of the plans that are timed at a point.
  std::vector<std::string> PlansAt(const TunePoint& point) const {
    std::vector<std::string> names;
    for (const sm90::RankedPlan& ranked : RankPlans(ProblemOf(point), options_.device)) {
      if (static_cast<int>(names.size()) < options_.top) {
        names.push_back(Name(ranked.plan));
      }
    }
    return names;
  }

  TimerFactory Factory(const std::function<void(FakeTimer&)>& configure = {}) {
    return [this, configure](int /*gpu*/) {
      auto timer = std::make_unique<FakeTimer>(calls_);
      if (configure) {
        configure(*timer);
      }
      return timer;
    };
  }

  std::filesystem::path path_;
  std::vector<TunePoint> points_;
  TuneOptions options_;
  Calls calls_;
};

TEST_F(TuneTest, RecordsTheFastestPlanOfEachPoint) {
  const std::string favourite = PlansAt(points_[0])[7];
  TuneLog log(path_, kRun);
  size_t last = 0;
  options_.progress = [&](const TunedPoint&, size_t done) { last = done; };
  Tune(points_, 1, Factory([&](FakeTimer& timer) { timer.favourite = favourite; }), options_, log);
  EXPECT_EQ(last, points_.size());
  const std::vector<TunedPoint> tuned = ReadTunedPoints({path_});
  ASSERT_EQ(tuned.size(), points_.size());
  EXPECT_EQ(tuned[0].point, points_[0]);
  EXPECT_EQ(tuned[0].plan, favourite);
  EXPECT_EQ(tuned[0].microseconds, 1.0);
  EXPECT_EQ(tuned[0].timed.size(), 12u);
  EXPECT_EQ(tuned[0].timed.front().first, favourite);

  const sm90::TunedTable table = TableFromRecords({path_});
  EXPECT_EQ(table.device, "NVIDIA H200");
  EXPECT_EQ(table.kernels, "abc");
  ASSERT_EQ(table.rows.size(), points_.size());
  EXPECT_EQ(Name(table.Find(WeightFormat::kNested, 4096, 4096)[0].plan), favourite);
  EXPECT_EQ(sm90::ParseTunedTable(table.ToText(), "t").rows.size(), points_.size());
}

TEST_F(TuneTest, RowsOfPlainWeightsSayWhatCublasLtTakes) {
  const std::vector<TunePoint> points = {{WeightFormat::kNested, 4096, 4096, 16},
                                         {WeightFormat::kF16, 4096, 4096, 16}};
  const std::string favourite = PlansAt(points[1])[0];
  {
    TuneLog log(path_, kRun);
    Tune(points, 1, Factory([&](FakeTimer& timer) { timer.favourite = favourite; }), options_, log);
  }
  const std::vector<TunedPoint> tuned = ReadTunedPoints({path_});
  ASSERT_EQ(tuned.size(), 2u);
  EXPECT_EQ(tuned[0].cublaslt_microseconds, 0.0);
  EXPECT_EQ(tuned[1].cublaslt_microseconds, 5.0);
  // What a benchmark says of cuBLASLt is of another of its kernels.
  std::ofstream(path_, std::ios::app)
      << Json{{"kind", "point"}, {"format", "f16"},   {"n", 4096}, {"k", 4096},
              {"m", 16},         {"plan", favourite}, {"us", 2},   {"cublaslt_us", 1}}
      << "\n";
  const sm90::TunedTable table = TableFromRecords({path_});
  EXPECT_EQ(table.Find(WeightFormat::kNested, 4096, 4096)[0].cublaslt, 0.0);
  EXPECT_EQ(table.Find(WeightFormat::kF16, 4096, 4096)[0].cublaslt, 5.0);
  EXPECT_EQ(table.Find(WeightFormat::kF16, 4096, 4096)[0].microseconds, 2.0);
  // The format stands before a weight's rows, not in each of their plans.
  const std::string plan = favourite.substr(std::string("f16_").size());
  EXPECT_THAT(table.ToText(), HasSubstr("\n16 " + plan + " 2.00 5.000\n"));
}

TEST_F(TuneTest, GoesOnWhereItWasInterrupted) {
  {
    TuneLog log(path_, kRun);
    EXPECT_THROW(
        Tune(points_, 1, Factory([](FakeTimer& timer) { timer.throw_at = 16; }), options_, log),
        Error);
  }
  const std::string finished = ReadAll(path_);
  EXPECT_EQ(ReadTunedPoints({path_}).size(), 2u);
  // As if the process had died while it wrote a line.
  std::ofstream(path_, std::ios::app) << "{\"kind\":\"tuned\",\"format\":\"nes";
  calls_.measured = 0;
  {
    TuneLog log(path_, kRun);
    EXPECT_EQ(ReadAll(path_), finished);
    EXPECT_TRUE(log.Has(points_[0]));
    EXPECT_FALSE(log.Has(points_[2]));
    Tune(points_, 1, Factory(), options_, log);
  }
  EXPECT_EQ(calls_.measured, 4 * 12);
  EXPECT_EQ(ReadTunedPoints({path_}).size(), points_.size());
  EXPECT_THAT(ReadAll(path_), StartsWith(finished));
  calls_.measured = 0;
  TuneLog log(path_, kRun);
  Tune(points_, 1, Factory(), options_, log);
  EXPECT_EQ(calls_.measured, 0);
}

TEST_F(TuneTest, SeveralGpusShareThePoints) {
  std::vector<TunePoint> points;
  for (int m = 1; m <= 60; ++m) {
    points.push_back({WeightFormat::kE4m3, 4096, 4096, m});
  }
  TuneLog log(path_, kRun);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  const auto factory = [&](int gpu) {
    EXPECT_LT(gpu, 3);
    const std::lock_guard lock(mutex);
    threads.insert(std::this_thread::get_id());
    return Factory()(gpu);
  };
  Tune(points, 3, factory, options_, log);
  EXPECT_EQ(threads.size(), 3u);
  std::set<TunePoint> tuned;
  for (const TunedPoint& point : ReadTunedPoints({path_})) {
    EXPECT_TRUE(tuned.insert(point.point).second);
  }
  EXPECT_EQ(tuned.size(), points.size());
}

TEST_F(TuneTest, APlanThatComputesWronglyIsNeverChosen) {
  const std::string bad = PlansAt(points_[0])[3];
  TuneLog log(path_, kRun);
  Tune(points_, 1, Factory([&](FakeTimer& timer) {
         timer.favourite = bad;
         timer.wrong = bad;
       }),
       options_, log);
  EXPECT_TRUE(log.Failed(points_[0], bad));
  EXPECT_GT(log.failures(), 0u);
  for (const TunedPoint& tuned : ReadTunedPoints({path_})) {
    EXPECT_NE(tuned.plan, bad);
  }
  EXPECT_THAT(ReadAll(path_), HasSubstr("\"reason\":\"relative error 0.5\""));
}

using TuneDeathTest = TuneTest;

TEST_F(TuneDeathTest, AHangEndsTheProcessAndIsNotTriedAgain) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  const std::string bad = PlansAt(points_[0])[3];
  const auto tune = [&] {
    options_.hang_limit = std::chrono::milliseconds(200);
    TuneLog log(path_, kRun);
    Tune(points_, 1, Factory([&](FakeTimer& timer) { timer.hangs = bad; }), options_, log);
  };
  EXPECT_EXIT(tune(), ::testing::ExitedWithCode(1),
              "did not finish within 200 ms at nested N 4096");
  TuneLog log(path_, kRun);
  EXPECT_TRUE(log.Failed(points_[0], bad));
  Tune(std::span(points_).first(1), 1, Factory([&](FakeTimer& timer) { timer.hangs = bad; }),
       options_, log);
  EXPECT_EQ(ReadTunedPoints({path_}).at(0).timed.size(), 11u);
}

TEST_F(TuneTest, RefusesARecordOfOtherKernelsOrAnotherGpu) {
  { const TuneLog log(path_, kRun); }
  for (const auto& [key, value] : {std::pair("kernels", "def"), std::pair("gpu", "Another")}) {
    Json run = kRun;
    run[key] = value;
    try {
      const TuneLog log(path_, run);
      FAIL() << key;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
      EXPECT_THAT(error.what(),
                  StartsWith(path_.string() + ":1: field " + key + ": measured with"));
    }
  }
}

TEST_F(TuneTest, BadRecordsAreErrorsThatNameTheLine) {
  const auto error_of = [&](const std::string& content) -> std::string {
    std::ofstream(path_) << content;
    try {
      const TuneLog log(path_, kRun);
    } catch (const Error& error) {
      EXPECT_EQ(ReadAll(path_), content);
      return error.what();
    }
    return "no error";
  };
  const std::string run = kRun.dump() + "\n";
  const std::string at = path_.string();
  EXPECT_THAT(error_of(run + "{\"kind\":\n{}\n"), StartsWith(at + ":2"));
  EXPECT_THAT(error_of(run + "[]\n"), StartsWith(at + ":2"));
  EXPECT_THAT(error_of(run + "{\"kind\":\"other\"}\n"),
              StartsWith(at + ":2: field kind: expected"));
  EXPECT_THAT(
      error_of(run + "{\"kind\":\"tuned\",\"format\":\"int4\"}\n"),
      StartsWith(at + ":2: field format: expected nested, nested12, nested12-f16, f16, bf16, "
                      "fp8, fp8-promoted"));
  // Block scales have no rows of their own to tune.
  EXPECT_THAT(error_of(run + "{\"kind\":\"tuned\",\"format\":\"fp8-block\"}\n"),
              StartsWith(at + ":2: field format: expected"));
  EXPECT_THAT(error_of(run + R"({"kind":"tuned","format":"fp8","n":0,"k":1,"m":1})" + "\n"),
              StartsWith(at + ":2: field n"));
  // A file that is something else loses nothing.
  EXPECT_THAT(error_of("my notes, without a line's end"),
              HasSubstr(":1: expected a record of kind run"));
}

TEST_F(TuneTest, ATableNamesTheRecordWhosePlanIsGone) {
  std::ofstream(path_) << kRun.dump() << "\n"
                       << R"({"kind":"point","format":"fp8","n":4096,"k":4096,"m":1,)"
                       << R"("plan":"e4m3_gone","us":5})"
                       << "\n";
  try {
    TableFromRecords({path_});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.what(),
              path_.string() + ":2: field plan: no plan of this build is named e4m3_gone");
  }
}

TEST_F(TuneTest, LaterRecordsReplaceEarlierOnes) {
  const std::vector<std::string> plans = PlansAt(points_[0]);
  const auto record = [&](const std::string& plan, double us) {
    return Json{{"kind", "point"}, {"format", "nested"}, {"n", 4096}, {"k", 4096},
                {"m", 1},          {"plan", plan},       {"us", us}}
               .dump() +
           "\n";
  };
  std::ofstream(path_) << kRun.dump() << "\n" << record(plans[0], 5) << record(plans[1], 6);
  const sm90::TunedTable table = TableFromRecords({path_});
  ASSERT_EQ(table.rows.size(), 1u);
  EXPECT_EQ(Name(table.rows[0].plan), plans[1]);
}

TEST_F(TuneTest, EveryFormatSurvivesARoundTrip) {
  const std::vector<std::string> names = TunedFormatNames();
  std::vector<TunePoint> points;
  {
    TuneLog log(path_, kRun);
    for (const std::string& name : names) {
      points.push_back({FormatByName(name).weights, 4096, 4096, 16});
      EXPECT_EQ(ToText(points.back()), name + " N 4096 K 4096 M 16");
      log.Add({points.back(), "a_plan", 5.0, 0.0, {{"a_plan", 5.0}}});
      log.AddFailure(points.back(), "b_plan", "wrong");
      EXPECT_THAT(ReadAll(path_), HasSubstr("{\"kind\":\"tuned\",\"format\":\"" + name + "\","));
    }
  }
  const std::vector<TunedPoint> tuned = ReadTunedPoints({path_});
  const TuneLog log(path_, kRun);
  ASSERT_EQ(tuned.size(), points.size());
  for (size_t i = 0; i < points.size(); ++i) {
    EXPECT_EQ(tuned[i].point, points[i]) << names[i];
    EXPECT_TRUE(log.Has(points[i])) << names[i];
    EXPECT_TRUE(log.Failed(points[i], "b_plan")) << names[i];
  }
}

TEST_F(TuneTest, PointsOfEveryFormatButBlockScalesAreRows) {
  // Whether a plan is the format's is asked when a table is read.
  const std::vector<std::string> plans = PlansAt(points_[0]);
  const auto record = [&](const char* format, const std::string& plan) {
    return Json{{"kind", "point"}, {"format", format}, {"n", 4096}, {"k", 4096},
                {"m", 1},          {"plan", plan},     {"us", 5}}
               .dump() +
           "\n";
  };
  std::ofstream(path_) << kRun.dump() << "\n"
                       << record("fp8-promoted", plans[0]) << record("fp8-block", plans[1])
                       << record("f16", plans[2]) << record("bf16", plans[3]);
  const sm90::TunedTable table = TableFromRecords({path_});
  ASSERT_EQ(table.rows.size(), 3u);
  EXPECT_EQ(Name(table.Find(WeightFormat::kE4m3Promoted, 4096, 4096)[0].plan), plans[0]);
  EXPECT_EQ(Name(table.Find(WeightFormat::kF16, 4096, 4096)[0].plan), plans[2]);
  EXPECT_EQ(Name(table.Find(WeightFormat::kBf16, 4096, 4096)[0].plan), plans[3]);
}

TEST_F(TuneTest, APointThatNoKernelRunsIsNamed) {
  TuneLog log(path_, kRun);
  const std::vector<TunePoint> points = {{WeightFormat::kF16, 4100, 4096, 16}};
  try {
    Tune(points, 1, Factory(), options_, log);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
    EXPECT_STREQ(error.what(), "no kernel of this build runs f16 N 4100 K 4096 M 16");
  }
}

// What was timed on the GPU, on weights that the model's constants were not fitted to.
TEST(ChoiceQualityTest, TheModelChoosesWellOnUnseenShapes) {
  const std::vector<ModelQuality> quality = EvaluateModel({DUALFP_TUNING_LOG});
  ASSERT_EQ(quality.size(), 5u);
  for (const ModelQuality& q : quality) {
    EXPECT_GT(q.unseen.count(), 100) << q.format;
    EXPECT_GE(q.unseen.Mean(), 0.90) << q.format;
    EXPECT_LE(q.unseen.Mean(), 1.0) << q.format;
  }
}

}  // namespace
}  // namespace dualfp::gpu
