#include "dualfp/engine/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <condition_variable>
#include <latch>
#include <mutex>
#include <numeric>
#include <thread>

#include "dualfp/base/error.h"
#include "dualfp/engine/testing/fake_vocabulary.h"
#include "dualfp/engine/testing/harness.h"

namespace dualfp {
namespace {

using namespace std::chrono_literals;
using testing::Collected;
using testing::ExpectedTokens;
using testing::FakeRunner;
using ::testing::HasSubstr;
using testing::SmallInfo;
using testing::UniformTag;

Request MakeRequest(int prompt, int64_t max_tokens, uint64_t seed = 1) {
  Request request;
  request.prompt.resize(prompt);
  std::iota(request.prompt.begin(), request.prompt.end(), static_cast<int32_t>(seed % 40));
  request.sampling.max_tokens = max_tokens;
  request.sampling.seed = seed;
  return request;
}

// A request's outputs as another thread sees them.
class Inbox {
 public:
  explicit Inbox(int n = 1) { collected_.choices.resize(n); }

  OutputSink sink() {
    return [this](const RequestOutput& output) {
      const std::lock_guard lock(mutex_);
      collected_.Take(output);
      changed_.notify_all();
    };
  }

  Collected Wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return collected_.finished; });
    return collected_;
  }

  void WaitForTokens(size_t count) {
    std::unique_lock lock(mutex_);
    changed_.wait(
        lock, [&] { return collected_.finished || collected_.choices[0].tokens.size() >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Collected collected_;
};

// The error that `call` throws.
template <typename Call>
Error Thrown(Call call) {
  try {
    call();
  } catch (const Error& error) {
    return error;
  }
  return Error(ErrorCode::kInternal, "nothing was thrown");
}

// Steps wait for permission, so that a test can look at the engine in the middle.
class Gate {
 public:
  void Open(int steps) {
    const std::lock_guard lock(mutex_);
    permits_ += steps;
    changed_.notify_all();
  }
  void Pass() {
    std::unique_lock lock(mutex_);
    ++arrived_;
    changed_.notify_all();
    changed_.wait(lock, [&] { return permits_ > 0; });
    --permits_;
  }
  void WaitForArrival(int count) {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return arrived_ >= count; });
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  int permits_ = 0;
  int arrived_ = 0;
};

std::unique_ptr<FakeRunner> MakeRunner(RunnerInfo info = SmallInfo()) {
  return std::make_unique<FakeRunner>(std::move(info));
}

TEST(Engine, ServesManyThreads) {
  const RunnerInfo info = SmallInfo();
  Engine engine({}, MakeRunner(), testing::FakeVocabulary::Ascii(), nullptr);
  constexpr int kThreads = 8;
  constexpr int kRequests = 30;
  std::vector<std::thread> threads;
  std::atomic<int> wrong{0};
  std::atomic<int> aborted{0};
  for (int thread = 0; thread < kThreads; ++thread) {
    threads.emplace_back([&, thread] {
      for (int i = 0; i < kRequests; ++i) {
        Request request = MakeRequest(1 + (thread * 7 + i) % 40, 1 + i % 30, thread * 100 + i);
        request.sampling.n = 1 + i % 3;
        Inbox inbox(request.sampling.n);
        const RequestId id = engine.Submit(request, inbox.sink());
        const bool cancel = i % 7 == 3;
        if (cancel) {
          inbox.WaitForTokens(2);
          engine.Cancel(id);
        }
        const Collected result = inbox.Wait();
        wrong += !result.violation.empty() || !result.error.empty();
        for (int choice = 0; choice < request.sampling.n; ++choice) {
          std::vector<int32_t> expected =
              ExpectedTokens(request, choice, *request.sampling.seed,
                             UniformTag(info, Precision::kExact), info, {});
          if (result.choices[choice].finish_reason == FinishReason::kAbort) {
            aborted += 1;
            expected.resize(std::min(expected.size(), result.choices[choice].tokens.size()));
          }
          wrong += result.choices[choice].tokens != expected;
        }
      }
    });
  }
  // Meanwhile, all that may be asked of an engine.
  std::atomic<bool> done{false};
  std::thread observer([&] {
    while (!done) {
      engine.SetPrecision({PrecisionMode::kExact, {}});
      EXPECT_EQ(engine.GetPrecision().setting.mode, PrecisionMode::kExact);
      EXPECT_LE(engine.Stats().free_blocks, info.num_blocks);
      EXPECT_GE(engine.metrics().time_to_first_token_seconds.Read().count, 0u);
      engine.Cancel(1u << 30);
      std::this_thread::yield();
    }
  });
  for (std::thread& thread : threads) {
    thread.join();
  }
  done = true;
  observer.join();
  EXPECT_EQ(wrong, 0);
  EXPECT_TRUE(engine.Drain(Clock::now() + 10s));
  const EngineStats stats = engine.Stats();
  EXPECT_EQ(stats.num_running, 0);
  EXPECT_EQ(stats.num_waiting, 0);
  EXPECT_EQ(stats.free_blocks, info.num_blocks);
  uint64_t ended = 0;
  for (const Counter& counter : engine.metrics().request_success_total) {
    ended += counter.value();
  }
  EXPECT_EQ(ended, static_cast<uint64_t>(kThreads * kRequests));
}

TEST(Engine, RefusesABadConfiguration) {
  const auto refusal = [](auto change) {
    EngineConfig config;
    change(config);
    return std::string(
        Thrown([&] { Engine engine(config, MakeRunner(), nullptr, nullptr); }).what());
  };
  EXPECT_THAT(refusal([](EngineConfig& c) { c.max_num_seqs = 0; }), HasSubstr("max_num_seqs"));
  EXPECT_THAT(refusal([](EngineConfig& c) { c.max_num_batched_tokens = 3; }),
              HasSubstr("max_num_batched_tokens (3)"));
  EXPECT_THAT(refusal([](EngineConfig& c) { c.max_waiting = 0; }), HasSubstr("max_waiting"));
  EXPECT_THAT(refusal([](EngineConfig& c) { c.eos_token_ids = {96}; }), HasSubstr("EOS"));
}

TEST(Engine, AFullQueueRefusesWithAReason) {
  Gate gate;
  auto runner = MakeRunner();
  runner->before = [&](const StepBatch&) { gate.Pass(); };
  EngineConfig config;
  config.max_num_seqs = 1;
  config.max_waiting = 3;
  Engine engine(config, std::move(runner), nullptr, nullptr);
  std::vector<std::unique_ptr<Inbox>> inboxes;
  const auto submit = [&] {
    inboxes.push_back(std::make_unique<Inbox>());
    engine.Submit(MakeRequest(4, 2), inboxes.back()->sink());
  };
  submit();
  gate.WaitForArrival(1);  // it runs now
  submit();
  submit();
  submit();
  EXPECT_EQ(engine.Stats().num_waiting, 3);
  const Error error =
      Thrown([&] { engine.Submit(MakeRequest(4, 2), [](const RequestOutput&) {}); });
  EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
  EXPECT_THAT(error.what(), HasSubstr("the queue is full: 3 requests"));
  EXPECT_EQ(engine.metrics().requests_rejected_total.value(), 1u);
  gate.Open(1000);
  for (const auto& inbox : inboxes) {
    EXPECT_EQ(inbox->Wait().choices[0].finish_reason, FinishReason::kLength);
  }
  submit();
  EXPECT_EQ(inboxes.back()->Wait().choices[0].finish_reason, FinishReason::kLength);
}

TEST(Engine, ACancelledRequestEndsAtTheNextStep) {
  Gate gate;
  auto runner = MakeRunner();
  runner->before = [&](const StepBatch&) { gate.Pass(); };
  Engine engine({}, std::move(runner), nullptr, nullptr);
  Inbox inbox;
  const RequestId id = engine.Submit(MakeRequest(4, 100), inbox.sink());
  gate.Open(3);
  gate.WaitForArrival(4);
  engine.Cancel(id);
  gate.Open(1);
  const Collected result = inbox.Wait();
  EXPECT_EQ(result.choices[0].finish_reason, FinishReason::kAbort);
  EXPECT_EQ(result.choices[0].tokens.size(), 4u);
  EXPECT_EQ(engine.metrics().request_success_total[2].value(), 1u);
}

TEST(Engine, ASinkMayCancel) {
  Engine engine({}, MakeRunner(), nullptr, nullptr);
  Inbox inbox;
  const OutputSink inner = inbox.sink();
  engine.Submit(MakeRequest(4, 100), [&](const RequestOutput& output) {
    if (output.usage.completion_tokens == 5) {
      engine.Cancel(output.id);
    }
    inner(output);
  });
  const Collected result = inbox.Wait();
  EXPECT_EQ(result.choices[0].finish_reason, FinishReason::kAbort);
  EXPECT_LT(result.choices[0].tokens.size(), 10u);
}

TEST(Engine, DrainFinishesWhatRunsAndRefusesMore) {
  auto runner = MakeRunner();
  runner->before = [](const StepBatch&) { std::this_thread::sleep_for(1ms); };
  Engine engine({}, std::move(runner), nullptr, nullptr);
  std::vector<std::unique_ptr<Inbox>> inboxes;
  for (int i = 0; i < 20; ++i) {
    inboxes.push_back(std::make_unique<Inbox>());
    engine.Submit(MakeRequest(4, 10, i), inboxes.back()->sink());
  }
  EXPECT_TRUE(engine.Drain(Clock::now() + 60s));
  EXPECT_FALSE(engine.Stats().accepting);
  for (const auto& inbox : inboxes) {
    EXPECT_EQ(inbox->Wait().choices[0].finish_reason, FinishReason::kLength);
  }
  EXPECT_EQ(Thrown([&] { engine.Submit(MakeRequest(4, 1), [](const RequestOutput&) {}); }).code(),
            ErrorCode::kCancelled);
}

TEST(Engine, ShutdownUnderLoadEndsEveryRequest) {
  for (int round = 0; round < 20; ++round) {
    std::vector<std::unique_ptr<Inbox>> inboxes;
    auto engine = std::make_unique<Engine>(EngineConfig{}, MakeRunner(), nullptr, nullptr);
    std::latch started(4);
    std::mutex mutex;
    std::vector<std::thread> clients;
    for (int client = 0; client < 4; ++client) {
      clients.emplace_back([&, client] {
        started.count_down();
        try {
          while (true) {
            auto inbox = std::make_unique<Inbox>();
            engine->Submit(MakeRequest(4 + client, 100), inbox->sink());
            const std::lock_guard lock(mutex);
            inboxes.push_back(std::move(inbox));
            if (inboxes.size() >= 400) {
              return;
            }
          }
        } catch (const Error& error) {
          EXPECT_TRUE(error.code() == ErrorCode::kCancelled ||
                      error.code() == ErrorCode::kResourceExhausted);
        }
      });
    }
    started.wait();
    std::this_thread::sleep_for(std::chrono::microseconds(200 * round));
    engine->Shutdown(Clock::now() + std::chrono::milliseconds(round % 3));
    for (std::thread& client : clients) {
      client.join();
    }
    engine->Shutdown(Clock::now());
    engine.reset();
    for (const auto& inbox : inboxes) {
      const Collected result = inbox->Wait();
      EXPECT_EQ(result.violation, "");
      EXPECT_TRUE(result.choices[0].finish_reason == FinishReason::kLength ||
                  result.choices[0].finish_reason == FinishReason::kAbort);
    }
  }
}

TEST(Engine, PrecisionIsSetAndReported) {
  Engine engine({}, MakeRunner(), nullptr, MakeThresholdController(2));
  EXPECT_EQ(engine.GetPrecision().setting.mode, PrecisionMode::kAuto);
  EXPECT_EQ(engine.GetPrecision().controller, "threshold");
  const auto run = [&] {
    Inbox inbox;
    engine.Submit(MakeRequest(4, 3), inbox.sink());
    return inbox.Wait().usage;
  };
  Usage usage = run();
  EXPECT_EQ(usage.prompt_by_precision[1], 4) << "4 rows are more than 2";
  EXPECT_EQ(usage.completion_by_precision, (TokensByPrecision{2, 1, 0, 0}));

  engine.SetPrecision({PrecisionMode::kFp8, {}});
  EXPECT_EQ(run().completion_by_precision, (TokensByPrecision{0, 3, 0, 0}));
  EXPECT_EQ(engine.GetPrecision().controller, "fp8");

  const std::vector<Precision> layers = {Precision::kExact, Precision::kFp8, Precision::kFp8,
                                         Precision::kExact};
  engine.SetPrecision({PrecisionMode::kLayers, layers});
  EXPECT_EQ(run().completion_by_precision, (TokensByPrecision{0, 0, 0, 3}));
  EXPECT_TRUE(engine.Drain(Clock::now() + 10s));
  EXPECT_EQ(engine.GetPrecision().current.layers, layers);
  EXPECT_EQ(engine.GetPrecision().current.lm_head, Precision::kExact);

  EXPECT_THAT(Thrown([&] {
                engine.SetPrecision({PrecisionMode::kLayers, {Precision::kFp8}});
              }).what(),
              HasSubstr("names 1 precisions, expected one for each of the 4 layers"));
  EXPECT_EQ(Thrown([&] {
              engine.SetPrecision({PrecisionMode::kLayers, {4, Precision::kFp4}});
            }).code(),
            ErrorCode::kUnsupported);
}

TEST(Engine, AModelOfOnePrecisionKeepsToIt) {
  RunnerInfo info = SmallInfo();
  info.fp16_unsupported = "an FP8 checkpoint";
  Engine engine({}, MakeRunner(info), nullptr, MakeSloSlackController(4));
  EXPECT_EQ(Thrown([&] {
              engine.SetPrecision({PrecisionMode::kExact, {}});
            }).code(),
            ErrorCode::kUnsupported);
  Inbox inbox;
  engine.Submit(MakeRequest(4, 3), inbox.sink());
  EXPECT_EQ(inbox.Wait().usage.completion_by_precision, (TokensByPrecision{0, 3, 0, 0}));
  info.fp8_unsupported = "and not that either";
  EXPECT_EQ(Thrown([&] { Engine none({}, MakeRunner(info), nullptr, nullptr); }).code(),
            ErrorCode::kUnsupported);
}

class BrokenController : public PrecisionController {
 public:
  void Choose(const StepSummary& /*step*/, PrecisionPlan* /*plan*/) override {
    if (++steps_ == 4) {
      throw std::logic_error("broken");
    }
  }
  std::string_view name() const override { return "broken"; }

 private:
  int steps_ = 0;
};

TEST(Engine, ABrokenInvariantEndsEveryRequestAndTheService) {
  Engine engine({}, MakeRunner(), nullptr, std::make_unique<BrokenController>());
  std::vector<std::unique_ptr<Inbox>> inboxes;
  for (int i = 0; i < 40; ++i) {
    inboxes.push_back(std::make_unique<Inbox>());
    try {
      engine.Submit(MakeRequest(4, 100), inboxes.back()->sink());
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInternal);
      inboxes.pop_back();
    }
  }
  for (const auto& inbox : inboxes) {
    const Collected result = inbox->Wait();
    EXPECT_EQ(result.choices[0].finish_reason, FinishReason::kError);
    EXPECT_THAT(result.error, HasSubstr("the engine has failed: broken"));
  }
  EXPECT_EQ(Thrown([&] { engine.Submit(MakeRequest(4, 1), [](const RequestOutput&) {}); }).code(),
            ErrorCode::kInternal);
  EXPECT_FALSE(engine.Stats().accepting);
  EXPECT_TRUE(engine.Drain(Clock::now() + 10s));
}

