#include "dualfp/kernels/cuda/upload.h"

#include <algorithm>
#include <bit>
#include <numeric>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/kernels/device.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cuda {
namespace {

constexpr int64_t kAlignment = 256;  // of planes and scales in an allocation

int64_t RoundUp(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

Buffer AllocateOn(int device, int64_t bytes) {
  return Allocate({DeviceType::kCuda, device}, bytes);
}

void CopyIn(void* to, const void* from, int64_t bytes, cudaStream_t stream) {
  CheckCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream), "cudaMemcpyAsync");
}

void Wait(cudaStream_t stream) { CheckCuda(cudaStreamSynchronize(stream), "upload"); }

// Sorted by index, as OutlierList wants it.
void SetOutliers(const std::vector<int64_t>& index, const std::vector<float>& value, int device,
                 cudaStream_t stream, DeviceWeight* weight) {
  weight->outliers.Reset();
  weight->weight.outliers = {};
  if (index.empty()) {
    return;
  }
  const auto count = static_cast<int64_t>(index.size());
  const int64_t value_offset = count * static_cast<int64_t>(sizeof(int64_t));
  weight->outliers = AllocateOn(device, value_offset + count * static_cast<int64_t>(sizeof(float)));
  weight->weight.outliers.index = weight->outliers.View(DType::kI64, {count});
  weight->weight.outliers.value = weight->outliers.View(DType::kF32, {count}, value_offset);
  CopyIn(weight->outliers.data(), index.data(), value_offset, stream);
  CopyIn(static_cast<char*>(weight->outliers.data()) + value_offset, value.data(),
         count * static_cast<int64_t>(sizeof(float)), stream);
  Wait(stream);
}

void CheckK(std::string_view name, int64_t k) {
  Check(k % 16 == 0, ErrorCode::kUnsupported, name, ": K = ", k,
        "; GPU planes need a multiple of 16");
}

// What SplitPlanes listed, in the order of its atomics.
struct Listed {
  Buffer memory;  // counts, I64 indices, F32 values
  int64_t capacity;

  Listed(int64_t capacity_in, int device, cudaStream_t stream)
      : memory(AllocateOn(device, kAlignment + capacity_in * static_cast<int64_t>(sizeof(int64_t) +
                                                                                  sizeof(float)))),
        capacity(capacity_in) {
    static_assert(sizeof(SplitCounts) <= kAlignment);
    CheckCuda(cudaMemsetAsync(memory.data(), 0, sizeof(SplitCounts), stream), "cudaMemsetAsync");
  }

  OutlierSink Sink() const {
    char* base = static_cast<char*>(memory.data());
    return {reinterpret_cast<SplitCounts*>(base), reinterpret_cast<int64_t*>(base + kAlignment),
            reinterpret_cast<float*>(base + kAlignment + capacity * sizeof(int64_t)), capacity};
  }

  // After the stream has finished.
  void Sorted(int64_t count, std::vector<int64_t>& index, std::vector<float>& value) const {
    const OutlierSink sink = Sink();
    std::vector<int64_t> raw_index(count);
    std::vector<float> raw_value(count);
    CheckCuda(
        cudaMemcpy(raw_index.data(), sink.index, count * sizeof(int64_t), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
    CheckCuda(
        cudaMemcpy(raw_value.data(), sink.value, count * sizeof(float), cudaMemcpyDeviceToHost),
        "cudaMemcpy");
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](int64_t a, int64_t b) { return raw_index[a] < raw_index[b]; });
    for (const int64_t i : order) {
      index.push_back(raw_index[i]);
      value.push_back(raw_value[i]);
    }
  }
};

// The row-major weight's batches of tiny weights, as `shift` I8 [N] moves its rows.
std::vector<TinyWeight> BatchesOf(const Weight& weight, const int8_t* shift) {
  const int64_t count = weight.outliers.size();
  const auto* index = weight.outliers.index.as<int64_t>();
  const auto* value = weight.outliers.value.as<float>();
  std::vector<uint16_t> lack;
  lack.reserve(count);
  for (int64_t i = 0; i < count; ++i) {
    lack.push_back(FloatToBf16(ScaleByPowerOfTwo(value[i], shift[index[i] / weight.k])));
  }
  return MakeTinyBatches(weight.n, weight.k, {index, static_cast<size_t>(count)}, lack);
}

