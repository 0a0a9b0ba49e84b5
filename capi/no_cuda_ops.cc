// Stands in for cuda_ops.cc in builds without nvcc.

#include "capi/device_ops.h"
#include "dualfp/base/check.h"

namespace dualfp::capi {
namespace {

[[noreturn]] void NoCuda() {
  Fail(ErrorCode::kUnsupported, "a tensor of a GPU, and this build has no CUDA kernels");
}

}  // namespace

bool IsCapturing(int, void*) { NoCuda(); }

void QuantizeOnDevice(const ConstTensorView&, ActivationQuant, const float*, const TensorView&,
                      const TensorView&, void*) {
  NoCuda();
}

void NestOnDevice(const ConstTensorView&, const TensorView&, const TensorView&, const PlaneLists&,
                  void*) {
  NoCuda();
}

void Nest12OnDevice(const ConstTensorView&, const TensorView&, const TensorView&, const TensorView&,
                    const PlaneLists&, void*) {
  NoCuda();
}

int64_t NibbleBytesOnDevice(int64_t, int64_t) { return 0; }

int64_t PackBatches(int64_t, int64_t, const int64_t*, const uint16_t*, int64_t, int64_t*, int64_t) {
  NoCuda();
}

void MergeOnDevice(const Weight&, const TensorView&, void*) { NoCuda(); }

void PlanesToDevice(const TensorView&, const TensorView&, void*) { NoCuda(); }

}  // namespace dualfp::capi
