#include <algorithm>
#include <cstring>

#include "capi/device_ops.h"
#include "capi/guard.h"
#include "capi/host_threads.h"
#include "capi/views.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/nest.h"
#include "dualfp/kernels/nest12.h"

namespace dualfp::capi {
namespace {

ConstTensorView SourceView(const dualfp_tensor* weight) {
  const ConstTensorView view = ToView(weight, "weight");
  Check(view.rank == 2 && view.is_contiguous() &&
            (view.dtype == DType::kF16 || view.dtype == DType::kBF16 || view.dtype == DType::kF32),
        ErrorCode::kInvalidArgument, "weight is ", Describe(view),
        ", expected contiguous F16, BF16 or F32 [n, k]");
  return view;
}

void CheckPlane(const ConstTensorView& plane, DType dtype, int64_t elements, const char* name,
                const ConstTensorView& beside) {
  Check(plane.dtype == dtype && plane.num_elements() == elements && plane.is_contiguous() &&
            plane.device == beside.device,
        ErrorCode::kInvalidArgument, name, " is ", Describe(plane), ", expected contiguous ",
        DTypeName(dtype), " with ", elements, " elements beside the weight");
}

PlaneLists Lists(const dualfp_tensor* index, const dualfp_tensor* value, DType value_dtype,
                 dualfp_plane_counts* counts, const ConstTensorView& weight) {
  Check(counts != nullptr, ErrorCode::kInvalidArgument, "counts is missing");
  PlaneLists lists;
  lists.counts = counts;
  lists.index = index == nullptr ? TensorView{} : ToView(*index, "outlier_index");
  lists.value = value == nullptr ? TensorView{} : ToView(*value, "outlier_value");
  if (lists.index) {
    CheckPlane(lists.index, DType::kI64, lists.index.shape[0], "outlier_index", weight);
    Check(static_cast<bool>(lists.value), ErrorCode::kInvalidArgument, "outlier_value is missing");
    CheckPlane(lists.value, value_dtype, lists.index.shape[0], "outlier_value", weight);
  }
  return lists;
}

// The CPU's lists and counts, as the caller's.
void Deliver(const OutlierBuffers& outliers, const NestReport& report, const PlaneLists& lists) {
  const auto found = static_cast<int64_t>(outliers.index.size());
  const int64_t room = lists.index ? lists.index.shape[0] : 0;
  if (report.outliers <= room) {
    std::copy_n(outliers.index.data(), found, lists.index.as<int64_t>());
    std::copy_n(outliers.value.data(), found, lists.value.as<float>());
  }
  lists.counts->outliers += static_cast<uint64_t>(report.outliers);
  lists.counts->rounded += static_cast<uint64_t>(report.rounded);
  lists.counts->largest_error =
      std::max(lists.counts->largest_error, static_cast<float>(report.largest_relative_error));
}

void NestAny(const dualfp_tensor* weight, const dualfp_tensor* upper_in,
             const dualfp_tensor* lower_in, const dualfp_tensor* index, const dualfp_tensor* value,
             dualfp_plane_counts* counts, void* stream) {
  const ConstTensorView source = SourceView(weight);
  const TensorView upper = ToView(upper_in, "upper");
  const TensorView lower = ToView(lower_in, "lower");
  CheckPlane(upper, DType::kF8E4M3, source.num_elements(), "upper", source);
  CheckPlane(lower, DType::kU8, source.num_elements(), "lower", source);
  const PlaneLists lists = Lists(index, value, DType::kF32, counts, source);
  if (source.device.type == DeviceType::kCuda) {
    NestOnDevice(source, upper, lower, lists, stream);
    return;
  }
  const HostThreads threads;
  OutlierBuffers outliers;
  const int64_t room = lists.index ? lists.index.shape[0] : 0;
  const NestReport report = Nest(threads.pool(), "weight", source, upper, lower, room, &outliers);
  Deliver(outliers, report, lists);
}

void Nest12Any(const dualfp_tensor* weight, const dualfp_tensor* upper_in,
               const dualfp_tensor* nibbles_in, const dualfp_tensor* scales_in,
               const dualfp_tensor* index, const dualfp_tensor* value, dualfp_plane_counts* counts,
               void* stream) {
  const ConstTensorView source = SourceView(weight);
  const TensorView upper = ToView(upper_in, "upper");
  const TensorView nibbles = ToView(nibbles_in, "nibbles");
  const TensorView scales = ToView(scales_in, "scales");
  const bool gpu = source.device.type == DeviceType::kCuda;
  const int64_t n = source.shape[0];
  const int64_t k = source.shape[1];
  CheckPlane(upper, DType::kF8E4M3, n * k, "upper", source);
  CheckPlane(nibbles, DType::kU8, gpu ? NibbleBytesOnDevice(n, k) : n * NibbleBytes(k), "nibbles",
             source);
  CheckPlane(scales, gpu ? DType::kF32 : DType::kI8, n, "scales", source);
  const PlaneLists lists = Lists(index, value, gpu ? DType::kU16 : DType::kF32, counts, source);
  if (gpu) {
    Nest12OnDevice(source, upper, nibbles, scales, lists, stream);
    return;
  }
  const HostThreads threads;
  OutlierBuffers remainders;
  const int64_t room = lists.index ? lists.index.shape[0] : 0;
  const NestReport report =
      Nest12(threads.pool(), "weight", source,
             {TensorView(upper.data, DType::kF8E4M3, {n, k}),
              TensorView(nibbles.data, DType::kU8, {n, NibbleBytes(k)}), scales},
             room, &remainders);
  Deliver(remainders, report, lists);
}

void MergeAny(const dualfp_weight* weight_in, const dualfp_tensor* out_in, void* stream) {
  Check(weight_in != nullptr, ErrorCode::kInvalidArgument, "weight is missing");
  const Weight weight = ToWeight(*weight_in);
  const bool nested12 = weight.format == QuantFormat::kNested12;
  Check(nested12 || weight.format == QuantFormat::kNested, ErrorCode::kInvalidArgument, "merge: a ",
        GetQuantFormatInfo(weight.format).name, " weight has no planes to merge");
  const TensorView out = ToView(out_in, "out");
  CheckPlane(weight.values, DType::kF8E4M3, weight.n * weight.k, "weight.values", weight.values);
  CheckPlane(out, nested12 ? DType::kBF16 : DType::kF16, weight.n * weight.k, "out", weight.values);
  const bool gpu = out.device.type == DeviceType::kCuda;
  const int64_t lower = !nested12 ? weight.n * weight.k
                        : gpu     ? NibbleBytesOnDevice(weight.n, weight.k)
                                  : weight.n * NibbleBytes(weight.k);
  CheckPlane(weight.lower, DType::kU8, lower, "weight.lower", weight.values);
  if (nested12) {
    CheckPlane(weight.scales, gpu ? DType::kF32 : DType::kI8, weight.n, "weight.scales",
               weight.values);
  }
  if (gpu) {
    MergeOnDevice(weight, out, stream);
    return;
  }
  const HostThreads threads;
  const TensorView matrix(out.data, out.dtype, {weight.n, weight.k});
  if (nested12) {
    const ConstNested12Planes planes{weight.values, weight.lower, weight.scales};
    CheckNested12(threads.pool(), "weight", planes, weight.outliers);
    Unnest12(threads.pool(), planes, weight.outliers, matrix);
  } else {
    CheckNested(threads.pool(), "weight", weight.values, weight.lower, weight.outliers);
    Unnest(threads.pool(), weight.values, weight.lower, weight.outliers, matrix);
  }
}

}  // namespace
}  // namespace dualfp::capi