// Of a row-major kNested12 weight.
DeviceWeight UploadNested12(const Weight& weight, int device, cudaStream_t stream) {
  const auto* shift = weight.scales.as<int8_t>();
  std::vector<float> row_scale;
  row_scale.reserve(weight.n);
  for (int64_t row = 0; row < weight.n; ++row) {
    Check(shift[row] >= -kNested12MaxShift, ErrorCode::kUnsupported, "upload: row ", row,
          " has weights beyond 1.75 * 2^127");
    row_scale.push_back(ScaleByPowerOfTwo(1.0f, -shift[row]));
  }
  const int64_t nibble_bytes = NibblePlaneBytes(weight.n, weight.k);
  const int64_t nibbles_offset = RoundUp(weight.n * weight.k);
  const int64_t scale_offset = nibbles_offset + RoundUp(nibble_bytes);
  DeviceWeight result;
  result.weight = weight;
  result.weight.layout = WeightLayout::kSm90;
  result.weight.outliers = {};
  const int64_t input_offset =
      scale_offset + RoundUp(weight.n * static_cast<int64_t>(sizeof(float)));
  result.storage =
      AllocateOn(device, input_offset + (weight.input_scale ? weight.input_scale.num_bytes() : 0));
  result.weight.values = result.storage.View(DType::kF8E4M3, {weight.n, weight.k});
  result.weight.lower = result.storage.View(DType::kU8, {nibble_bytes}, nibbles_offset);
  result.weight.scales = result.storage.View(DType::kF32, {weight.n}, scale_offset);
  char* base = static_cast<char*>(result.storage.data());
  if (weight.input_scale) {
    CopyIn(base + input_offset, weight.input_scale.data, weight.input_scale.num_bytes(), stream);
    result.weight.input_scale.data = base + input_offset;
    result.weight.input_scale.device = result.storage.device();
  }
  const Buffer row_major = AllocateOn(device, weight.lower.num_bytes());
  CopyIn(base, weight.values.data, weight.values.num_bytes(), stream);
  PermuteBytes(base, base, weight.values.num_bytes(), stream);
  CopyIn(row_major.data(), weight.lower.data, weight.lower.num_bytes(), stream);
  NibblesToDevice(row_major.data(), weight.n, weight.k, base + nibbles_offset, stream);
  CopyIn(base + scale_offset, row_scale.data(), row_scale.size() * sizeof(float), stream);
  const std::vector<TinyWeight> batches = BatchesOf(weight, shift);
  const auto batch_bytes = static_cast<int64_t>(batches.size() * sizeof(TinyWeight));
  result.outliers = AllocateOn(device, batch_bytes);
  result.weight.tiny = result.outliers.View(
      DType::kI64, {static_cast<int64_t>(batches.size()) / kTinyBatch, kTinyBatch});
  CopyIn(result.outliers.data(), batches.data(), batch_bytes, stream);
  Wait(stream);
  return result;
}

}  // namespace

DeviceWeight Upload(const Weight& weight, int device, cudaStream_t stream) {
  const bool plain = weight.format == QuantFormat::kPlain;
  const bool nested12 = weight.format == QuantFormat::kNested12;
  Check(plain || nested12 || weight.format == QuantFormat::kNested ||
            weight.format == QuantFormat::kFp8,
        ErrorCode::kUnsupported, "upload: no GPU kernel computes with ",
        GetQuantFormatInfo(weight.format).name, " weights");
  Check(weight.values.device.type == DeviceType::kCpu && weight.layout == WeightLayout::kRowMajor,
        ErrorCode::kInvalidArgument, "upload: expected a row-major weight on the CPU");
  if (!plain) {
    CheckK("upload", weight.k);
  }
  if (nested12) {
    return UploadNested12(weight, device, stream);
  }
  Check(weight.format != QuantFormat::kNested || weight.lower, ErrorCode::kInvalidArgument,
        "upload: the nested weight has no lower plane");
  DeviceWeight result;
  result.weight = weight;
  ConstTensorView* const views[] = {&result.weight.values, &result.weight.lower,
                                    &result.weight.scales, &result.weight.global_scale,
                                    &result.weight.input_scale};
  int64_t bytes = 0;
  for (const ConstTensorView* view : views) {
    bytes += *view ? RoundUp(view->num_bytes()) : 0;
  }
  result.storage = AllocateOn(device, bytes);
  char* next = static_cast<char*>(result.storage.data());
  for (ConstTensorView* view : views) {
    if (*view) {
      CopyIn(next, view->data, view->num_bytes(), stream);
      view->data = next;
      view->device = result.storage.device();
      next += RoundUp(view->num_bytes());
    }
  }
  auto* values = static_cast<uint8_t*>(const_cast<void*>(result.weight.values.data));
  if (weight.format == QuantFormat::kNested) {
    PlanesToDevice(values, const_cast<void*>(result.weight.lower.data), weight.n, weight.k, stream);
  } else if (!plain) {
    PermuteBytes(values, values, weight.values.num_bytes(), stream);
  }
  result.weight.layout = plain ? WeightLayout::kRowMajor : WeightLayout::kSm90;
  const int64_t outliers = weight.outliers.size();
  if (outliers > 0) {
    const auto* index = weight.outliers.index.as<int64_t>();
    const auto* value = weight.outliers.value.as<float>();
    SetOutliers({index, index + outliers}, {value, value + outliers}, device, stream, &result);
  }
  Wait(stream);
  return result;
}

