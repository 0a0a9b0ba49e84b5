#include "bench/serving/load/load_test.h"

#include <chrono>
#include <memory>
#include <utility>

namespace dualfp {
namespace {

// So many requests in a row that could not connect, and the server is taken to be gone.
constexpr int kUnreachable = 16;

TimePoint After(TimePoint begin, double seconds) {
  return begin +
         std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(seconds));
}

}  // namespace

LoadTest::LoadTest(HttpClient& client, const Target& target, LoadTestOptions options)
    : client_(client),
      target_(target),
      options_(std::move(options)),
      prompts_(target, options_.seed, options_.shared_prefix) {}

LoadResult LoadTest::Run(const Workload& workload, const Progress& progress) {
  workload_ = &workload;
  progress_ = &progress;
  result_ = {};
  // Records are filled in in place while others are added.
  result_.records.reserve(workload.size());
  due_ = sent_ = 0;
  done_ = 0;
  unreachable_ = 0;
  gone_ = false;
  begin_ = Clock::now();
  ScheduleNext();
  if (options_.sample_seconds > 0) {
    ScheduleSample();
  }
  client_.Run();
  result_.not_sent = static_cast<int64_t>(workload.size() - sent_);
  return std::move(result_);
}

double LoadTest::Now() const {
  return std::chrono::duration<double>(Clock::now() - begin_).count();
}

bool LoadTest::over() const { return in_flight_.empty() && (gone_ || sent_ == workload_->size()); }

void LoadTest::ScheduleNext() {
  const double now = Now();
  while (due_ < workload_->size() && (*workload_)[due_].at <= now) {
    ++due_;
  }
  SendReady();
  if (due_ < workload_->size() && !gone_) {
    client_.At(After(begin_, (*workload_)[due_].at), [this] { ScheduleNext(); });
  }
}

void LoadTest::SendReady() {
  while (!gone_ && sent_ < due_ &&
         (options_.max_concurrency == 0 ||
          static_cast<int64_t>(in_flight_.size()) < options_.max_concurrency)) {
    Send(sent_++);
  }
}

void LoadTest::Send(size_t index) {
  const PlannedRequest& planned = (*workload_)[index];
  const RandomPrompt prompt = prompts_.Write(planned.prompt_tokens);
  HttpCall call;
  call.method = "POST";
  call.path = options_.completion.endpoint;
  call.headers = options_.headers;
  call.body = CompletionBody(options_.completion, prompt, planned.output_tokens);

  const TimePoint sent = Clock::now();
  RequestRecord& record = result_.records.emplace_back();
  record.planned = planned.at;
  record.start = std::chrono::duration<double>(sent - begin_).count();
  record.prompt_tokens = planned.prompt_tokens;
  const auto place = in_flight_.emplace(in_flight_.end(), &record, sent);
  call.on_body = [place](int status, std::string_view piece, TimePoint at) {
    place->OnBody(status, piece, at);
  };
  call.on_end = [this, place](int status, const std::string& error) {
    Finish(place, status, error);
  };
  client_.Send(std::move(call));
}

void LoadTest::Finish(std::list<StreamedAnswer>::iterator place, int status,
                      const std::string& error) {
  place->OnEnd(status, error);
  in_flight_.erase(place);
  ++done_;
  unreachable_ = status == 0 ? unreachable_ + 1 : 0;
  gone_ = gone_ || unreachable_ >= kUnreachable;
  result_.duration = Now();
  (*progress_)(done_, static_cast<int64_t>(in_flight_.size()));
  SendReady();
}

void LoadTest::ScheduleSample() {
  HttpCall call;
  call.path = "/metrics";
  call.headers = options_.headers;
  auto text = std::make_shared<std::string>();
  const double at = Now();
  call.on_body = [text](int, std::string_view piece, TimePoint) { *text += piece; };
  call.on_end = [this, text, at](int status, const std::string& error) {
    const auto sample =
        error.empty() && status == 200 ? ParseServerMetrics(*text, at) : std::nullopt;
    if (sample) {
      result_.samples.push_back(*sample);
    }
    // The last reading is after the last answer. A server without such metrics is asked no more.
    if (!over() && (sample || !result_.samples.empty())) {
      client_.At(After(begin_, at + options_.sample_seconds), [this] { ScheduleSample(); });
    }
  };
  client_.Send(std::move(call));
}

}  // namespace dualfp
