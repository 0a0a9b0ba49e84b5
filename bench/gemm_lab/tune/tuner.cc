#include "bench/gemm_lab/tune/tuner.h"

#include <fmt/core.h>

#include <algorithm>
#include <atomic>
#include <exception>
#include <mutex>
#include <thread>

#include "bench/gemm_lab/gpu/graph_replay.h"
#include "bench/gemm_lab/report/formats.h"
#include "dualfp/base/check.h"
#include "dualfp/base/watchdog.h"

namespace dualfp::gpu {
namespace {

using sm90::Plan;

constexpr double kHopeless = 1.5;  // times the best so far: not sampled further

// The work of one GPU's thread at one point.
class PointTuner {
 public:
  PointTuner(const TunePoint& point, PlanTimer& timer, const TuneOptions& options, TuneLog& log,
             Watchdog& dog)
      : point_(point), timer_(timer), options_(options), log_(log), dog_(dog) {}

  TunedPoint Run() {
    std::vector<sm90::RankedPlan> plans = PlansAt(point_, options_.device);
    if (options_.top > 0 && static_cast<int>(plans.size()) > options_.top) {
      plans.resize(options_.top);
    }
    struct Candidate {
      Plan plan;
      double microseconds;
    };
    std::vector<Candidate> candidates;
    double best = 1e30;
    for (const sm90::RankedPlan& ranked : plans) {
      if (log_.Failed(point_, Name(ranked.plan))) {
        continue;
      }
      const PlanTimer::Time time = Measure(ranked.plan, best * kHopeless);
      if (!(time.error < FormatOf(point_.format).largest_error)) {
        log_.AddFailure(point_, Name(ranked.plan), fmt::format("relative error {}", time.error));
        continue;
      }
      best = std::min(best, time.microseconds);
      candidates.push_back({ranked.plan, time.microseconds});
    }
    Check(!candidates.empty(), ErrorCode::kInternal, "tune: every plan failed at ", ToText(point_));
    std::sort(candidates.begin(), candidates.end(), [](const Candidate& a, const Candidate& b) {
      return a.microseconds < b.microseconds;
    });

    TunedPoint result;
    result.point = point_;
    std::vector<double> sampled;
    for (const Candidate& candidate : candidates) {
      result.timed.emplace_back(Name(candidate.plan), candidate.microseconds);
      sampled.push_back(candidate.microseconds);
    }
    std::vector<Plan> finalists;
    for (const size_t i : Finalists(sampled)) {
      finalists.push_back(candidates[i].plan);
    }
    const Watchdog::Watch watch(dog_, [this] { ReportHang("the fastest plans"); });
    const PlanTimer::Winner winner = timer_.Race(point_, finalists);
    result.plan = Name(finalists[winner.plan]);
    result.microseconds = winner.microseconds;
    result.cublaslt_microseconds = winner.cublaslt;
    return result;
  }

 private:
  PlanTimer::Time Measure(const Plan& plan, double limit) {
    const Watchdog::Watch watch(dog_, [this, &plan] {
      log_.AddFailure(point_, Name(plan), "did not finish");
      ReportHang(Name(plan));
    });
    return timer_.Measure(point_, plan, limit);
  }

  void ReportHang(const std::string& what) const {
    fmt::print(stderr,
               "dualfp: error: tune: {} did not finish within {} ms at {}; run the command again "
               "to go on\n",
               what, options_.hang_limit.count(), ToText(point_));
  }

  const TunePoint& point_;
  PlanTimer& timer_;
  const TuneOptions& options_;
  TuneLog& log_;
  Watchdog& dog_;
};

}  // namespace

std::vector<sm90::RankedPlan> PlansAt(const TunePoint& point, const sm90::DeviceModel& device) {
  std::vector<sm90::RankedPlan> plans = sm90::RankPlans(ProblemOf(point), device);
  Check(!plans.empty(), ErrorCode::kUnsupported, "no kernel of this build runs ", ToText(point));
  return plans;
}

void Tune(std::span<const TunePoint> points, int gpus, const TimerFactory& make_timer,
          const TuneOptions& options, TuneLog& log) {
  std::vector<TunePoint> open;
  std::copy_if(points.begin(), points.end(), std::back_inserter(open),
               [&](const TunePoint& point) { return !log.Has(point); });
  Watchdog dog(options.hang_limit);
  std::mutex mutex;  // of the two below and of progress
  std::exception_ptr failure;
  size_t done = points.size() - open.size();
  std::atomic<size_t> next{0};
  const auto work = [&](int gpu) {
    try {
      const std::unique_ptr<PlanTimer> timer = make_timer(gpu);
      for (size_t i = next++; i < open.size(); i = next++) {
        const TunedPoint result = PointTuner(open[i], *timer, options, log, dog).Run();
        log.Add(result);
        const std::lock_guard lock(mutex);
        ++done;
        if (options.progress) {
          options.progress(result, done);
        }
      }
    } catch (...) {
      const std::lock_guard lock(mutex);
      next = open.size();
      if (!failure) {
        failure = std::current_exception();
      }
    }
  };
  std::vector<std::thread> threads;
  for (int gpu = 0; gpu < std::min<int>(gpus, static_cast<int>(open.size())); ++gpu) {
    threads.emplace_back(work, gpu);
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  if (failure) {
    std::rethrow_exception(failure);
  }
}

}  // namespace dualfp::gpu
