// Sends a workload to a server and records what happens: open loop, in that requests go out when
// the workload says so, however slow the server, unless max_concurrency bounds them.

#pragma once

#include <cstdint>
#include <functional>
#include <list>
#include <string>
#include <vector>

#include "bench/serving/load/openai_stream.h"
#include "bench/serving/load/server_sampler.h"
#include "bench/serving/load/target.h"
#include "bench/serving/report/serving_metrics.h"
#include "bench/serving/workload/workload.h"

namespace dualfp {

struct LoadTestOptions {
  CompletionOptions completion;
  HttpHeaders headers;
  int64_t max_concurrency = 0;  // 0: no bound
  uint64_t seed = 0;
  int64_t shared_prefix = 0;  // tokens that all prompts begin with
  double sample_seconds = 0;  // between readings of /metrics; 0: none
};

struct LoadResult {
  std::vector<RequestRecord> records;  // of what was sent, in order of time
  std::vector<ServerSample> samples;
  double duration = 0;  // seconds, until the last answer

  // Of what was not sent because the server had gone.
  int64_t not_sent = 0;
};

class LoadTest {
 public:
  // Progress is reported as (requests done, in flight).
  using Progress = std::function<void(int64_t done, int64_t in_flight)>;

  LoadTest(HttpClient& client, const Target& target, LoadTestOptions options);

  // Every request answered or failed. Gives up, with what it has, when request after request finds
  // nobody listening.
  LoadResult Run(const Workload& workload, const Progress& progress);

 private:
  void ScheduleNext();
  void SendReady();
  void Send(size_t index);
  void Finish(std::list<StreamedAnswer>::iterator place, int status, const std::string& error);
  void ScheduleSample();
  double Now() const;
  bool over() const;

  HttpClient& client_;
  const Target& target_;
  LoadTestOptions options_;
  PromptWriter prompts_;

  // Of the run at hand.
  const Workload* workload_ = nullptr;
  const Progress* progress_ = nullptr;
  TimePoint begin_;
  LoadResult result_;
  std::list<StreamedAnswer> in_flight_;
  size_t due_ = 0;  // requests whose time has come
  size_t sent_ = 0;
  int64_t done_ = 0;
  int unreachable_ = 0;  // requests in a row that could not connect
  bool gone_ = false;
};

}  // namespace dualfp
