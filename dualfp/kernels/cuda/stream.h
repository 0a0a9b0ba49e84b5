// The CUDA side of Stream, for the ops that run on it.

#pragma once

#include <cuda_runtime_api.h>

#include "dualfp/kernels/context.h"
#include "dualfp/kernels/device.h"

namespace dualfp::cuda {

class CudaStream final : public Stream {
 public:
  // Makes a stream that does not wait for the default one, or wraps `borrowed`.
  CudaStream(int index, StreamUse use);
  CudaStream(int index, cudaStream_t borrowed);
  // Wraps it with a workspace that is the caller's too.
  CudaStream(int index, cudaStream_t borrowed, void* state);
  ~CudaStream() override;

  void* native() const override { return stream_; }
  cudaStream_t get() const { return stream_; }
  // sm90::kWorkspaceBytes that sm90::InitWorkspace() initialised; nullptr on GPUs other than
  // Hopper and on streams for copies.
  void* sm90_workspace() const { return sm90_workspace_.data(); }
  // kAttentionCounters, zero between kernels; nullptr on streams for copies.
  unsigned* attention_counters() const { return static_cast<unsigned*>(counters_.data()); }

  void Copy(void* to, const void* from, size_t bytes) override;
  void Fill(void* to, uint8_t value, size_t bytes) override;
  void Record(Event& event) override;
  void WaitFor(const Event& event) override;
  void Synchronize() override;

 private:
  void PrepareForOps();

  bool owned_;
  bool lent_ = false;
  cudaStream_t stream_ = nullptr;
  Buffer sm90_workspace_;
  Buffer counters_;
};

// The context's stream. Throws kInvalidArgument where it has none, or one of another device.
const CudaStream& StreamOf(const Context& context);

}  // namespace dualfp::cuda
