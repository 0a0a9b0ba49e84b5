#include "bench/gemm_lab/gpu/graph_replay.h"

#include <algorithm>
#include <numeric>

#include "bench/statistics.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::gpu {

using cuda::CheckCuda;

GraphReplay::GraphReplay(cudaStream_t stream, int launches,
                         const std::function<void(int, cudaStream_t)>& enqueue)
    : stream_(stream), launches_(launches) {
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
  cudaGraph_t graph = nullptr;
  try {
    for (int i = 0; i < launches; ++i) {
      enqueue(i, stream);
    }
  } catch (...) {
    cudaStreamEndCapture(stream, &graph);
    cudaGraphDestroy(graph);
    throw;
  }
  CheckCuda(cudaStreamEndCapture(stream, &graph), "end capture");
  const cudaError_t status = cudaGraphInstantiate(&graph_, graph, 0);
  cudaGraphDestroy(graph);
  CheckCuda(status, "cudaGraphInstantiate");
  CheckCuda(cudaEventCreate(&begin_), "cudaEventCreate");
  CheckCuda(cudaEventCreate(&end_), "cudaEventCreate");
}

GraphReplay::~GraphReplay() {
  cudaGraphExecDestroy(graph_);
  cudaEventDestroy(begin_);
  cudaEventDestroy(end_);
}

void GraphReplay::Warm() { CheckCuda(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch"); }

double GraphReplay::Microseconds() {
  CheckCuda(cudaEventRecord(begin_, stream_), "cudaEventRecord");
  CheckCuda(cudaGraphLaunch(graph_, stream_), "cudaGraphLaunch");
  CheckCuda(cudaEventRecord(end_, stream_), "cudaEventRecord");
  CheckCuda(cudaEventSynchronize(end_), "cudaEventSynchronize");
  float milliseconds = 0.0f;
  CheckCuda(cudaEventElapsedTime(&milliseconds, begin_, end_), "cudaEventElapsedTime");
  return milliseconds * 1e3 / launches_;
}

double MedianMicroseconds(GraphReplay& replay, int samples, double limit) {
  replay.Warm();
  std::vector<double> values;
  for (int i = 0; i < samples; ++i) {
    values.push_back(replay.Microseconds());
    if (values.back() > limit) {
      break;
    }
  }
  return Median(std::move(values));
}

namespace {

// The indices of the least times, at most `most` and none beyond `close` times the least; that one
// first.
std::vector<size_t> Least(const std::vector<double>& times, size_t most, double close) {
  std::vector<size_t> order(times.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return times[a] < times[b]; });
  size_t count = 0;
  while (count < std::min(order.size(), most) && times[order[count]] <= times[order[0]] * close) {
    ++count;
  }
  order.resize(count);
  return order;
}

}  // namespace

std::vector<size_t> Finalists(const std::vector<double>& times) { return Least(times, 12, 1.08); }

std::vector<double> Race(const std::vector<GraphReplay*>& replays, int rounds) {
  const size_t count = replays.size();
  std::vector<std::vector<double>> samples(count);
  for (int round = 0; round <= rounds; ++round) {
    for (size_t place = 0; place < count; ++place) {
      const size_t turn = (round % 2 == 0 ? place : count - 1 - place) + round / 2;
      const double microseconds = replays[turn % count]->Microseconds();
      if (round > 0) {
        samples[turn % count].push_back(microseconds);
      }
    }
  }
  std::vector<double> medians;
  medians.reserve(count);
  for (std::vector<double>& values : samples) {
    medians.push_back(Median(std::move(values)));
  }
  return medians;
}

size_t Fastest(const std::vector<GraphReplay*>& replays) {
  constexpr int kFirstRounds = 5;
  constexpr int kLastRounds = 16;
  const std::vector<size_t> best = Least(Race(replays, kFirstRounds), 3, 1.05);
  std::vector<GraphReplay*> contenders;
  contenders.reserve(best.size());
  for (const size_t i : best) {
    contenders.push_back(replays[i]);
  }
  const std::vector<double> times = Race(contenders, kLastRounds);
  return best[std::min_element(times.begin(), times.end()) - times.begin()];
}

}  // namespace dualfp::gpu
