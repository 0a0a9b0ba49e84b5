#include "dualfp/engine/engine.h"

#include <atomic>
#include <condition_variable>
#include <exception>
#include <mutex>
#include <random>
#include <thread>
#include <utility>
#include <variant>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/engine/engine_core.h"
#include "dualfp/engine/request_limits.h"

namespace dualfp {
namespace {

Hash128 RandomKey() {
  std::random_device random;
  const auto word = [&] { return (uint64_t{random()} << 32) | random(); };
  return {word(), word()};
}

void CheckConfig(const EngineConfig& config, const RunnerInfo& info) {
  constexpr auto kInvalid = ErrorCode::kInvalidArgument;
  Check(config.max_waiting >= 1, kInvalid, "max_waiting must be at least 1, got ",
        config.max_waiting);
  Check(config.max_choices >= 1, kInvalid, "max_choices must be at least 1, got ",
        config.max_choices);
  Check(config.max_logprobs >= 0, kInvalid, "max_logprobs must be at least 0, got ",
        config.max_logprobs);
  for (const int32_t token : config.eos_token_ids) {
    Check(token >= 0 && token < info.vocab_size, kInvalid, "EOS token id ", token,
          " is not in the vocabulary of ", info.vocab_size, " tokens");
  }
  Check(info.fp16_unsupported.empty() || info.fp8_unsupported.empty(), ErrorCode::kUnsupported,
        "the model computes at no precision: ", info.fp16_unsupported, "; ", info.fp8_unsupported);
}

}  // namespace

struct Engine::Impl {
  using Command =
      std::variant<std::unique_ptr<RequestState>, RequestId, std::shared_ptr<PrecisionController>>;

  Impl(EngineConfig config_in, std::unique_ptr<ModelRunner> runner_in,
       std::shared_ptr<const Vocabulary> vocabulary_in,
       std::unique_ptr<PrecisionController> automatic_in, const PrecisionSetting& initial);

  std::shared_ptr<PrecisionController> MakeController(const PrecisionSetting& setting) const;
  RequestId Submit(Request request, OutputSink sink);
  // Both require the mutex.
  int NumWaiting() const;
  void CheckAccepting();
  void Post(Command command);
  void Loop();
  void Apply(Command* command);
  void AbandonAll(std::vector<Command> commands, const std::string& reason);
  void UpdateStatus();

  // Immutable after construction.
  const EngineConfig config;
  const std::unique_ptr<ModelRunner> runner;
  const std::shared_ptr<const Vocabulary> vocabulary;
  std::shared_ptr<PrecisionController> automatic;
  RequestLimits limits;
  RequestContext context;

  EngineMetrics metrics;
  std::unique_ptr<EngineCore> core;  // the engine thread's, once it runs

  std::atomic<int64_t> free_blocks{0};
  std::atomic<uint64_t> steps{0};

  mutable std::mutex mutex;  // guards what follows
  std::condition_variable wake;
  std::condition_variable idle_changed;
  std::vector<Command> queue;
  int queued_requests = 0;  // those in `queue`
  int taken_requests = 0;   // those that the engine thread is handing to the core
  bool accepting = true;
  bool stop = false;
  bool idle = true;
  std::string failure;  // why the engine can do nothing any more
  RequestId next_id = 1;
  std::mt19937_64 seeds;
  PrecisionSetting setting;
  std::string controller_name;
  PrecisionPlan plan;

