// Times plans on the GPU for the tuner.

#pragma once

#include <cuda_runtime_api.h>

#include <memory>

#include "bench/gemm_lab/gpu/cublaslt.h"
#include "bench/gemm_lab/gpu/gemm_data.h"
#include "bench/gemm_lab/tune/tuner.h"

namespace dualfp::gpu {

// Launches for one replay: all copies of the weights in turn, for about 0.4 ms.
int ReplayLaunches(const GemmData& data);

class GemmTimer : public PlanTimer {
 public:
  // On GPU `device`, which becomes the calling thread's; `max_m`: the largest M to come.
  GemmTimer(int device, int max_m);
  ~GemmTimer() override;

  Time Measure(const TunePoint& point, const sm90::Plan& plan, double limit) override;
  Winner Race(const TunePoint& point, std::span<const sm90::Plan> plans) override;

 private:
  // Operands of the point's N and K: kept from point to point while these stay the same.
  void Prepare(const TunePoint& point);

  int max_m_;
  cudaStream_t stream_ = nullptr;
  bool asked_for_baseline_ = false;
  std::unique_ptr<CublasLt> baseline_;  // nullptr where it is not installed
  std::unique_ptr<GemmData> data_;
  TunePoint prepared_;  // what data_ is prepared for
};

}  // namespace dualfp::gpu
