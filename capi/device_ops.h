// What the C interface does to tensors of a GPU beside products: cuda_ops.cc, or no_cuda_ops.cc in
// builds without CUDA, whose functions throw kUnsupported. Arguments have been checked for shape
// and dtype; `stream` is a cudaStream_t.

#pragma once

#include "capi/dualfp.h"
#include "dualfp/kernels/quantize.h"
#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight.h"

namespace dualfp::capi {

bool IsCapturing(int device, void* stream);

void QuantizeOnDevice(const ConstTensorView& x, ActivationQuant quant, const float* static_scale,
                      const TensorView& codes, const TensorView& scales, void* stream);

struct PlaneLists {
  TensorView index;
  TensorView value;
  dualfp_plane_counts* counts = nullptr;
};

void NestOnDevice(const ConstTensorView& weight, const TensorView& upper, const TensorView& lower,
                  const PlaneLists& lists, void* stream);
void Nest12OnDevice(const ConstTensorView& weight, const TensorView& upper,
                    const TensorView& nibbles, const TensorView& scales, const PlaneLists& lists,
                    void* stream);
int64_t NibbleBytesOnDevice(int64_t n, int64_t k);
// dualfp_nest12_batches().
int64_t PackBatches(int64_t n, int64_t k, const int64_t* index, const uint16_t* bf16, int64_t count,
                    int64_t* batches, int64_t capacity);
void MergeOnDevice(const Weight& weight, const TensorView& out, void* stream);
void PlanesToDevice(const TensorView& upper, const TensorView& lower, void* stream);

}  // namespace dualfp::capi
