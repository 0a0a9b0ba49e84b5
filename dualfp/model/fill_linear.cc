#include "dualfp/model/fill_linear.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <mutex>
#include <numeric>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/kernels/quantize_weight.h"
#include "dualfp/numeric/e8m0.h"

namespace dualfp {
namespace {

// What a thread takes at a time.
constexpr int64_t kChunkBytes = int64_t{1} << 18;

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

// Rows of a part, gathered where they are to be worked on together.
class Strip {
 public:
  Strip(const LinearPart& part, const TensorRows& rows, ErrorCode code)
      : part_(part),
        rows_(rows),
        code_(code),
        first_byte_(part.column_begin * DTypeSize(rows.dtype())),
        row_bytes_(part.columns * DTypeSize(rows.dtype())),
        scratch_(rows.row_bytes()) {}

  // Row `i` of the part, valid until the next call.
  const void* Row(int64_t i) {
    return static_cast<const char*>(rows_.Row(part_.row_begin + i, scratch_.data())) + first_byte_;
  }

  // Rows [begin, end) of the part, all finite, one below the other.
  ConstTensorView Gather(int64_t begin, int64_t end) {
    gathered_.resize((end - begin) * row_bytes_);
    for (int64_t i = begin; i < end; ++i) {
      const void* row = Row(i);
      CheckFinite(i, FindNonFinite(row, rows_.dtype(), part_.columns));
      std::memcpy(gathered_.data() + (i - begin) * row_bytes_, row, row_bytes_);
    }
    return {gathered_.data(), rows_.dtype(), {end - begin, part_.columns}};
  }

  // `bad` is the column of a weight that is not finite, or negative.
  void CheckFinite(int64_t i, int64_t bad) const {
    Check(bad < 0, code_, "tensor ", part_.tensor, ".weight has a NaN or infinity at row ",
          part_.row_begin + i, ", column ", part_.column_begin + bad);
  }

