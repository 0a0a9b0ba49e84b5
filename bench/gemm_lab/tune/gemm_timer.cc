#include "bench/gemm_lab/tune/gemm_timer.h"

#include <algorithm>

#include "bench/gemm_lab/gpu/graph_replay.h"

namespace dualfp::gpu {
namespace {

using cuda::CheckCuda;

constexpr int kSamples = 3;
constexpr int kRounds = 6;
constexpr double kReplayMicroseconds = 400;

}  // namespace

int ReplayLaunches(const GemmData& data) {
  const double weights = static_cast<double>(data.n()) * data.k();
  const double weight_bytes = weights * WeightBytes(data.format().name);
  const double guess = 3 + std::max(2.0 * data.m() * weights / 7e8, weight_bytes / 4.2e6);
  return data.copies() *
         std::max(1, static_cast<int>(kReplayMicroseconds / (guess * data.copies())));
}

GemmTimer::GemmTimer(int device, int max_m) : max_m_(max_m) {
  CheckCuda(cudaSetDevice(device), "cudaSetDevice");
  CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
}

GemmTimer::~GemmTimer() { cudaStreamDestroy(stream_); }

void GemmTimer::Prepare(const TunePoint& point) {
  if (data_ == nullptr || data_->n() != point.n || data_->k() != point.k) {
    data_.reset();
    data_ = std::make_unique<GemmData>(point.n, point.k, max_m_,
                                       GemmData::CopiesFor(point.n, point.k), stream_);
    prepared_ = {};
  }
  if (prepared_ != point) {
    data_->Prepare(FormatOf(point.format), point.m, stream_);
    prepared_ = point;
  }
}

PlanTimer::Time GemmTimer::Measure(const TunePoint& point, const sm90::Plan& plan, double limit) {
  Prepare(point);
  data_->Poison(stream_);
  Launch(plan, data_->Problem(0), stream_, false);
  Time time;
  time.error = data_->Error(stream_);
  GraphReplay replay(stream_, ReplayLaunches(*data_), [&](int i, cudaStream_t stream) {
    Launch(plan, data_->Problem(i), stream, true);
  });
  time.microseconds = MedianMicroseconds(replay, kSamples, limit);
  return time;
}

PlanTimer::Winner GemmTimer::Race(const TunePoint& point, std::span<const sm90::Plan> plans) {
  Prepare(point);
  const int launches = ReplayLaunches(*data_);
  std::vector<std::unique_ptr<GraphReplay>> replays;
  std::vector<GraphReplay*> contenders;
  for (const sm90::Plan& plan : plans) {
    replays.push_back(std::make_unique<GraphReplay>(
        stream_, launches,
        [&](int i, cudaStream_t stream) { Launch(plan, data_->Problem(i), stream, true); }));
    contenders.push_back(replays.back().get());
  }
  Winner winner;
  winner.plan = Fastest(contenders);
  std::vector<GraphReplay*> last = {contenders[winner.plan]};
  const bool plain = sm90::IsPlain(point.format);
  if (plain && !asked_for_baseline_) {
    asked_for_baseline_ = true;
    baseline_ = OpenCublasLt("plain weights are tuned without it");
  }
  if (plain && baseline_ != nullptr && baseline_->Prepare(data_->BaselineProblem(), 1) > 0) {
    replays.push_back(std::make_unique<GraphReplay>(
        stream_, launches,
        [&](int i, cudaStream_t stream) { baseline_->Run(0, data_->BaselineWeights(i), stream); }));
    last.push_back(replays.back().get());
  }
  const std::vector<double> times = gpu::Race(last, kRounds);
  winner.microseconds = times[0];
  winner.cublaslt = times.size() > 1 ? times[1] : 0.0;
  return winner;
}

}  // namespace dualfp::gpu
