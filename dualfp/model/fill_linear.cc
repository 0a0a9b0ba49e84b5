#include "dualfp/model/fill_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/quantize.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {
namespace {

// What a thread takes at a time.
constexpr int64_t kChunkBytes = int64_t{1} << 18;

float LoadFloat(const void* row, DType dtype, int64_t i) {
  switch (dtype) {
    case DType::kF16:
      return Fp16ToFloat(static_cast<const uint16_t*>(row)[i]);
    case DType::kBF16:
      return Bf16ToFloat(static_cast<const uint16_t*>(row)[i]);
    default:
      return static_cast<const float*>(row)[i];
  }
}

// One branch-free pass that the compiler vectorises; the place is searched only where there is one.
int64_t FindNonFinite(const void* row, DType dtype, int64_t count) {
  bool finite = true;
  if (dtype == DType::kF32) {
    const auto* codes = static_cast<const uint32_t*>(row);
    uint32_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
      largest = std::max(largest, codes[i] & 0x7fffffffu);
    }
    finite = largest < 0x7f800000u;
  } else {
    const auto* codes = static_cast<const uint16_t*>(row);
    const uint16_t infinity = dtype == DType::kF16 ? 0x7c00 : 0x7f80;
    uint16_t largest = 0;
    for (int64_t i = 0; i < count; ++i) {
      largest = std::max<uint16_t>(largest, codes[i] & 0x7fff);
    }
    finite = largest < infinity;
  }
  for (int64_t i = 0; !finite && i < count; ++i) {
    if (!std::isfinite(LoadFloat(row, dtype, i))) {
      return i;
    }
  }
  return -1;
}

}  // namespace

void AllocateLinear(Linear& linear, QuantFormat format, DType dtype) {
  Weight& weight = linear.weight;
  const int64_t elements = weight.n * weight.k;
  weight.format = format;
  weight.lower = {};
  weight.outliers = {};
  linear.outliers = {};
  linear.storage.Reset();
  if (format == QuantFormat::kNested) {
    linear.storage = Buffer::AllocateCpu(2 * elements);
    weight.values = linear.storage.View(DType::kF8E4M3, {weight.n, weight.k});
    weight.lower = linear.storage.View(DType::kU8, {weight.n, weight.k}, elements);
  } else {
    linear.storage = Buffer::AllocateCpu(DTypeSize(dtype) * elements);
    weight.values = linear.storage.View(dtype, {weight.n, weight.k});
  }
}

NestReport FillPart(Linear& linear, const LinearPart& part, const TensorRows& rows,
                    int64_t max_outliers, ErrorCode code, ThreadPool& threads) {
  const Weight& weight = linear.weight;
  const DType dtype = rows.dtype();
  const bool nested = weight.format == QuantFormat::kNested;
  CheckInternal(nested || weight.values.dtype == dtype, "a plain ", DTypeName(weight.values.dtype),
                " weight filled from ", DTypeName(dtype));
  auto* base = static_cast<char*>(linear.storage.data());
  const int64_t plane = weight.n * weight.k;
  const int64_t first_byte = part.column_begin * DTypeSize(dtype);
  const int64_t part_bytes = part.columns * DTypeSize(dtype);

  std::mutex mutex;
  NestReport total;
  const int64_t grain = std::max<int64_t>(1, kChunkBytes / rows.row_bytes());
  threads.ParallelFor(part.rows, grain, [&](int64_t begin, int64_t end, int) {
    NestReport report;
    OutlierBuffers outliers;
    std::vector<char> scratch(rows.row_bytes());
    for (int64_t i = begin; i < end; ++i) {
      const auto* row =
          static_cast<const char*>(rows.Row(part.row_begin + i, scratch.data())) + first_byte;
      const int64_t dest = (part.dest_begin + i * part.dest_step) * weight.k;
      int64_t bad;
      if (nested) {
        auto* upper = reinterpret_cast<uint8_t*>(base) + dest;
        bad = NestRun(row, dtype, part.columns, dest, upper, upper + plane, report, outliers);
      } else {
        bad = FindNonFinite(row, dtype, part.columns);
        std::memcpy(base + dest * DTypeSize(dtype), row, part_bytes);
      }
      Check(bad < 0, code, "tensor ", part.tensor, ".weight has a NaN or infinity at row ",
            part.row_begin + i, ", column ", part.column_begin + bad);
    }
    const std::lock_guard lock(mutex);
    total.outliers += report.outliers;
    total.rounded += report.rounded;
    total.largest_relative_error =
        std::max(total.largest_relative_error, report.largest_relative_error);
    if (static_cast<int64_t>(linear.outliers.index.size()) <= max_outliers) {
      linear.outliers.index.insert(linear.outliers.index.end(), outliers.index.begin(),
                                   outliers.index.end());
      linear.outliers.value.insert(linear.outliers.value.end(), outliers.value.begin(),
                                   outliers.value.end());
    }
  });
  return total;
}

void QuantizeLinear(Linear& linear, ScaleGranularity granularity, ThreadPool& threads) {
  Weight& weight = linear.weight;
  const int64_t num_scales = Fp8WeightScales(granularity, weight.n, weight.k);
  constexpr int64_t kAlignment = 64;
  const int64_t codes_bytes = (weight.n * weight.k + kAlignment - 1) / kAlignment * kAlignment;
  Buffer storage = Buffer::AllocateCpu(codes_bytes + num_scales * sizeof(float));
  const TensorView codes = storage.View(DType::kF8E4M3, {weight.n, weight.k});
  TensorView scales = storage.View(DType::kF32, {num_scales}, codes_bytes);
  if (granularity == ScaleGranularity::kBlock128) {
    const int64_t columns = (weight.k + 127) / 128;
    scales = storage.View(DType::kF32, {num_scales / columns, columns}, codes_bytes);
  }
  QuantizeWeight({.threads = &threads}, weight.values, granularity, codes, scales);
  linear.storage = std::move(storage);
  weight.format = QuantFormat::kFp8;
  weight.values = codes;
  weight.scale_granularity = granularity;
  weight.scales = scales;
}

void FinishOutliers(Linear& linear) {
  const size_t count = linear.outliers.index.size();
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    return linear.outliers.index[a] < linear.outliers.index[b];
  });
  std::vector<int64_t> index(count);
  std::vector<float> value(count);
  for (size_t i = 0; i < count; ++i) {
    index[i] = linear.outliers.index[order[i]];
    value[i] = linear.outliers.value[order[i]];
  }
  linear.outliers.index = std::move(index);
  linear.outliers.value = std::move(value);
  linear.weight.outliers = linear.outliers.View();
}

void RemoveOutliers(Linear& linear, const LinearPart& part) {
  size_t kept = 0;
  for (size_t i = 0; i < linear.outliers.index.size(); ++i) {
    const int64_t offset = linear.outliers.index[i] / linear.weight.k - part.dest_begin;
    const bool inside =
        offset >= 0 && offset % part.dest_step == 0 && offset / part.dest_step < part.rows;
    if (!inside) {
      linear.outliers.index[kept] = linear.outliers.index[i];
      linear.outliers.value[kept] = linear.outliers.value[i];
      ++kept;
    }
  }
  linear.outliers.index.resize(kept);
  linear.outliers.value.resize(kept);
}

}  // namespace dualfp
