#include <cuda_runtime_api.h>

#include <cstring>
#include <vector>

#include "capi/device_ops.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/scoped_device.h"
#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/kernels/cuda/quantize.h"

namespace dualfp::capi {
namespace {

static_assert(sizeof(dualfp_plane_counts) == sizeof(cuda::SplitCounts) &&
              offsetof(dualfp_plane_counts, rounded) == offsetof(cuda::SplitCounts, rounded) &&
              offsetof(dualfp_plane_counts, largest_error) ==
                  offsetof(cuda::SplitCounts, largest_error));
static_assert(sizeof(cuda::Nested12Counts) <= sizeof(dualfp_plane_counts) &&
              offsetof(cuda::Nested12Counts, not_before) ==
                  offsetof(dualfp_plane_counts, not_before));
static_assert(sizeof(cuda::TinyWeight) == sizeof(int64_t));

cudaStream_t Stream(void* stream) { return static_cast<cudaStream_t>(stream); }

void CheckAligned(const ConstTensorView& view, const char* name) {
  Check(reinterpret_cast<uintptr_t>(view.data) % 16 == 0, ErrorCode::kInvalidArgument, name,
        " must be aligned to 16 bytes on a GPU");
}

void CheckK(int64_t k) {
  Check(k % 16 == 0, ErrorCode::kUnsupported, "K = ", k, "; a GPU's planes need a multiple of 16");
}

int64_t Room(const TensorView& list) { return list ? list.shape[0] : 0; }

}  // namespace

bool IsCapturing(int device, void* stream) {
  const cuda::ScopedDevice scope(device);
  cudaStreamCaptureStatus status = cudaStreamCaptureStatusNone;
  cuda::CheckCuda(cudaStreamIsCapturing(Stream(stream), &status), "cudaStreamIsCapturing");
  return status != cudaStreamCaptureStatusNone;
}

void QuantizeOnDevice(const ConstTensorView& x, ActivationQuant quant, const float* static_scale,
                      const TensorView& codes, const TensorView& scales, void* stream) {
  Check(x.dtype != DType::kF32, ErrorCode::kUnsupported,
        "quantize: x is F32; on a GPU it is F16 or BF16");
  CheckK(x.shape[1]);
  Check(codes.is_contiguous(), ErrorCode::kInvalidArgument,
        "quantize: a GPU's codes must be contiguous");
  CheckAligned(x, "x");
  CheckAligned(codes, "codes");
  if (x.shape[0] == 0) {
    return;
  }
  const cuda::ScopedDevice scope(x.device.index);
  const auto type = x.dtype == DType::kF16 ? cuda::QuantizeType::kF16 : cuda::QuantizeType::kBf16;
  const int64_t stride = x.shape[0] <= 1 ? x.shape[1] : x.strides[0];
  if (quant == ActivationQuant::kDynamicPerTensor) {
    cuda::QuantizePerTensor(x.data, stride, type, x.shape[0], x.shape[1], codes.data,
                            scales.as<float>(), Stream(stream));
    return;
  }
  cuda::QuantizeArgs args;
  args.type = type;
  args.m = x.shape[0];
  args.k = x.shape[1];
  args.x = x.data;
  args.x_stride = stride;
  args.static_scale = static_scale;
  args.q = codes.data;
  args.scale = scales.as<float>();
  cuda::Quantize(args, Stream(stream), true);
}

void NestOnDevice(const ConstTensorView& weight, const TensorView& upper, const TensorView& lower,
                  const PlaneLists& lists, void* stream) {
  Check(weight.dtype != DType::kF32, ErrorCode::kUnsupported,
        "nest: the weight is F32; on a GPU it is F16 or BF16");
  CheckK(weight.shape[1]);
  CheckAligned(weight, "weight");
  CheckAligned(upper, "upper");
  CheckAligned(lower, "lower");
  const cuda::ScopedDevice scope(weight.device.index);
  const cuda::OutlierSink sink{reinterpret_cast<cuda::SplitCounts*>(lists.counts),
                               lists.index.as<int64_t>(), lists.value.as<float>(),
                               Room(lists.index)};
  cuda::SplitPlanes(
      weight.data, weight.shape[0], weight.shape[1], upper.data, lower.data, sink, Stream(stream),
      weight.dtype == DType::kF16 ? cuda::PlaneSource::kF16 : cuda::PlaneSource::kBf16);
}

void Nest12OnDevice(const ConstTensorView& weight, const TensorView& upper,
                    const TensorView& nibbles, const TensorView& scales, const PlaneLists& lists,
                    void* stream) {
  Check(weight.dtype == DType::kBF16, ErrorCode::kUnsupported,
        "nest12: on a GPU the weight is BF16");
  CheckK(weight.shape[1]);
  CheckAligned(weight, "weight");
  CheckAligned(upper, "upper");
  CheckAligned(nibbles, "nibbles");
  Check(scales.dtype == DType::kF32 && scales.num_elements() == weight.shape[0],
        ErrorCode::kInvalidArgument, "nest12: a GPU's scales are F32 [n]");
  const cuda::ScopedDevice scope(weight.device.index);
  const cuda::TinySink sink{reinterpret_cast<cuda::Nested12Counts*>(lists.counts),
                            lists.index.as<int64_t>(), lists.value.as<uint16_t>(),
                            Room(lists.index)};
  cuda::SplitNested12(weight.data, weight.shape[0], weight.shape[1], upper.data, nibbles.data,
                      scales.as<float>(), sink, Stream(stream));
}

int64_t NibbleBytesOnDevice(int64_t n, int64_t k) { return cuda::NibblePlaneBytes(n, k); }

int64_t PackBatches(int64_t n, int64_t k, const int64_t* index, const uint16_t* bf16, int64_t count,
                    int64_t* batches, int64_t capacity) {
  const auto size = static_cast<size_t>(count);
  const std::vector<cuda::TinyWeight> made =
      cuda::MakeTinyBatches(n, k, {index, size}, {bf16, size});
  const auto rows = static_cast<int64_t>(made.size()) / cuda::kTinyBatch;
  if (rows <= capacity) {
    std::memcpy(batches, made.data(), made.size() * sizeof(cuda::TinyWeight));
  }
  return rows;
}

void MergeOnDevice(const Weight& weight, const TensorView& out, void* stream) {
  CheckK(weight.k);
  CheckAligned(out, "out");
  const cuda::ScopedDevice scope(out.device.index);
  if (weight.format == QuantFormat::kNested) {  // NOLINT(bugprone-branch-clone): the tool is wrong
    cuda::MergePlanes(weight.values.data, weight.lower.data, weight.n, weight.k, out.data,
                      Stream(stream));
  } else {
    cuda::MergeNested12(weight.values.data, weight.lower.data, weight.scales.as<float>(),
                        static_cast<const cuda::TinyWeight*>(weight.tiny.data), weight.n, weight.k,
                        out.data, Stream(stream));
  }
}

void PlanesToDevice(const TensorView& upper, const TensorView& lower, void* stream) {
  CheckK(upper.shape[1]);
  CheckAligned(upper, "upper");
  const cuda::ScopedDevice scope(upper.device.index);
  if (lower) {
    CheckAligned(lower, "lower");
    cuda::PlanesToDevice(upper.data, lower.data, upper.shape[0], upper.shape[1], Stream(stream));
  } else {
    cuda::PermuteBytes(upper.data, upper.data, upper.num_bytes(), Stream(stream));
  }
}

}  // namespace dualfp::capi