  std::thread thread;
};

Engine::Impl::Impl(EngineConfig config_in, std::unique_ptr<ModelRunner> runner_in,
                   std::shared_ptr<const Vocabulary> vocabulary_in,
                   std::unique_ptr<PrecisionController> automatic_in,
                   const PrecisionSetting& initial)
    : config(std::move(config_in)),
      runner(std::move(runner_in)),
      vocabulary(std::move(vocabulary_in)),
      automatic(std::move(automatic_in)),
      metrics(runner->info().max_model_len),
      setting(initial) {
  const RunnerInfo& info = runner->info();
  CheckConfig(config, info);
  limits.vocab_size = info.vocab_size;
  limits.max_model_len = info.max_model_len;
  limits.max_kv_tokens = info.num_blocks * info.block_size;
  limits.max_logprobs = config.max_logprobs;
  limits.max_choices = config.max_choices;
  limits.has_vocabulary = vocabulary != nullptr;
  limits.fp16_unsupported = info.fp16_unsupported;
  limits.fp8_unsupported = info.fp8_unsupported;
  context = {info.vocab_size,
             info.max_model_len,
             info.block_size,
             vocabulary.get(),
             config.eos_token_ids,
             config.default_ttft_target,
             config.default_tpot_target,
             info.max_draft_tokens};

  const bool both = info.fp16_unsupported.empty() && info.fp8_unsupported.empty();
  if (!both && automatic != nullptr && (automatic->adaptive() || automatic->splits_prefill())) {
    LogWarning(StrCat("precision policy ", automatic->name(),
                      " is off, as the model has one precision only: ", info.fp16_unsupported,
                      info.fp8_unsupported));
    automatic = nullptr;
  }
  if (automatic == nullptr) {
    automatic = MakeFixedController(PrecisionPlan::Uniform(
        info.num_layers, info.fp16_unsupported.empty() ? Precision::kExact : Precision::kFp8));
  }
  if (config.seed) {
    seeds.seed(*config.seed);
  } else {
    std::random_device random;
    seeds.seed((uint64_t{random()} << 32) | random());
  }
  std::shared_ptr<PrecisionController> controller = MakeController(setting);
  controller_name = controller->name();
  core = std::make_unique<EngineCore>(config, runner.get(), vocabulary.get(), std::move(controller),
                                      &metrics, RandomKey());
  free_blocks = core->pool().num_free();
  plan = core->plan();
  thread = std::thread([this] { Loop(); });
}

std::shared_ptr<PrecisionController> Engine::Impl::MakeController(
    const PrecisionSetting& wanted) const {
  const RunnerInfo& info = runner->info();
  std::vector<Precision> layers = wanted.layers;
  switch (wanted.mode) {
    case PrecisionMode::kAuto:
      return automatic;
    case PrecisionMode::kExact:
      layers.assign(info.num_layers, Precision::kExact);
      break;
    case PrecisionMode::kFp8:
      layers.assign(info.num_layers, Precision::kFp8);
      break;
    case PrecisionMode::kLayers:
      Check(static_cast<int>(layers.size()) == info.num_layers, ErrorCode::kInvalidArgument,
            "layers names ", layers.size(), " precisions, expected one for each of the ",
            info.num_layers, " layers");
      break;
  }
  for (const Precision precision : layers) {
    const std::string& reason = precision == Precision::kExact ? info.fp16_unsupported
                                : precision == Precision::kFp8
                                    ? info.fp8_unsupported
                                    : "FP4 is not computed by this model";
    Check(reason.empty(), ErrorCode::kUnsupported, "precision: ", reason);
  }
  PrecisionPlan fixed{std::move(layers)};
  LetHeadFollow(&fixed);
  return MakeFixedController(std::move(fixed));
}

int Engine::Impl::NumWaiting() const {
  return queued_requests + taken_requests + static_cast<int>(metrics.num_requests_waiting.value());
}

void Engine::Impl::CheckAccepting() {
  Check(failure.empty(), ErrorCode::kInternal, failure);
  Check(accepting, ErrorCode::kCancelled, "the engine is shutting down");
  const int waiting = NumWaiting();
  if (waiting >= config.max_waiting) {
    metrics.requests_rejected_total.Add();
    Fail(ErrorCode::kResourceExhausted, "the queue is full: ", waiting,
         " requests are waiting; try again later");
  }
}

RequestId Engine::Impl::Submit(Request request, OutputSink sink) {
  ValidateRequest(request, limits);
  uint64_t seed = 0;
  {
    // A full queue refuses before anything is allocated.
    const std::lock_guard lock(mutex);
    CheckAccepting();
    seed = seeds();
  }
  auto state = MakeRequestState(std::move(request), std::move(sink), seed, context);
  const std::lock_guard lock(mutex);
  CheckAccepting();
  const RequestId id = state->id = next_id++;
  queue.emplace_back(std::move(state));
  ++queued_requests;
  idle = false;
  wake.notify_one();
  return id;
}

void Engine::Impl::Post(Command command) {
  const std::lock_guard lock(mutex);
  queue.push_back(std::move(command));
  wake.notify_one();
}

void Engine::Impl::Apply(Command* command) {
  if (auto* request = std::get_if<std::unique_ptr<RequestState>>(command)) {
    core->Add(std::move(*request));
  } else if (const auto* id = std::get_if<RequestId>(command)) {
    core->Cancel(*id);
  } else {
    core->SetController(std::get<std::shared_ptr<PrecisionController>>(*command));
  }
}

void Engine::Impl::UpdateStatus() {
  free_blocks.store(core->pool().num_free(), std::memory_order_relaxed);
  // Only this thread writes `plan`, so it may compare without the mutex.
  if (!(core->plan() == plan)) {
    const std::lock_guard lock(mutex);
    plan = core->plan();
  }
}

// A broken invariant: nothing that the core holds can be trusted to go on.
void Engine::Impl::AbandonAll(std::vector<Command> commands, const std::string& reason) {
  const std::string message = StrCat("the engine has failed: ", reason);
  LogWarning(message);
  std::vector<std::unique_ptr<RequestState>> requests;
  {
    const std::lock_guard lock(mutex);
    failure = message;
    accepting = false;
    for (Command& command : queue) {
      commands.push_back(std::move(command));
    }
    queue.clear();
  }
  for (Command& command : commands) {
    if (auto* request = std::get_if<std::unique_ptr<RequestState>>(&command);
        request != nullptr && *request != nullptr) {
      requests.push_back(std::move(*request));
    }
  }
  core->Abandon(std::move(requests), message);
}

void Engine::Impl::Loop() {
  std::vector<Command> commands;
  while (true) {
    bool stopping = false;
    {
      std::unique_lock lock(mutex);
      if (core->idle() && queue.empty()) {
        idle = true;
        idle_changed.notify_all();
        wake.wait(lock, [&] { return stop || !queue.empty(); });
      }
      stopping = stop;
      commands.swap(queue);
      taken_requests = std::exchange(queued_requests, 0);
    }
    try {
      for (Command& command : commands) {
        Apply(&command);
      }
      if (!commands.empty()) {
        commands.clear();
        const std::lock_guard lock(mutex);
        taken_requests = 0;
      }
      if (stopping) {
        core->CancelAll();
        break;
      }
      if (core->Step()) {
        steps.fetch_add(1, std::memory_order_relaxed);
      }
      UpdateStatus();
    } catch (const std::exception& error) {
      AbandonAll(std::move(commands), error.what());
      break;
    }
  }
  const std::lock_guard lock(mutex);
  idle = true;
  idle_changed.notify_all();
}

Engine::Engine(EngineConfig config, std::unique_ptr<ModelRunner> runner,
               std::shared_ptr<const Vocabulary> vocabulary,
               std::unique_ptr<PrecisionController> automatic, const PrecisionSetting& initial)
    : impl_(std::make_unique<Impl>(std::move(config), std::move(runner), std::move(vocabulary),
                                   std::move(automatic), initial)) {}

Engine::~Engine() { Shutdown(Clock::now()); }

RequestId Engine::Submit(Request request, OutputSink sink) {
  return impl_->Submit(std::move(request), std::move(sink));
}

void Engine::Cancel(RequestId id) { impl_->Post(id); }

void Engine::SetPrecision(PrecisionSetting setting) {
  std::shared_ptr<PrecisionController> controller = impl_->MakeController(setting);
  const std::lock_guard lock(impl_->mutex);
  impl_->setting = std::move(setting);
  impl_->controller_name = controller->name();
  impl_->queue.emplace_back(std::move(controller));
  impl_->wake.notify_one();
}

PrecisionStatus Engine::GetPrecision() const {
  const std::lock_guard lock(impl_->mutex);
  return {impl_->setting, impl_->controller_name, impl_->plan};
}

EngineStats Engine::Stats() const {
  EngineStats stats;
  stats.num_running = static_cast<int>(impl_->metrics.num_requests_running.value());
  stats.free_blocks = impl_->free_blocks.load(std::memory_order_relaxed);
  stats.num_blocks = impl_->runner->info().num_blocks;
  stats.steps = impl_->steps.load(std::memory_order_relaxed);
  const std::lock_guard lock(impl_->mutex);
  stats.num_waiting = impl_->NumWaiting();
  stats.accepting = impl_->accepting;
  return stats;
}

const EngineMetrics& Engine::metrics() const { return impl_->metrics; }
const RunnerInfo& Engine::info() const { return impl_->runner->info(); }
const EngineConfig& Engine::config() const { return impl_->config; }

bool Engine::Drain(TimePoint deadline) {
  std::unique_lock lock(impl_->mutex);
  impl_->accepting = false;
  return impl_->idle_changed.wait_until(lock, deadline, [&] { return impl_->idle; });
}

void Engine::Shutdown(TimePoint deadline) {
  Drain(deadline);
  std::thread thread;
  {
    const std::lock_guard lock(impl_->mutex);
    impl_->stop = true;
    impl_->wake.notify_one();
    thread.swap(impl_->thread);
  }
  if (thread.joinable()) {
    thread.join();
  }
}

}  // namespace dualfp
