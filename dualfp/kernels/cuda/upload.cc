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

// What SplitPlanes or SplitNested12 listed, in the order of its atomics.
template <class Sink, class Counts, class Value>
struct Listed {
  Buffer memory;  // counts, I64 indices, values
  int64_t capacity;

  Listed(int64_t capacity_in, int device, cudaStream_t stream)
      : memory(AllocateOn(device, kAlignment + capacity_in * static_cast<int64_t>(sizeof(int64_t) +
                                                                                  sizeof(Value)))),
        capacity(capacity_in) {
    static_assert(sizeof(Counts) <= kAlignment);
    CheckCuda(cudaMemsetAsync(memory.data(), 0, sizeof(Counts), stream), "cudaMemsetAsync");
  }

  Sink Lists() const {
    char* base = static_cast<char*>(memory.data());
    return {reinterpret_cast<Counts*>(base), reinterpret_cast<int64_t*>(base + kAlignment),
            reinterpret_cast<Value*>(base + kAlignment + capacity * sizeof(int64_t)), capacity};
  }

  // After the stream has finished, as the two that follow. Throws where weights are not finite.
  Counts Counted(std::string_view name) const {
    Counts counts;
    CheckCuda(cudaMemcpy(&counts, memory.data(), sizeof(counts), cudaMemcpyDeviceToHost),
              "cudaMemcpy");
    Check(counts.non_finite == 0, ErrorCode::kInvalidFile, name, ": element ", ~counts.not_before,
          " is not finite (", counts.non_finite, " are not)");
    return counts;
  }

