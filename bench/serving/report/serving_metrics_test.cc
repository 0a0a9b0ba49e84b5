// The definitions, on cases worked out by hand; tests/serve/bench_test.py recomputes whole runs.

#include "bench/serving/report/serving_metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "bench/serving/load/openai_stream.h"
#include "bench/serving/load/server_sampler.h"
#include "dualfp/base/error.h"

namespace dualfp {
namespace {

using std::chrono::milliseconds;

RequestRecord Record(double start, double ttft, std::vector<double> itl) {
  RequestRecord record;
  record.start = start;
  record.ttft = ttft;
  record.latency = ttft;
  for (const double gap : itl) {
    record.latency += gap;
  }
  record.itl = std::move(itl);
  record.prompt_tokens = 10;
  record.output_tokens = static_cast<int64_t>(record.itl.size()) + 1;
  return record;
}

TEST(MeasureTest, FollowsTheDefinitions) {
  std::vector<RequestRecord> records = {Record(0, 0.5, {0.1, 0.3}), Record(0.8, 0.2, {}),
                                        Record(1.0, 1.0, {2.0})};
  records.push_back(Record(0, 0.1, {0.1}));
  records.back().error = "HTTP 429";
  Goodput goodput;
  goodput.tpot = 0.2;
  goodput.ttft = 0.5;
  const ServingMetrics metrics = Measure(records, 4.0, goodput);
  EXPECT_EQ(metrics.completed, 3);
  EXPECT_EQ(metrics.failed, 1);
  EXPECT_EQ(metrics.total_input_tokens, 30);
  EXPECT_EQ(metrics.total_output_tokens, 6);
  EXPECT_DOUBLE_EQ(metrics.request_throughput, 0.75);
  EXPECT_DOUBLE_EQ(metrics.output_throughput, 1.5);
  EXPECT_DOUBLE_EQ(metrics.total_token_throughput, 9);
  EXPECT_EQ(metrics.tpot.count, 2);  // the answer of one token has none
  EXPECT_DOUBLE_EQ(metrics.tpot.mean, (0.2 + 2.0) / 2);
  EXPECT_EQ(metrics.itl.count, 3);
  EXPECT_DOUBLE_EQ(metrics.e2el.median, 0.9);
  EXPECT_DOUBLE_EQ(metrics.request_goodput.value(), 0.5);
  EXPECT_DOUBLE_EQ(metrics.good_share.value(), 0.5);
  // The second ends at 1.0, when the third begins.
  EXPECT_EQ(metrics.peak_concurrency, 2);
  EXPECT_EQ(metrics.max_concurrent_requests, 2);
  EXPECT_EQ(metrics.max_output_tokens_per_s, 3);
}

TEST(GoodputTest, ParsesAndRefuses) {
  const Goodput goodput = ParseGoodput({"ttft:200", "e2el:1.5"});
  EXPECT_DOUBLE_EQ(goodput.ttft.value(), 0.2);
  EXPECT_DOUBLE_EQ(goodput.e2el.value(), 0.0015);
  EXPECT_FALSE(goodput.tpot.has_value());
  for (const char* bad : {"ttft", "ttft:", "ttft:x", "itl:3", "ttft:-1", "ttft:1ms", ":5"}) {
    EXPECT_THROW(ParseGoodput({bad}), Error) << bad;
  }
}

class StreamedAnswerTest : public ::testing::Test {
 protected:
  void Piece(int ms, std::string_view text, int status = 200) {
    answer_.OnBody(status, text, begin_ + milliseconds(ms));
  }
  TimePoint begin_ = Clock::now();
  RequestRecord record_;
  StreamedAnswer answer_{&record_, begin_};
};

TEST_F(StreamedAnswerTest, StampsTokensWhereverTheStreamIsCut) {
  Piece(5, ": a comment\n\ndata: {\"choi");
  Piece(10, "ces\":[{\"text\":\"a\"}]}\r\n\r\n");
  Piece(30, "data: {\"choices\":[{\"text\":\"\"}]}\n\ndata: {\"choices\":[{\"text\":\"b\"}]}\n\n");
  Piece(
      40,
      "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":4,"
      "\"tokens_by_precision\":{\"prompt\":{\"exact\":7},\"completion\":{\"exact\":1,\"fp8\":3}}}}"
      "\n\n");
  Piece(50, "data: [DONE]\n\n");
  answer_.OnEnd(200, "");
  EXPECT_EQ(record_.error, "");
  EXPECT_NEAR(record_.ttft, 0.010, 1e-9);
  EXPECT_NEAR(record_.latency, 0.030, 1e-9);
  ASSERT_EQ(record_.itl.size(), 2u);
  EXPECT_NEAR(record_.itl[0], 0.020, 1e-9);
  EXPECT_NEAR(record_.itl[1], 0, 1e-9);
  EXPECT_EQ(record_.prompt_tokens, 7);
  EXPECT_EQ(record_.output_tokens, 4);
  EXPECT_NEAR(record_.tpot(), 0.020 / 3, 1e-9);
  EXPECT_EQ(record_.tokens_by_precision[static_cast<int>(PrecisionClass::kExact)], 8);
  EXPECT_EQ(record_.tokens_by_precision[static_cast<int>(PrecisionClass::kFp8)], 3);
}

TEST_F(StreamedAnswerTest, ARoleIsNoToken) {
  Piece(1, "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n");
  Piece(9, "data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\ndata: [DONE]\n\n");
  answer_.OnEnd(200, "");
  EXPECT_TRUE(record_.ok());
  EXPECT_NEAR(record_.ttft, 0.009, 1e-9);
  EXPECT_EQ(record_.output_tokens, 1);  // counted, for want of usage
}

TEST_F(StreamedAnswerTest, AnAnswerThatIsCutIsAFailure) {
  Piece(1, "data: {\"choices\":[{\"text\":\"a\"}]}\n\n");
  answer_.OnEnd(200, "");
  EXPECT_EQ(record_.error, "the stream ended without [DONE]");
}

TEST_F(StreamedAnswerTest, ErrorsSayWhatTheServerSaid) {
  Piece(1, "{\"error\":{\"message\":\"the queue is full\"}}", 429);
  answer_.OnEnd(429, "");
  EXPECT_EQ(record_.error, "HTTP 429: \"the queue is full\"");
}

TEST_F(StreamedAnswerTest, WhatIsNoJsonIsAFailureNotACrash) {
  Piece(1, "data: {broken\n\n");
  Piece(2, "data: [1]\n\ndata: [DONE]\n\n");
  answer_.OnEnd(200, "");
  EXPECT_FALSE(record_.ok());
}

TEST(ServerMetricsTest, ReadsOursAndVllms) {
  const auto ours = ParseServerMetrics(
      "# HELP dualfp:num_requests_running x\n"
      "dualfp:num_requests_running{model_name=\"a}b\"} 3\n"
      "dualfp:num_requests_waiting{model_name=\"a}b\"} 2\n"
      "dualfp:precision_mode{model_name=\"a\"} 0.5\n"
      "dualfp:precision_tokens_total{model_name=\"a\",precision=\"fp8\"} 40\n",
      1.5);
  ASSERT_TRUE(ours.has_value());
  EXPECT_EQ(ours->running, 3);
  EXPECT_EQ(ours->waiting, 2);
  EXPECT_EQ(ours->fp8_layers, 0.5);
  EXPECT_EQ(ours->tokens[static_cast<int>(PrecisionClass::kFp8)], 40);
  const auto vllm = ParseServerMetrics("vllm:num_requests_running{engine=\"0\"} 7.0\n", 0);
  ASSERT_TRUE(vllm.has_value());
  EXPECT_EQ(vllm->running, 7);
  EXPECT_FALSE(vllm->fp8_layers.has_value());
  EXPECT_FALSE(ParseServerMetrics("<html>\x00\xff{ 3\nfoo 1\n", 0).has_value());
}

}  // namespace
}  // namespace dualfp
