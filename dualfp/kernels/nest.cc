#include "dualfp/kernels/nest.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>

#include "dualfp/base/check.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cpu/nest_inner.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/nested.h"

namespace dualfp {
namespace {

// What a thread takes at a time: source and planes together stay in the L2 cache.
constexpr int64_t kPiece = int64_t{1} << 16;

// The vector loops of this machine, or null: every element then goes the scalar way.
const cpu::NestInner* SelectInner() { return BestBackend(DeviceType::kCpu).nest; }

struct Outlier {
  int64_t index;
  float value;
};

struct Piece {
  NestReport report;
  std::vector<Outlier> outliers;
};

float LoadSource(const char* source, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, source + 4 * index, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, source + 2 * index, 2);
  return dtype == DType::kF16 ? Fp16ToFloat(bits) : Bf16ToFloat(bits);
}

// The definition, one element at a time. Returns the first element that is NaN or infinite, and
// stops there, or -1.
int64_t SplitScalar(const char* source, DType dtype, int64_t begin, int64_t end, uint8_t* upper,
                    uint8_t* lower, Piece& piece) {
  for (int64_t i = begin; i < end; ++i) {
    const float w = LoadSource(source, dtype, i);
    if (!std::isfinite(w)) [[unlikely]] {
      return i;
    }
    uint16_t fp16 = FloatToFp16(w);
    float exact = Fp16ToFloat(fp16);
    if (!std::isfinite(exact)) {
      exact = w;
    }
    if (exact != w) {
      ++piece.report.rounded;
      piece.report.largest_relative_error =
          std::max<double>(piece.report.largest_relative_error, std::fabs((w - exact) / w));
    }
    if (!NestedEligible(fp16)) {
      const float clamped = std::copysign(kNestedMax, w);
      fp16 = FloatToFp16(clamped);
      piece.outliers.push_back({i, exact - clamped});
      ++piece.report.outliers;
    }
    const NestedBytes bytes = NestedSplit(fp16);
    upper[i] = bytes.upper;
    lower[i] = bytes.lower;
  }
  return -1;
}

// As SplitScalar.
int64_t SplitPiece(const cpu::NestInner* inner, const char* source, DType dtype, int64_t begin,
                   int64_t end, uint8_t* upper, uint8_t* lower, Piece& piece) {
  cpu::NestCounts counts;
  int64_t i = begin;
  while (i < end) {
    if (inner != nullptr) {
      const int64_t size = (end - i) / cpu::kNestGroup * cpu::kNestGroup;
      i += inner->split(source + i * DTypeSize(dtype), dtype, size, upper + i, lower + i, counts);
    }
    // An outlier's group, or the tail.
    const int64_t next = inner == nullptr ? end : std::min(i + cpu::kNestGroup, end);
    const int64_t bad = SplitScalar(source, dtype, i, next, upper, lower, piece);
    if (bad >= 0) [[unlikely]] {
      return bad;
    }
    i = next;
  }
  piece.report.rounded += counts.rounded;
  piece.report.largest_relative_error =
      std::max<double>(piece.report.largest_relative_error, counts.largest_relative_error);
  return -1;
}

void CheckPlanes(const ConstTensorView& upper, const ConstTensorView& lower, int64_t elements) {
  for (const auto& [plane, dtype] :
       {std::pair{upper, DType::kF8E4M3}, std::pair{lower, DType::kU8}}) {
    if (!plane || plane.dtype != dtype || plane.num_elements() != elements ||
        !plane.is_contiguous() || plane.device.type != DeviceType::kCpu) {
      Fail(ErrorCode::kInvalidArgument, "nest: plane is ", Describe(plane), ", expected ", elements,
           " contiguous ", DTypeName(dtype), " on the CPU");
    }
  }
}

// The clamped value of a plane pair.
float PlaneValue(const ConstTensorView& upper, const ConstTensorView& lower, int64_t i) {
  return Fp16ToFloat(NestedMerge(upper.as<uint8_t>()[i], lower.as<uint8_t>()[i]));
}

bool IsValidPair(uint8_t upper, uint8_t lower) {
  const uint16_t fp16 = NestedMerge(upper, lower);
  return NestedEligible(fp16) && NestedSplit(fp16) == NestedBytes{upper, lower};
}

// body(begin, end) over pieces of [0, elements).
template <typename Body>
void ForEachPiece(ThreadPool& threads, int64_t elements, const Body& body) {
  const auto pieces = [&](int64_t begin, int64_t end, int) {
    for (int64_t piece = begin; piece < end; ++piece) {
      body(piece, piece * kPiece, std::min((piece + 1) * kPiece, elements));
    }
  };
  threads.ParallelFor((elements + kPiece - 1) / kPiece, 1, pieces);
}

}  // namespace

OutlierList OutlierBuffers::View() const {
  OutlierList list;
  if (!index.empty()) {
    const auto count = static_cast<int64_t>(index.size());
    list.index = ConstTensorView(index.data(), DType::kI64, {count});
    list.value = ConstTensorView(value.data(), DType::kF32, {count});
  }
  return list;
}