  void Sorted(int64_t count, std::vector<int64_t>& index, std::vector<Value>& value) const {
    const char* lists = static_cast<const char*>(memory.data()) + kAlignment;
    std::vector<int64_t> raw_index(count);
    std::vector<Value> raw_value(count);
    CheckCuda(cudaMemcpy(raw_index.data(), lists, count * sizeof(int64_t), cudaMemcpyDeviceToHost),
              "cudaMemcpy");
    CheckCuda(cudaMemcpy(raw_value.data(), lists + capacity * sizeof(int64_t),
                         count * sizeof(Value), cudaMemcpyDeviceToHost),
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
using ListedOutliers = Listed<OutlierSink, SplitCounts, float>;
using ListedTiny = Listed<TinySink, Nested12Counts, uint16_t>;

void SetBatches(const std::vector<TinyWeight>& batches, int device, cudaStream_t stream,
                DeviceWeight* weight) {
  const auto bytes = static_cast<int64_t>(batches.size() * sizeof(TinyWeight));
  weight->outliers.Reset();
  weight->outliers = AllocateOn(device, bytes);
  weight->weight.tiny = weight->outliers.View(
      DType::kI64, {static_cast<int64_t>(batches.size()) / kTinyBatch, kTinyBatch});
  CopyIn(weight->outliers.data(), batches.data(), bytes, stream);
  Wait(stream);
}

// Memory for planes and row scales of a kNested12 weight, and `more_bytes` behind them, at *more.
void AllocateNested12(int64_t n, int64_t k, int64_t more_bytes, int device, DeviceWeight* weight,
                      char** more) {
  const int64_t nibble_bytes = NibblePlaneBytes(n, k);
  const int64_t nibbles_offset = RoundUp(n * k);
  const int64_t scale_offset = nibbles_offset + RoundUp(nibble_bytes);
  const int64_t more_offset = scale_offset + RoundUp(n * static_cast<int64_t>(sizeof(float)));
  weight->storage = AllocateOn(device, more_offset + more_bytes);
  weight->weight.values = weight->storage.View(DType::kF8E4M3, {n, k});
  weight->weight.lower = weight->storage.View(DType::kU8, {nibble_bytes}, nibbles_offset);
  weight->weight.scales = weight->storage.View(DType::kF32, {n}, scale_offset);
  *more = static_cast<char*>(weight->storage.data()) + more_offset;
}

template <class T>
T* Mutable(const ConstTensorView& view) {
  return static_cast<T*>(const_cast<void*>(view.data));
}

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
  DeviceWeight result;
  result.weight = weight;
  result.weight.layout = WeightLayout::kSm90;
  result.weight.outliers = {};
  char* input_scale = nullptr;
  AllocateNested12(weight.n, weight.k, weight.input_scale ? weight.input_scale.num_bytes() : 0,
                   device, &result, &input_scale);
  if (weight.input_scale) {
    CopyIn(input_scale, weight.input_scale.data, weight.input_scale.num_bytes(), stream);
    result.weight.input_scale.data = input_scale;
    result.weight.input_scale.device = result.storage.device();
  }
  auto* upper = Mutable<char>(result.weight.values);
  const Buffer row_major = AllocateOn(device, weight.lower.num_bytes());
  CopyIn(upper, weight.values.data, weight.values.num_bytes(), stream);
  PermuteBytes(upper, upper, weight.values.num_bytes(), stream);
  CopyIn(row_major.data(), weight.lower.data, weight.lower.num_bytes(), stream);
  NibblesToDevice(row_major.data(), weight.n, weight.k, Mutable<char>(result.weight.lower), stream);
  CopyIn(Mutable<char>(result.weight.scales), row_scale.data(), row_scale.size() * sizeof(float),
         stream);
  SetBatches(BatchesOf(weight, shift), device, stream, &result);
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
                               int64_t max_outliers, cudaStream_t stream, DeviceWeight* weight,
                               QuantFormat format) {
  Check(source.rank == 2, ErrorCode::kInvalidArgument, name, " is ", Describe(source),
        ", expected F16 or BF16 [N, K]");
  const int64_t n = source.shape[0];
  const int64_t k = source.shape[1];
  *weight = {};
  weight->weight.format = format;
  weight->weight.n = n;
  weight->weight.k = k;
  weight->weight.shard = {0, n, 0, k};
  weight->weight.layout = WeightLayout::kSm90;
  if (format == QuantFormat::kNested12) {
    char* end = nullptr;
    AllocateNested12(n, k, 0, device_, weight, &end);
  } else {
    const int64_t plane = RoundUp(n * k);
    weight->storage = AllocateOn(device_, 2 * plane);
    weight->weight.values = weight->storage.View(DType::kF8E4M3, {n, k});
    weight->weight.lower = weight->storage.View(DType::kU8, {n, k}, plane);
  }
  return Refill(name, source, max_outliers, stream, weight);
}

NestReport PlaneUploader::Refill(std::string_view name, const ConstTensorView& source,
                                 int64_t max_outliers, cudaStream_t stream, DeviceWeight* weight) {
  const bool nested12 = weight->weight.format == QuantFormat::kNested12;
  Check(source.rank == 2 &&
            ((source.dtype == DType::kF16 && !nested12) || source.dtype == DType::kBF16) &&
            source.is_contiguous() && source.device.type == DeviceType::kCpu,
        ErrorCode::kInvalidArgument, name, " is ", Describe(source), ", expected contiguous ",
        nested12 ? "BF16" : "F16 or BF16", " [N, K] on the CPU");
  const int64_t n = source.shape[0];
  const int64_t k = source.shape[1];
  CheckK(name, k);
  Check((nested12 || weight->weight.format == QuantFormat::kNested) &&
            weight->weight.layout == WeightLayout::kSm90 && weight->weight.n == n &&
            weight->weight.k == k,
        ErrorCode::kInvalidArgument, name, " is ", Describe(source), ", the weight to fill ",
        weight->weight.n, " x ", weight->weight.k);
  max_outliers = std::max<int64_t>(0, max_outliers);
  NestReport report;
  report.elements = n * k;
  auto* upper = Mutable<uint8_t>(weight->weight.values);
  auto* lower = Mutable<uint8_t>(weight->weight.lower);
  std::vector<int64_t> index;
  if (nested12) {
    const ListedTiny listed(max_outliers, device_, stream);
    auto* row_scale = Mutable<float>(weight->weight.scales);
    ForEachPiece(source, 16, stream, [&](const void* piece, int64_t row, int64_t rows) {
      SplitNested12(piece, rows, k, upper + row * k, lower, row_scale + row, listed.Lists(), stream,
                    row, n);
    });
    report.outliers = static_cast<int64_t>(listed.Counted(name).tiny);
    if (report.outliers <= max_outliers) {
      std::vector<uint16_t> lack;
      listed.Sorted(report.outliers, index, lack);
      SetBatches(MakeTinyBatches(n, k, index, lack), device_, stream, weight);
    }
  } else {
    const ListedOutliers listed(max_outliers, device_, stream);
    const PlaneSource type = source.dtype == DType::kF16 ? PlaneSource::kF16 : PlaneSource::kBf16;
    ForEachPiece(source, 1, stream, [&](const void* piece, int64_t row, int64_t rows) {
      SplitPlanes(piece, rows, k, upper + row * k, lower + row * k, listed.Lists(), stream, type,
                  row * k);
    });
    const SplitCounts counts = listed.Counted(name);
    report.outliers = static_cast<int64_t>(counts.outliers);
    report.rounded = static_cast<int64_t>(counts.rounded);
    report.largest_relative_error = std::bit_cast<float>(counts.largest_error);
    if (report.outliers <= max_outliers) {
      std::vector<float> value;
      listed.Sorted(report.outliers, index, value);
      SetOutliers(index, value, device_, stream, weight);
    }
  }
  if (report.outliers > max_outliers) {
    *weight = {};
  }
  return report;
}

template <class Split>
void PlaneUploader::ForEachPiece(const ConstTensorView& source, int64_t unit, cudaStream_t stream,
                                 const Split& split) {
  const int64_t n = source.shape[0];
  const int64_t row_bytes = 2 * source.shape[1];
  const int64_t fit = piece_bytes_ / std::max<int64_t>(1, row_bytes) / unit * unit;
  const int64_t rows = std::min(n, std::max(unit, fit));
  if (staging_.size() < static_cast<size_t>(rows * row_bytes)) {
    staging_.Reset();
    staging_ = AllocateOn(device_, rows * row_bytes);
  }
  for (int64_t row = 0; row < n; row += rows) {
    const int64_t count = std::min(rows, n - row);
    CopyIn(staging_.data(), static_cast<const char*>(source.data) + row * row_bytes,
           count * row_bytes, stream);
    split(staging_.data(), row, count);
  }
  Wait(stream);
}

}  // namespace dualfp::cuda
