#include "bench/gemm_lab/compare.h"

#include <fmt/core.h>

#include <algorithm>
#include <memory>

#include "bench/gemm_lab/gpu/graph_replay.h"
#include "bench/gemm_lab/tune/gemm_timer.h"
#include "dualfp/base/check.h"

namespace dualfp::gpu {
namespace {

using sm90::Plan;

constexpr int kHeuristics = 8;  // cuBLASLt's algorithms that are tried
constexpr int kSamples = 3;
constexpr int kRounds = 16;        // an even number: half of them backwards
constexpr double kHopeless = 1.5;  // times the best so far: not sampled further
constexpr double kWrong = 10;      // times the largest error: cuBLASLt computed something else

// The index of the fastest of cuBLASLt's algorithms, or -1.
int FastestAlgorithm(CublasLt& baseline, const GemmData& data, int launches, cudaStream_t stream) {
  const int found = baseline.Prepare(data.BaselineProblem(), kHeuristics);
  int fastest = -1;
  double best = 1e30;
  for (int a = 0; a < found; ++a) {
    GraphReplay replay(stream, launches,
                       [&](int i, cudaStream_t s) { baseline.Run(a, data.BaselineWeights(i), s); });
    const double microseconds = MedianMicroseconds(replay, kSamples, best * kHopeless);
    if (microseconds < best) {
      best = microseconds;
      fastest = a;
    }
  }
  return fastest;
}

std::vector<GraphReplay*> Pointers(const std::vector<std::unique_ptr<GraphReplay>>& replays) {
  std::vector<GraphReplay*> all;
  std::transform(replays.begin(), replays.end(), std::back_inserter(all),
                 [](const auto& owned) { return owned.get(); });
  return all;
}

}  // namespace

GemmRecord MeasureGemm(const GemmData& data, std::span<const Plan> plans, CublasLt* baseline,
                       cudaStream_t stream) {
  const GemmFormat& format = data.format();
  const int launches = ReplayLaunches(data);
  GemmRecord record;
  record.format = format.name;
  record.n = data.n();
  record.k = data.k();
  record.m = data.m();
  const std::string where = StrCat(format.name, " M ", record.m, " N ", record.n, " K ", record.k);
  Check(!plans.empty(), ErrorCode::kUnsupported, "no plan for ", where);

  const auto replay = [&](const Plan& plan, bool overlap) {
    return std::make_unique<GraphReplay>(stream, launches, [&, overlap](int i, cudaStream_t s) {
      Launch(plan, data.Problem(i), s, overlap);
    });
  };
  double best_time = 1e30;
  std::vector<double> sampled;
  std::vector<double> errors;
  for (const Plan& plan : plans) {
    data.Poison(stream);
    Launch(plan, data.Problem(0), stream, false);
    const double error = data.Error(stream);
    Check(error < format.largest_error, ErrorCode::kInternal, Name(plan), " computes ", where,
          " with relative error ", error);
    const double time = plans.size() == 1 ? 0.0
                                          : MedianMicroseconds(*replay(plan, true), kSamples,
                                                               best_time * kHopeless);
    best_time = std::min(best_time, time);
    sampled.push_back(time);
    errors.push_back(error);
  }
  // Samples of plans taken one after the other differ by more than the plans do.
  std::vector<size_t> finalists = Finalists(sampled);
  // Nor should one bad sample shut out the plan that the library would choose.
  if (std::find(finalists.begin(), finalists.end(), 0) == finalists.end()) {
    finalists.push_back(0);
  }
  size_t winner = finalists.front();
  if (finalists.size() > 1) {
    std::vector<std::unique_ptr<GraphReplay>> contenders;
    contenders.reserve(finalists.size());
    for (const size_t i : finalists) {
      contenders.push_back(replay(plans[i], true));
    }
    winner = finalists[Fastest(Pointers(contenders))];
  }
  const Plan* best = &plans[winner];
  record.error = errors[winner];
  record.plan = Name(*best);

  int algorithm = baseline == nullptr ? -1 : FastestAlgorithm(*baseline, data, launches, stream);
  if (algorithm >= 0) {
    // What is timed is also checked.
    data.Poison(stream);
    baseline->Run(algorithm, data.BaselineWeights(0), stream);
    record.cublaslt_error = data.BaselineError(stream);
    if (!(record.cublaslt_error < kWrong * format.largest_error)) {
      fmt::print(stderr, "dualfp: warning: {}: no baseline, cuBLASLt's relative error is {}\n",
                 where, record.cublaslt_error);
      record.cublaslt_error = 0;
      algorithm = -1;
    }
  }

  // The winners again, in turn.
  std::vector<std::unique_ptr<GraphReplay>> replays;
  replays.push_back(replay(*best, true));
  replays.push_back(replay(*best, false));
  const bool quantizes = IsFp8(record.format);
  if (quantizes) {
    replays.push_back(std::make_unique<GraphReplay>(stream, launches, [&](int i, cudaStream_t s) {
      data.QuantizeX(s);
      Launch(*best, data.Problem(i), s, true);
    }));
  }
  if (algorithm >= 0) {
    replays.push_back(std::make_unique<GraphReplay>(stream, launches, [&](int i, cudaStream_t s) {
      baseline->Run(algorithm, data.BaselineWeights(i), s);
    }));
  }
  const std::vector<double> times = Race(Pointers(replays), kRounds);
  record.microseconds = times[0];
  record.no_overlap_microseconds = times[1];
  record.with_quantize_microseconds = quantizes ? times[2] : 0.0;
  record.cublaslt_microseconds = algorithm >= 0 ? times.back() : 0.0;
  return record;
}

}  // namespace dualfp::gpu