NestReport Nest(ThreadPool& threads, std::string_view name, const ConstTensorView& source,
                const TensorView& upper, const TensorView& lower, int64_t max_outliers,
                OutlierBuffers* outliers) {
  const int64_t elements = source.num_elements();
  Check(source.is_contiguous() && source.device.type == DeviceType::kCpu &&
            (source.dtype == DType::kF16 || source.dtype == DType::kBF16 ||
             source.dtype == DType::kF32),
        ErrorCode::kInvalidArgument, "nest: ", name,
        " must be contiguous F16, BF16 or F32 on the CPU");
  CheckPlanes(upper, lower, elements);
  const cpu::NestInner* inner = SelectInner();
  std::vector<Piece> pieces((elements + kPiece - 1) / kPiece);
  std::atomic<int64_t> found{0};
  ForEachPiece(threads, elements, [&](int64_t index, int64_t begin, int64_t end) {
    if (found.load(std::memory_order_relaxed) > max_outliers) {
      return;
    }
    Piece& piece = pieces[index];
    const int64_t bad = SplitPiece(inner, source.as<char>(), source.dtype, begin, end,
                                   upper.as<uint8_t>(), lower.as<uint8_t>(), piece);
    if (bad >= 0) [[unlikely]] {
      Fail(ErrorCode::kInvalidFile, name, ": element ", bad, " is ",
           std::isnan(LoadSource(source.as<char>(), source.dtype, bad)) ? "NaN" : "infinite",
           "; weights must be finite");
    }
    found.fetch_add(piece.report.outliers, std::memory_order_relaxed);
  });

  NestReport report;
  report.elements = elements;
  outliers->index.clear();
  outliers->value.clear();
  for (const Piece& piece : pieces) {
    report.outliers += piece.report.outliers;
    report.rounded += piece.report.rounded;
    report.largest_relative_error =
        std::max(report.largest_relative_error, piece.report.largest_relative_error);
  }
  if (report.outliers > max_outliers) {
    return report;
  }
  for (const Piece& piece : pieces) {
    for (const Outlier& outlier : piece.outliers) {
      outliers->index.push_back(outlier.index);
      outliers->value.push_back(outlier.value);
    }
  }
  return report;
}

int64_t NestRun(const void* source, DType dtype, int64_t count, int64_t first_index, uint8_t* upper,
                uint8_t* lower, NestReport& report, OutlierBuffers& outliers) {
  static const cpu::NestInner* const inner = SelectInner();
  Piece piece;
  const int64_t bad =
      SplitPiece(inner, static_cast<const char*>(source), dtype, 0, count, upper, lower, piece);
  report.elements += count;
  report.outliers += piece.report.outliers;
  report.rounded += piece.report.rounded;
  report.largest_relative_error =
      std::max(report.largest_relative_error, piece.report.largest_relative_error);
  for (const Outlier& outlier : piece.outliers) {
    outliers.index.push_back(first_index + outlier.index);
    outliers.value.push_back(outlier.value);
  }
  return bad;
}

void Unnest(ThreadPool& threads, const ConstTensorView& upper, const ConstTensorView& lower,
            const OutlierList& outliers, const TensorView& out) {
  const int64_t elements = out.num_elements();
  CheckPlanes(upper, lower, elements);
  Check(out.dtype == DType::kF16 && out.is_contiguous() && out.device.type == DeviceType::kCpu,
        ErrorCode::kInvalidArgument, "unnest: the output must be contiguous F16 on the CPU");
  const cpu::NestInner* inner = SelectInner();
  ForEachPiece(threads, elements, [&](int64_t, int64_t begin, int64_t end) {
    int64_t i = begin;
    if (inner != nullptr) {
      const int64_t size = (end - begin) / cpu::kNestGroup * cpu::kNestGroup;
      inner->merge(upper.as<uint8_t>() + begin, lower.as<uint8_t>() + begin, size,
                   out.as<uint16_t>() + begin);
      i += size;
    }
    for (; i < end; ++i) {
      out.as<uint16_t>()[i] = NestedMerge(upper.as<uint8_t>()[i], lower.as<uint8_t>()[i]);
    }
  });
  for (int64_t i = 0; i < outliers.size(); ++i) {
    const int64_t index = outliers.index.as<int64_t>()[i];
    out.as<uint16_t>()[index] =
        FloatToFp16(PlaneValue(upper, lower, index) + outliers.value.as<float>()[i]);
  }
}

void CheckNested(ThreadPool& threads, std::string_view name, const ConstTensorView& upper,
                 const ConstTensorView& lower, const OutlierList& outliers) {
  const int64_t elements = upper.num_elements();
  CheckPlanes(upper, lower, elements);
  const cpu::NestInner* inner = SelectInner();
  ForEachPiece(threads, elements, [&](int64_t, int64_t begin, int64_t end) {
    int64_t i = begin;
    if (inner != nullptr) {
      const int64_t size = (end - begin) / cpu::kNestGroup * cpu::kNestGroup;
      i += inner->count_valid(upper.as<uint8_t>() + begin, lower.as<uint8_t>() + begin, size);
    }
    for (; i < end; ++i) {
      const uint8_t u = upper.as<uint8_t>()[i];
      const uint8_t e = lower.as<uint8_t>()[i];
      if (!IsValidPair(u, e)) [[unlikely]] {
        Fail(ErrorCode::kInvalidFile, name, ": element ", i, " has upper byte ",
             static_cast<int>(u), " and lower byte ", static_cast<int>(e),
             ", which no weight has; the planes do not belong together");
      }
    }
  });
  int64_t previous = -1;
  for (int64_t i = 0; i < outliers.size(); ++i) {
    const int64_t index = outliers.index.as<int64_t>()[i];
    const float value = outliers.value.as<float>()[i];
    Check(index > previous && index < elements, ErrorCode::kInvalidFile, name,
          ": outlier indices must ascend below ", elements, ", but ", index, " follows ", previous);
    previous = index;
    const float clamped = PlaneValue(upper, lower, index);
    Check(std::fabs(clamped) == kNestedMax && std::isfinite(value) && value * clamped > 0,
          ErrorCode::kInvalidFile, name, ": outlier ", value, " at element ", index,
          " does not extend a weight of +-1.75, but of ", clamped);
  }
}

}  // namespace dualfp