TEST(Engine, UnseededRequestsDifferUnlessTheEngineIsSeeded) {
  const auto run = [](std::optional<uint64_t> seed) {
    EngineConfig config;
    config.seed = seed;
    Engine engine(config, MakeRunner(), nullptr, nullptr);
    std::vector<std::vector<int32_t>> tokens;
    for (int i = 0; i < 2; ++i) {
      Request request = MakeRequest(4, 30);
      request.sampling.seed.reset();
      Inbox inbox;
      engine.Submit(request, inbox.sink());
      tokens.push_back(inbox.Wait().choices[0].tokens);
    }
    EXPECT_NE(tokens[0], tokens[1]);
    return tokens;
  };
  EXPECT_EQ(run(7), run(7));
  EXPECT_NE(run(7), run(8));
  EXPECT_NE(run(std::nullopt), run(std::nullopt));
}

TEST(Engine, ReportsStepsAndMetrics) {
  EngineConfig config;
  std::atomic<int> steps{0};
  config.on_step = [&](const StepReport& report) {
    EXPECT_EQ(report.step, static_cast<uint64_t>(steps));
    EXPECT_GE(report.seconds, report.execute_seconds);
    ++steps;
  };
  Engine engine(config, MakeRunner(), nullptr, nullptr);
  Inbox inbox;
  engine.Submit(MakeRequest(10, 5), inbox.sink());
  const Collected result = inbox.Wait();
  EXPECT_TRUE(engine.Drain(Clock::now() + 10s));
  EXPECT_EQ(steps, 5);
  EXPECT_LE(result.timing.arrival, result.timing.first_scheduled);
  EXPECT_LE(result.timing.first_scheduled, result.timing.first_token);
  EXPECT_LT(result.timing.first_token, result.timing.last_token);

  const EngineMetrics& metrics = engine.metrics();
  EXPECT_EQ(metrics.prompt_tokens_total.value(), 10u);
  EXPECT_EQ(metrics.generation_tokens_total.value(), 5u);
  EXPECT_EQ(metrics.time_to_first_token_seconds.Read().count, 1u);
  EXPECT_EQ(metrics.inter_token_latency_seconds.Read().count, 4u);
  EXPECT_EQ(metrics.request_time_per_output_token_seconds.Read().count, 1u);
  EXPECT_EQ(metrics.e2e_request_latency_seconds.Read().count, 1u);
  EXPECT_EQ(metrics.request_queue_time_seconds.Read().count, 1u);
  EXPECT_EQ(metrics.request_prompt_tokens.Read().sum, 10.0);
  EXPECT_EQ(metrics.request_generation_tokens.Read().sum, 5.0);
  EXPECT_EQ(metrics.iteration_tokens_total.Read().sum, 14.0);
  EXPECT_EQ(metrics.request_success_total[1].value(), 1u);

  struct Names : MetricVisitor {
    void Visit(std::string_view name, std::string_view, MetricLabel, const Counter&) override {
      names.emplace_back(name);
    }
    void Visit(std::string_view name, std::string_view, MetricLabel, const Gauge&) override {
      names.emplace_back(name);
    }
    void Visit(std::string_view name, std::string_view, MetricLabel, const Histogram&) override {
      names.emplace_back(name);
    }
    std::vector<std::string> names;
  } names;
  metrics.ForEach(names);
  for (const char* name : {"num_requests_running",        "num_requests_waiting",
                           "kv_cache_usage_perc",         "prompt_tokens_total",
                           "generation_tokens_total",     "request_success_total",
                           "num_preemptions_total",       "prefix_cache_queries_total",
                           "prefix_cache_hits_total",     "time_to_first_token_seconds",
                           "inter_token_latency_seconds", "request_time_per_output_token_seconds",
                           "e2e_request_latency_seconds", "request_queue_time_seconds",
                           "request_prompt_tokens",       "request_generation_tokens",
                           "iteration_tokens_total",      "precision_tokens_total",
                           "precision_switches_total",    "precision_mode",
                           "step_duration_seconds"}) {
    EXPECT_THAT(names.names, ::testing::Contains(name));
  }
}

}  // namespace
}  // namespace dualfp
