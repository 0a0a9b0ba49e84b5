#include "dualfp/model/fill_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/nested.h"

namespace dualfp {
namespace {

struct Outlier {
  int64_t index;
  float value;
};

// What one thread found in its rows.
struct Found {
  FillStats stats;
  std::vector<Outlier> outliers;
  int64_t bad_column = -1;  // the first NaN or infinity of the last row
};

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

void NestRow(const void* row, DType dtype, int64_t count, int64_t first_index, uint8_t* upper,
             uint8_t* lower, Found& found) {
  for (int64_t i = 0; i < count; ++i) {
    uint16_t code;
    if (dtype == DType::kF16) {
      code = static_cast<const uint16_t*>(row)[i];
    } else {
      const float value = LoadFloat(row, dtype, i);
      code = FloatToFp16(value);
      const float rounded = Fp16ToFloat(code);
      if (rounded != value) {
        ++found.stats.rounded;
        found.stats.largest_relative_rounding =
            std::max(found.stats.largest_relative_rounding,
                     std::abs(double{rounded} - value) / std::abs(double{value}));
      }
    }
    if (!NestedEligible(code)) [[unlikely]] {
      const float value = Fp16ToFloat(code);
      ++found.stats.outliers;
      found.stats.beyond_fp16 += std::isinf(value) ? 1 : 0;
      const float clamped = std::copysign(kNestedMax, value);
      found.outliers.push_back({first_index + i, value - clamped});
      code = FloatToFp16(clamped);
    }
    const NestedBytes bytes = NestedSplit(code);
    upper[i] = bytes.upper;
    lower[i] = bytes.lower;
  }
}

}  // namespace

void FillStats::Merge(const FillStats& other) {
  outliers += other.outliers;
  beyond_fp16 += other.beyond_fp16;
  rounded += other.rounded;
  largest_relative_rounding = std::max(largest_relative_rounding, other.largest_relative_rounding);
}

void AllocateLinear(Linear& linear, QuantFormat format, DType dtype) {
  Weight& weight = linear.weight;
  const int64_t elements = weight.n * weight.k;
  weight.format = format;
  weight.lower = {};
  weight.outliers = {};
  linear.outlier_index.clear();
  linear.outlier_value.clear();
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

FillStats FillPart(Linear& linear, const LinearPart& part, const TensorRows& rows,
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
  FillStats total;
  const int64_t grain = std::max<int64_t>(1, (1 << 18) / rows.row_bytes());
  threads.ParallelFor(part.rows, grain, [&](int64_t begin, int64_t end, int) {
    Found found;
    std::vector<char> scratch(rows.row_bytes());
    for (int64_t i = begin; i < end; ++i) {
      const auto* row =
          static_cast<const char*>(rows.Row(part.row_begin + i, scratch.data())) + first_byte;
      const int64_t bad = FindNonFinite(row, dtype, part.columns);
      Check(bad < 0, code, "tensor ", part.tensor, ".weight has a NaN or infinity at row ",
            part.row_begin + i, ", column ", part.column_begin + bad);
      const int64_t dest = (part.dest_begin + i * part.dest_step) * weight.k;
      if (nested) {
        NestRow(row, dtype, part.columns, dest, reinterpret_cast<uint8_t*>(base) + dest,
                reinterpret_cast<uint8_t*>(base) + plane + dest, found);
      } else {
        std::memcpy(base + dest * DTypeSize(dtype), row, part_bytes);
      }
    }
    const std::lock_guard lock(mutex);
    total.Merge(found.stats);
    for (const Outlier& outlier : found.outliers) {
      if (static_cast<int64_t>(linear.outlier_index.size()) >= max_outliers) {
        break;
      }
      linear.outlier_index.push_back(outlier.index);
      linear.outlier_value.push_back(outlier.value);
    }
  });
  return total;
}

void FinishOutliers(Linear& linear) {
  const size_t count = linear.outlier_index.size();
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::sort(order.begin(), order.end(),
            [&](size_t a, size_t b) { return linear.outlier_index[a] < linear.outlier_index[b]; });
  std::vector<int64_t> index(count);
  std::vector<float> value(count);
  for (size_t i = 0; i < count; ++i) {
    index[i] = linear.outlier_index[order[i]];
    value[i] = linear.outlier_value[order[i]];
  }
  linear.outlier_index = std::move(index);
  linear.outlier_value = std::move(value);
  linear.weight.outliers = {};
  if (count > 0) {
    const auto size = static_cast<int64_t>(count);
    linear.weight.outliers.index = {linear.outlier_index.data(), DType::kI64, {size}};
    linear.weight.outliers.value = {linear.outlier_value.data(), DType::kF32, {size}};
  }
}

void RemoveOutliers(Linear& linear, const LinearPart& part) {
  size_t kept = 0;
  for (size_t i = 0; i < linear.outlier_index.size(); ++i) {
    const int64_t offset = linear.outlier_index[i] / linear.weight.k - part.dest_begin;
    const bool inside =
        offset >= 0 && offset % part.dest_step == 0 && offset / part.dest_step < part.rows;
    if (!inside) {
      linear.outlier_index[kept] = linear.outlier_index[i];
      linear.outlier_value[kept] = linear.outlier_value[i];
      ++kept;
    }
  }
  linear.outlier_index.resize(kept);
  linear.outlier_value.resize(kept);
}

}  // namespace dualfp