using dualfp::capi::Guarded;

dualfp_status dualfp_nest(const dualfp_tensor* weight, const dualfp_tensor* upper,
                          const dualfp_tensor* lower, const dualfp_tensor* outlier_index,
                          const dualfp_tensor* outlier_value, dualfp_plane_counts* counts,
                          void* stream) {
  return Guarded([&] {
    dualfp::capi::NestAny(weight, upper, lower, outlier_index, outlier_value, counts, stream);
  });
}

dualfp_status dualfp_nest12(const dualfp_tensor* weight, const dualfp_tensor* upper,
                            const dualfp_tensor* nibbles, const dualfp_tensor* scales,
                            const dualfp_tensor* outlier_index, const dualfp_tensor* outlier_value,
                            dualfp_plane_counts* counts, void* stream) {
  return Guarded([&] {
    dualfp::capi::Nest12Any(weight, upper, nibbles, scales, outlier_index, outlier_value, counts,
                            stream);
  });
}

int64_t dualfp_nibble_bytes(int32_t device, int64_t n, int64_t k) {
  return device == DUALFP_CPU ? n * dualfp::NibbleBytes(k)
                              : dualfp::capi::NibbleBytesOnDevice(n, k);
}

dualfp_status dualfp_nest12_batches(int64_t n, int64_t k, const int64_t* index,
                                    const uint16_t* bf16, int64_t count, int64_t* batches,
                                    int64_t capacity, int64_t* rows) {
  return Guarded(
      [&] { *rows = dualfp::capi::PackBatches(n, k, index, bf16, count, batches, capacity); });
}

dualfp_status dualfp_merge(const dualfp_weight* weight, const dualfp_tensor* out, void* stream) {
  return Guarded([&] { dualfp::capi::MergeAny(weight, out, stream); });
}

dualfp_status dualfp_planes_to_device(const dualfp_tensor* upper, const dualfp_tensor* lower,
                                      void* stream) {
  return Guarded([&] {
    const dualfp::TensorView codes = dualfp::capi::ToView(upper, "upper");
    dualfp::Check(
        codes.rank == 2 && codes.is_contiguous() && codes.device.type == dualfp::DeviceType::kCuda,
        dualfp::ErrorCode::kInvalidArgument,
        "planes_to_device: upper must be contiguous [n, k] on a GPU");
    const dualfp::TensorView bytes =
        lower == nullptr ? dualfp::TensorView{} : dualfp::capi::ToView(*lower, "lower");
    dualfp::capi::PlanesToDevice(codes, bytes, stream);
  });
}
