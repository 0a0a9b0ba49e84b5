// Times plans of GEMM problems and records the fastest of each.

#pragma once

#include <chrono>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "bench/gemm_lab/tune/tune_log.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"

namespace dualfp::gpu {

// Times plans on one GPU. Used by one thread, which also makes it.
class PlanTimer {
 public:
  virtual ~PlanTimer() = default;

  struct Time {
    double microseconds = 0;  // a launch, weights not in L2
    double error = 0;         // relative, against FP64
  };

  // Gives up early on a plan that takes longer than `limit` microseconds.
  virtual Time Measure(const TunePoint& point, const sm90::Plan& plan, double limit) = 0;

  struct Winner {
    size_t plan = 0;  // its index
    double microseconds = 0;
    double cublaslt = 0;  // of plain weights, the kernel that it chooses itself; 0: not there
  };

  // The fastest of a few plans, by replays in turn.
  virtual Winner Race(const TunePoint& point, std::span<const sm90::Plan> plans) = 0;
};

// Every plan that can run the point, the model's best first. Throws kUnsupported when there is
// none.
std::vector<sm90::RankedPlan> PlansAt(const TunePoint& point, const sm90::DeviceModel& device);

struct TuneOptions {
  int top = 0;  // plans to time at a point, the model's best first; 0 = all
  sm90::DeviceModel device;
  std::chrono::milliseconds hang_limit{20'000};  // of one plan
  // Called under a lock after each point, with the finished points' number.
  std::function<void(const TunedPoint& point, size_t done)> progress;
};

// Makes the timer of the GPU with this index, on the thread that will use it.
using TimerFactory = std::function<std::unique_ptr<PlanTimer>(int gpu)>;

// Times every point that `log` does not have, on `gpus` GPUs at a time, and appends it. A plan that
// computes wrongly or hangs is recorded as failed and never tried again at that point; a hang ends
// the process. The first exception of a timer stops all and is rethrown; what was finished stays.
void Tune(std::span<const TunePoint> points, int gpus, const TimerFactory& make_timer,
          const TuneOptions& options, TuneLog& log);

}  // namespace dualfp::gpu
