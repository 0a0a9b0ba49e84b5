// Where and with what an op runs. Every op takes a Context first.
//
// Hidden states are of an activation dtype: any that the device's backend lists (Backend::
// activations), the same in all arguments that are said to have it. Ops compute in F32 and round
// once, to what they store.

#pragma once

#include "dualfp/base/thread_pool.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

class Stream;  // kernels/device.h

// On the CPU an op has finished when it returns. On CUDA it has been enqueued on `stream`: no op
// allocates, synchronises or reads device memory on the host, and what it launches does not depend
// on whether the stream is being captured, so that a whole step can be captured as a graph.
struct Context {
  Device device;
  ThreadPool* threads = nullptr;  // CPU: required
  Stream* stream = nullptr;       // CUDA: required, of `device`; the CPU does without

  // Scratch that an op may overwrite, on `device`, aligned to 256 bytes. Ops that need some say
  // how much (e.g. GemmWorkspaceBytes); the caller sizes it before the step.
  TensorView workspace;
};

}  // namespace dualfp
