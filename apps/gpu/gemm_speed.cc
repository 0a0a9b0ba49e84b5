#include "apps/gpu/gemm_speed.h"

#include <algorithm>
#include <memory>

#include "apps/gpu/gemm_timer.h"
#include "apps/gpu/graph_replay.h"
#include "dualfp/base/check.h"

namespace dualfp::gpu {
namespace {

using sm90::Plan;
using sm90::WeightFormat;

constexpr int kHeuristics = 8;  // cuBLASLt's algorithms that are tried
constexpr int kSamples = 3;
constexpr int kRounds = 9;         // fewer let a plan win by luck, 8 % behind the best
constexpr double kHopeless = 1.5;  // times the best so far: not sampled further

// The index of the fastest of cuBLASLt's algorithms for the prepared problem, or -1.
int FastestAlgorithm(CublasLt& baseline, const GemmData& data, bool fp8, int found, int launches,
                     cudaStream_t stream) {
  int fastest = -1;
  double best = 1e30;
  for (int a = 0; a < found; ++a) {
    GraphReplay replay(stream, launches, [&](int i, cudaStream_t s) {
      baseline.Run(a, data.PlainWeights(fp8, i), s);
    });
    const double microseconds = MedianMicroseconds(replay, kSamples, best * kHopeless);
    if (microseconds < best) {
      best = microseconds;
      fastest = a;
    }
  }
  return fastest;
}

std::vector<double> RaceOwned(const std::vector<std::unique_ptr<GraphReplay>>& replays) {
  std::vector<GraphReplay*> all;
  std::transform(replays.begin(), replays.end(), std::back_inserter(all),
                 [](const auto& owned) { return owned.get(); });
  return Race(all, kRounds);
}

}  // namespace

GemmRecord MeasureGemm(GemmData& data, WeightFormat format, int m, std::span<const Plan> plans,
                       CublasLt* baseline, cudaStream_t stream) {
  const bool fp8 = format == WeightFormat::kE4m3;
  const int launches = ReplayLaunches(format, m, data.n(), data.k(), data.copies());
  data.MakeReference(format, m, stream);
  GemmRecord record;
  record.format = fp8 ? "fp8" : "nested";
  record.n = data.n();
  record.k = data.k();
  record.m = m;

  const auto replay = [&](const Plan& plan, bool overlap) {
    return std::make_unique<GraphReplay>(stream, launches, [&, overlap](int i, cudaStream_t s) {
      Launch(plan, data.Problem(format, m, i), s, overlap);
    });
  };
  double best_time = 1e30;
  std::vector<double> sampled;
  std::vector<double> errors;
  for (const Plan& plan : plans) {
    data.Poison(m, stream);
    Launch(plan, data.Problem(format, m, 0), stream, false);
    const double error = data.Error(format, fp8, stream);
    Check(error < LargestError(format), ErrorCode::kInternal, Name(plan), " computes M ", m, " N ",
          data.n(), " K ", data.k(), " with relative error ", error);
    const double time = plans.size() == 1 ? 0.0
                                          : MedianMicroseconds(*replay(plan, true), kSamples,
                                                               best_time * kHopeless);
    best_time = std::min(best_time, time);
    sampled.push_back(time);
    errors.push_back(error);
  }
  Check(!plans.empty(), ErrorCode::kUnsupported, "no plan for M ", m, " N ", data.n(), " K ",
        data.k());
  // Samples of plans taken one after the other differ by more than the plans do.
  const std::vector<size_t> finalists = Finalists(sampled);
  size_t winner = finalists.front();
  if (finalists.size() > 1) {
    std::vector<std::unique_ptr<GraphReplay>> contenders;
    contenders.reserve(finalists.size());
    for (const size_t i : finalists) {
      contenders.push_back(replay(plans[i], true));
    }
    const std::vector<double> raced = RaceOwned(contenders);
    winner = finalists[std::min_element(raced.begin(), raced.end()) - raced.begin()];
  }
  const Plan* best = &plans[winner];
  record.error = errors[winner];
  record.plan = Name(*best);

  int algorithm = -1;
  if (baseline != nullptr) {
    CublasLt::Problem problem;
    problem.fp8 = fp8;
    problem.m = m;
    problem.n = data.n();
    problem.k = data.k();
    problem.x = data.PlainX(fp8);
    problem.y = data.y();
    const int found = baseline->Prepare(problem, kHeuristics);
    algorithm = FastestAlgorithm(*baseline, data, fp8, found, launches, stream);
  }

  // The winners again, in turn.
  std::vector<std::unique_ptr<GraphReplay>> replays;
  replays.push_back(replay(*best, true));
  replays.push_back(replay(*best, false));
  if (fp8) {
    replays.push_back(std::make_unique<GraphReplay>(stream, launches, [&](int i, cudaStream_t s) {
      data.QuantizeX(m, s);
      Launch(*best, data.Problem(format, m, i), s, true);
    }));
  }
  if (algorithm >= 0) {
    replays.push_back(std::make_unique<GraphReplay>(stream, launches, [&](int i, cudaStream_t s) {
      baseline->Run(algorithm, data.PlainWeights(fp8, i), s);
    }));
    // What is timed is also checked: cuBLASLt's Y lacks the tokens' scales.
    data.Poison(m, stream);
    baseline->Run(algorithm, data.PlainWeights(fp8, 0), stream);
    record.cublaslt_error = data.Error(format, false, stream);
  }
  const std::vector<double> times = RaceOwned(replays);
  record.microseconds = times[0];
  record.no_overlap_microseconds = times[1];
  record.with_quantize_microseconds = fp8 ? times[2] : 0.0;
  record.cublaslt_microseconds = algorithm >= 0 ? times.back() : 0.0;
  return record;
}

}  // namespace dualfp::gpu