 private:
  const LinearPart& part_;
  const TensorRows& rows_;
  ErrorCode code_;
  int64_t first_byte_;
  int64_t row_bytes_;
  std::vector<char> scratch_;
  std::vector<char> gathered_;
};

// The part's rows of a tensor whose rows are the weight's.
TensorView PartRows(const TensorView& rows, const LinearPart& part) {
  TensorView view = rows.Rows(part.dest_begin, part.dest_begin + 1);
  view.shape[0] = part.rows;
  view.strides[0] *= part.dest_step;
  return view;
}

// The filler's own view of what it may write.
TensorView Writable(const ConstTensorView& view) {
  TensorView writable(const_cast<void*>(view.data), view.dtype,
                      std::span(view.shape.data(), view.rank), view.device);
  writable.strides = view.strides;
  return writable;
}

void StorePlain(const void* row, DType from, int64_t count, DType to, void* out) {
  if (from == to) {
    std::memcpy(out, row, count * DTypeSize(to));
    return;
  }
  CheckInternal(to == DType::kF32, "only F32 holds weights of every type");
  for (int64_t i = 0; i < count; ++i) {
    static_cast<float*>(out)[i] = LoadFloat(row, from, i);
  }
}

// Codes and scales of a part. Threads take a block of rows at a time.
void QuantizePart(Linear& linear, const LinearPart& part, const TensorRows& rows, ErrorCode code,
                  ThreadPool& threads) {
  constexpr int64_t kBlock = 128;
  const Weight& weight = linear.weight;
  const WeightScheme& scheme = linear.scheme;
  const bool per_tensor = scheme.granularity == ScaleGranularity::kPerTensor;
  const bool blocked = scheme.granularity == ScaleGranularity::kBlock128;
  // Rows of the part's first block that are another's.
  const int64_t before =
      blocked ? weight.parts.scale_base[weight.parts.Part(part.dest_begin)] % kBlock : 0;
  const int64_t blocks = (before + part.rows + kBlock - 1) / kBlock;
  const auto block_rows = [&](int64_t block) {
    return std::pair{std::max<int64_t>(0, block * kBlock - before),
                     std::min(part.rows, (block + 1) * kBlock - before)};
  };
  float matrix_scale = 1.0f;
  if (per_tensor || weight.global_scale) {
    std::mutex mutex;
    float amax = 0.0f;
    threads.ParallelFor(blocks, 1, [&](int64_t begin, int64_t end, int) {
      Strip strip(part, rows, code);
      float largest = 0.0f;
      for (int64_t block = begin; block < end; ++block) {
        const auto [first, last] = block_rows(block);
        largest = std::max(largest, WeightMaxMagnitude(strip.Gather(first, last)));
      }
      const std::lock_guard lock(mutex);
      amax = std::max(amax, largest);
    });
    matrix_scale = WeightMatrixScale(scheme, amax);
  }
  if (weight.global_scale) {
    Writable(weight.global_scale).as<float>()[weight.parts.Part(part.dest_begin)] = matrix_scale;
  }
  const TensorView codes = PartRows(Writable(weight.values), part);
  TensorView scales = Writable(weight.scales);
  if (per_tensor) {
    // One scale, or one for each row where parts have their own.
    const int64_t count = weight.scale_granularity == ScaleGranularity::kPerTensor ? 1 : part.rows;
    for (int64_t i = 0; i < count; ++i) {
      scales.as<float>()[part.dest_begin + i * part.dest_step] = matrix_scale;
    }
  } else if (!blocked) {
    scales = PartRows(scales, part);
  }
  threads.ParallelFor(blocks, 1, [&](int64_t begin, int64_t end, int) {
    Strip strip(part, rows, code);
    for (int64_t block = begin; block < end; ++block) {
      const auto [first, last] = block_rows(block);
      TensorView own = scales;
      if (blocked) {
        const int64_t row = weight.parts.BlockRow(part.dest_begin + first * part.dest_step);
        own = scales.Rows(row, row + 1);
      } else if (!per_tensor) {
        own = scales.Rows(first, last);
      }
      QuantizeWeightRows(strip.Gather(first, last), scheme, matrix_scale, codes.Rows(first, last),
                         own);
    }
  });
}

// A part's scales, from where the checkpoint has them to where the weight does.
void CopyScales(const Weight& weight, const LinearPart& part, const StoredMatrix& matrix) {
  constexpr int64_t kBlock = 128;
  const TensorView scales = Writable(weight.scales);
  switch (weight.scale_granularity) {
    case ScaleGranularity::kPerTensor:
      *scales.as<float>() = matrix.Scale(part.row_begin, part.column_begin);
      return;
    case ScaleGranularity::kPerChannel:
      for (int64_t i = 0; i < part.rows; ++i) {
        scales.as<float>()[part.dest_begin + i * part.dest_step] =
            matrix.Scale(part.row_begin + i, part.column_begin);
      }
      return;
    case ScaleGranularity::kBlock128: {
      Check(part.column_begin % kBlock == 0, ErrorCode::kUnsupported, part.tensor,
            ": a shard begins at column ", part.column_begin, ", inside a block of 128");
      const int64_t first = part.row_begin / kBlock;
      const int64_t last = (part.row_begin + part.rows - 1) / kBlock;
      const int64_t to = weight.parts.BlockRow(part.dest_begin);
      for (int64_t block = first; block <= last; ++block) {
        auto* row = scales.Rows(to + block - first, to + block - first + 1).as<float>();
        for (int64_t k = 0; k < part.columns; k += kBlock) {
          row[k / kBlock] = matrix.Scale(block * kBlock, part.column_begin + k);
        }
      }
      return;
    }
    case ScaleGranularity::kGroup: {
      const int group = GetQuantFormatInfo(weight.format).group_size;
      Check(part.column_begin % group == 0, ErrorCode::kUnsupported, part.tensor,
            ": a shard begins at column ", part.column_begin, ", inside a group of ", group);
      const TensorView rows = PartRows(scales, part);
      for (int64_t i = 0; i < part.rows; ++i) {
        auto* row = rows.Rows(i, i + 1).as<uint8_t>();
        for (int64_t k = 0; k < part.columns; k += group) {
          const float scale = matrix.Scale(part.row_begin + i, part.column_begin + k);
          row[k / group] = FloatToE8m0Floor(scale);
          Check(E8m0ToFloat(row[k / group]) == scale, ErrorCode::kInvalidFile, "tensor ",
                part.tensor, ": a scale of ", scale, ", expected a power of two");
        }
      }
      return;
    }
    case ScaleGranularity::kNone:
      break;
  }
  Fail(ErrorCode::kInternal, "codes without scales");
}

}  // namespace

void AllocateLinear(Linear& linear, const WeightScheme& scheme, DType dtype) {
  constexpr int64_t kAlignment = 64;
  const auto aligned = [](int64_t bytes) {
    return (bytes + kAlignment - 1) / kAlignment * kAlignment;
  };
  const QuantFormatInfo& info = GetQuantFormatInfo(scheme.format);
  Weight& weight = linear.weight;
  linear.scheme = scheme;
  linear.outliers = {};
  linear.storage.Reset();
  weight.format = scheme.format;
  weight.scale_granularity = scheme.granularity;
  weight.lower = weight.scales = weight.global_scale = {};
  weight.outliers = {};
  if (scheme.granularity == ScaleGranularity::kPerTensor && weight.parts.count > 1) {
    weight.scale_granularity = ScaleGranularity::kPerChannel;
  }
  const DType values = scheme.format == QuantFormat::kPlain ? dtype : info.values;
  const int64_t columns = info.codec.bits == 4 ? weight.k / 2 : weight.k;
  const int64_t plane = weight.n * columns * DTypeSize(values);
  if (info.codec.bits == 0) {
    int64_t lower = 0;
    int64_t shifts = 0;
    if (scheme.format == QuantFormat::kNested) {
      lower = weight.k;
    } else if (scheme.format == QuantFormat::kNested12) {
      lower = NibbleBytes(weight.k);
      shifts = weight.n;
    }
    linear.storage = Buffer::AllocateCpu(plane + weight.n * lower + shifts);
    weight.values = linear.storage.View(values, {weight.n, columns});
    if (lower > 0) {
      weight.lower = linear.storage.View(DType::kU8, {weight.n, lower}, plane);
    }
    if (shifts > 0) {
      weight.scales = linear.storage.View(DType::kI8, {shifts}, plane + weight.n * lower);
    }
    return;
  }
  Check(info.group_size == 0 || weight.k % info.group_size == 0, ErrorCode::kUnsupported,
        linear.name, " cannot be held as ", info.name, ": K = ", weight.k, " is not a multiple of ",
        info.group_size);
  auto [scale_rows, scale_columns] =
      ScaleShape({scheme.format, weight.scale_granularity}, weight.n, weight.k);
  if (scheme.granularity == ScaleGranularity::kBlock128) {
    scale_rows = weight.NumBlockRows();
  }
  const int64_t scale_bytes = scale_rows * scale_columns * DTypeSize(info.scales);
  const int64_t scales_at = aligned(plane);
  const int64_t global_at = scales_at + aligned(scale_bytes);
  linear.storage =
      Buffer::AllocateCpu(global_at + kMaxRowParts * static_cast<int64_t>(sizeof(float)));
  weight.values = linear.storage.View(values, {weight.n, columns});
  weight.scales = linear.storage.View(info.scales, {scale_rows, scale_columns}, scales_at);
  if (info.scales == DType::kF8E4M3) {
    weight.global_scale = linear.storage.View(DType::kF32, {weight.parts.count}, global_at);
  }
}

NestReport FillPart(Linear& linear, const LinearPart& part, const TensorRows& rows,
                    int64_t max_outliers, ErrorCode code, ThreadPool& threads) {
  const Weight& weight = linear.weight;
  const DType dtype = rows.dtype();
  if (GetQuantFormatInfo(weight.format).codec.bits > 0) {
    QuantizePart(linear, part, rows, code, threads);
    return {};
  }
  const TensorView values = Writable(weight.values);
  const TensorView lower = Writable(weight.lower);

  std::mutex mutex;
  NestReport total;
  const int64_t grain = std::max<int64_t>(1, kChunkBytes / rows.row_bytes());
  threads.ParallelFor(part.rows, grain, [&](int64_t begin, int64_t end, int) {
    NestReport report;
    OutlierBuffers outliers;
    Strip strip(part, rows, code);
    for (int64_t i = begin; i < end; ++i) {
      const void* row = strip.Row(i);
      const int64_t dest = part.dest_begin + i * part.dest_step;
      const int64_t first = dest * weight.k;
      const TensorView to = values.Rows(dest, dest + 1);
      int64_t bad;
      if (weight.format == QuantFormat::kNested) {
        bad = NestRun(row, dtype, part.columns, first, to.as<uint8_t>(),
                      lower.as<uint8_t>() + first, report, outliers);
      } else if (weight.format == QuantFormat::kNested12) {
        bad = Nest12Row(row, dtype, part.columns, first, to.as<uint8_t>(),
                        lower.as<uint8_t>() + dest * NibbleBytes(weight.k),
                        Writable(weight.scales).as<int8_t>() + dest, report, outliers);
      } else {
        bad = FindNonFinite(row, dtype, part.columns);
        StorePlain(row, dtype, part.columns, values.dtype, to.data);
      }
      strip.CheckFinite(i, bad);
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

void CopyPart(Linear& linear, const LinearPart& part, const StoredMatrix& matrix, ErrorCode code,
              ThreadPool& threads) {
  const TensorRows& rows = *matrix.rows;
  const TensorView codes = PartRows(Writable(linear.weight.values), part);
  const int64_t grain = std::max<int64_t>(1, kChunkBytes / rows.row_bytes());
  threads.ParallelFor(part.rows, grain, [&](int64_t begin, int64_t end, int) {
    std::vector<char> scratch(rows.row_bytes());
    for (int64_t i = begin; i < end; ++i) {
      const auto* row = static_cast<const uint8_t*>(rows.Row(part.row_begin + i, scratch.data())) +
                        part.column_begin;
      uint8_t* to = codes.Rows(i, i + 1).as<uint8_t>();
      bool finite = true;
      for (int64_t k = 0; k < part.columns; ++k) {
        to[k] = row[k];
        finite = finite && (row[k] & 0x7f) != 0x7f;
      }
      if (!finite) {
        const auto* bad = std::find_if(row, row + part.columns,
                                       [](uint8_t value) { return (value & 0x7f) == 0x7f; });
        Fail(code, "tensor ", part.tensor, ".weight has a NaN at row ", part.row_begin + i,
             ", column ", part.column_begin + (bad - row));
      }
    }
  });
  CopyScales(linear.weight, part, matrix);
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

void SetInputScale(Linear& linear, float scale) { SetInputScales(linear, {&scale, 1}); }

void SetInputScales(Linear& linear, std::span<const float> scales) {
  if (linear.input_scale.data() == nullptr) {
    linear.input_scale = Buffer::AllocateCpu(kMaxRowParts * sizeof(float));
  }
  // Equal ones are one: every part then multiplies the same codes.
  const bool same = std::all_of(scales.begin(), scales.end(),
                                [&](float scale) { return scale == scales.front(); });
  const auto count = static_cast<int64_t>(same ? 1 : scales.size());
  const TensorView view = linear.input_scale.View(DType::kF32, {count});
  std::copy_n(scales.begin(), count, view.as<float>());
  linear.weight.input_scale = view;
}

}  // namespace dualfp