NestReport PlaneUploader::Nest(std::string_view name, const ConstTensorView& source,
                               int64_t max_outliers, cudaStream_t stream, DeviceWeight* weight) {
  Check(source.rank == 2, ErrorCode::kInvalidArgument, name, " is ", Describe(source),
        ", expected F16 or BF16 [N, K]");
  const int64_t n = source.shape[0];
  const int64_t k = source.shape[1];
  *weight = {};
  const int64_t plane = RoundUp(n * k);
  weight->storage = AllocateOn(device_, 2 * plane);
  weight->weight.format = QuantFormat::kNested;
  weight->weight.n = n;
  weight->weight.k = k;
  weight->weight.shard = {0, n, 0, k};
  weight->weight.layout = WeightLayout::kSm90;
  weight->weight.values = weight->storage.View(DType::kF8E4M3, {n, k});
  weight->weight.lower = weight->storage.View(DType::kU8, {n, k}, plane);
  return Refill(name, source, max_outliers, stream, weight);
}

NestReport PlaneUploader::Refill(std::string_view name, const ConstTensorView& source,
                                 int64_t max_outliers, cudaStream_t stream, DeviceWeight* weight) {
  Check(source.rank == 2 && (source.dtype == DType::kF16 || source.dtype == DType::kBF16) &&
            source.is_contiguous() && source.device.type == DeviceType::kCpu,
        ErrorCode::kInvalidArgument, name, " is ", Describe(source),
        ", expected contiguous F16 or BF16 [N, K] on the CPU");
  const int64_t n = source.shape[0];
  const int64_t k = source.shape[1];
  CheckK(name, k);
  Check(weight->weight.format == QuantFormat::kNested &&
            weight->weight.layout == WeightLayout::kSm90 && weight->weight.n == n &&
            weight->weight.k == k,
        ErrorCode::kInvalidArgument, name, " is ", Describe(source), ", the weight to fill ",
        weight->weight.n, " x ", weight->weight.k);
  const int64_t row_bytes = 2 * k;
  const int64_t rows = std::min(n, std::max<int64_t>(1, piece_bytes_ / row_bytes));
  if (staging_.size() < static_cast<size_t>(rows * row_bytes)) {
    staging_.Reset();
    staging_ = AllocateOn(device_, rows * row_bytes);
  }
  const Listed listed(std::max<int64_t>(0, max_outliers), device_, stream);
  auto* upper = static_cast<uint8_t*>(const_cast<void*>(weight->weight.values.data));
  auto* lower = static_cast<uint8_t*>(const_cast<void*>(weight->weight.lower.data));
  for (int64_t row = 0; row < n; row += rows) {
    const int64_t count = std::min(rows, n - row);
    CopyIn(staging_.data(), static_cast<const char*>(source.data) + row * row_bytes,
           count * row_bytes, stream);
    SplitPlanes(staging_.data(), count, k, upper + row * k, lower + row * k, listed.Sink(), stream,
                source.dtype == DType::kF16 ? PlaneSource::kF16 : PlaneSource::kBf16, row * k);
  }
  Wait(stream);
  SplitCounts counts;
  CheckCuda(cudaMemcpy(&counts, listed.Sink().counts, sizeof(counts), cudaMemcpyDeviceToHost),
            "cudaMemcpy");
  Check(counts.non_finite == 0, ErrorCode::kInvalidFile, name, ": element ", ~counts.not_before,
        " is not finite (", counts.non_finite, " are not)");
  NestReport report;
  report.elements = n * k;
  report.outliers = static_cast<int64_t>(counts.outliers);
  report.rounded = static_cast<int64_t>(counts.rounded);
  report.largest_relative_error = std::bit_cast<float>(counts.largest_error);
  if (report.outliers > max_outliers) {
    *weight = {};
    return report;
  }
  std::vector<int64_t> index;
  std::vector<float> value;
  listed.Sorted(report.outliers, index, value);
  SetOutliers(index, value, device_, stream, weight);
  return report;
}

}  // namespace dualfp::cuda
