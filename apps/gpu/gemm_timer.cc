#include "apps/gpu/gemm_timer.h"

#include <algorithm>

#include "apps/gpu/graph_replay.h"

namespace dualfp::gpu {
namespace {

using cuda::CheckCuda;
using sm90::WeightFormat;

constexpr int kSamples = 3;
constexpr int kRounds = 5;
constexpr double kReplayMicroseconds = 400;

}  // namespace

int ReplayLaunches(WeightFormat format, int m, int n, int k, int copies) {
  const double weight_bytes = static_cast<double>(n) * k * (format == WeightFormat::kE4m3 ? 1 : 2);
  const double guess = 3 + std::max(2.0 * m * n * k / 7e8, weight_bytes / 4.2e6);
  return copies * std::max(1, static_cast<int>(kReplayMicroseconds / (guess * copies)));
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
    reference_ = {};
  }
  if (reference_ != point) {
    data_->MakeReference(point.format, point.m, stream_);
    reference_ = point;
  }
}

PlanTimer::Time GemmTimer::Measure(const TunePoint& point, const sm90::Plan& plan, double limit) {
  Prepare(point);
  data_->Poison(point.m, stream_);
  Launch(plan, data_->Problem(point.format, point.m, 0), stream_, false);
  Time time;
  time.error = data_->Error(point.format, point.format == WeightFormat::kE4m3, stream_);
  GraphReplay replay(stream_,
                     ReplayLaunches(point.format, point.m, point.n, point.k, data_->copies()),
                     [&](int i, cudaStream_t stream) {
                       Launch(plan, data_->Problem(point.format, point.m, i), stream, true);
                     });
  time.microseconds = MedianMicroseconds(replay, kSamples, limit);
  return time;
}

std::vector<double> GemmTimer::Race(const TunePoint& point, std::span<const sm90::Plan> plans) {
  Prepare(point);
  const int launches = ReplayLaunches(point.format, point.m, point.n, point.k, data_->copies());
  std::vector<std::unique_ptr<GraphReplay>> replays;
  std::vector<GraphReplay*> all;
  for (const sm90::Plan& plan : plans) {
    replays.push_back(
        std::make_unique<GraphReplay>(stream_, launches, [&](int i, cudaStream_t stream) {
          Launch(plan, data_->Problem(point.format, point.m, i), stream, true);
        }));
    all.push_back(replays.back().get());
  }
  return gpu::Race(all, kRounds);
}

}  // namespace dualfp::gpu
