// Times what is enqueued on a stream: captured once as a CUDA graph and replayed between two
// events, so that the host's launches are not measured.

#pragma once

#include <cuda_runtime_api.h>

#include <functional>
#include <vector>

namespace dualfp::gpu {

class GraphReplay {
 public:
  // Captures `launches` calls of enqueue(i, stream).
  GraphReplay(cudaStream_t stream, int launches,
              const std::function<void(int, cudaStream_t)>& enqueue);
  ~GraphReplay();
  GraphReplay(const GraphReplay&) = delete;
  GraphReplay& operator=(const GraphReplay&) = delete;

  void Warm();

  // One replay: microseconds of each launch. Waits for it.
  double Microseconds();

 private:
  cudaStream_t stream_;
  int launches_;
  cudaGraphExec_t graph_ = nullptr;
  cudaEvent_t begin_ = nullptr;
  cudaEvent_t end_ = nullptr;
};

// Warms once, then the median of `samples` replays; stops after the first that exceeds `limit`.
double MedianMicroseconds(GraphReplay& replay, int samples, double limit = 1e30);

// Which of these sampled times are close enough to the best for races to tell them apart: some, the
// best first.
std::vector<size_t> Finalists(const std::vector<double>& times);

// Replays all in turn, `rounds` times after a first that does not count: a median for each. Each
// round begins with another one and every second goes backwards, since at its power limit the GPU's
// clock depends on what ran before.
std::vector<double> Race(const std::vector<GraphReplay*>& replays, int rounds);

// The index of the fastest, by a race of all and a longer one of the best of them.
size_t Fastest(const std::vector<GraphReplay*>& replays);

}  // namespace dualfp::gpu
