#include "dualfp/kernels/nest12.h"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstring>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cpu/nest12_inner.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp {
namespace {

// What a thread takes at a time: source and planes together stay in the L2 cache.
constexpr int64_t kPieceElements = int64_t{1} << 16;

constexpr uint16_t kBf16Infinity = 0x7f80;

// The vector loops of this machine, or null: every element then goes the scalar way.
const cpu::Nest12Inner* SelectInner() { return BestBackend(DeviceType::kCpu).nest12; }

bool IsOdd(int64_t column) { return column % 2 != 0; }

uint16_t Magnitude(uint16_t bf16) { return bf16 & 0x7fff; }

Nested12Bits BitsAt(const uint8_t* upper, const uint8_t* nibbles, int64_t column) {
  const uint8_t pair = nibbles[column / 2];
  return {upper[column], static_cast<uint8_t>(IsOdd(column) ? pair >> 4 : pair & 15)};
}

uint16_t LargestMagnitude(const cpu::Nest12Inner* inner, const uint16_t* row, int64_t count) {
  int64_t i = 0;
  uint16_t largest = 0;
  if (inner != nullptr) {
    i = count / cpu::kNest12Group * cpu::kNest12Group;
    largest = inner->largest(row, i);
  }
  for (; i < count; ++i) {
    largest = std::max(largest, Magnitude(row[i]));
  }
  return largest;
}

// The definition, one element at a time; `begin` is even.
void SplitScalar(const uint16_t* row, int64_t begin, int64_t end, int shift, int64_t first_index,
                 uint8_t* upper, uint8_t* nibbles, OutlierBuffers& remainders) {
  for (int64_t i = begin; i < end; ++i) {
    const Nested12Weight split = Nested12Split(row[i], shift, IsOdd(i));
    upper[i] = split.bits.upper;
    if (IsOdd(i)) {
      nibbles[i / 2] = static_cast<uint8_t>(nibbles[i / 2] | split.bits.nibble << 4);
    } else {
      nibbles[i / 2] = split.bits.nibble;
    }
    if (split.remainder != 0.0f) {
      remainders.index.push_back(first_index + i);
      remainders.value.push_back(split.remainder);
    }
  }
}

// A finite row whose largest magnitude is known.
void SplitRow(const cpu::Nest12Inner* inner, const uint16_t* row, int64_t count, int shift,
              int64_t first_index, uint8_t* upper, uint8_t* nibbles, OutlierBuffers& remainders) {
  int64_t i = 0;
  while (i < count) {
    if (inner != nullptr) {
      const int64_t size = (count - i) / cpu::kNest12Group * cpu::kNest12Group;
      i += inner->split(row + i, size, shift, upper + i, nibbles + i / 2);
    }
    // A tiny weight's group, or the tail.
    const int64_t next = inner == nullptr ? count : std::min(i + cpu::kNest12Group, count);
    SplitScalar(row, i, next, shift, first_index, upper, nibbles, remainders);
    i = next;
  }
}

float LoadFloat(const void* source, DType dtype, int64_t i) {
  if (dtype == DType::kF16) {
    uint16_t bits;
    std::memcpy(&bits, static_cast<const char*>(source) + 2 * i, 2);
    return Fp16ToFloat(bits);
  }
  float value;
  std::memcpy(&value, static_cast<const char*>(source) + 4 * i, 4);
  return value;
}

// The row as aligned BF16: where it lies, or copied or rounded to `scratch`.
const uint16_t* ToBf16(const void* source, DType dtype, int64_t count,
                       std::vector<uint16_t>& scratch, NestReport& report) {
  const bool aligned = reinterpret_cast<uintptr_t>(source) % sizeof(uint16_t) == 0;
  if (dtype == DType::kBF16 && aligned) {
    return static_cast<const uint16_t*>(source);
  }
  scratch.resize(count);
  if (dtype == DType::kBF16) {
    std::memcpy(scratch.data(), source, count * sizeof(uint16_t));
    return scratch.data();
  }
  for (int64_t i = 0; i < count; ++i) {
    const float w = LoadFloat(source, dtype, i);
    scratch[i] = FloatToBf16(w);
    const float rounded = Bf16ToFloat(scratch[i]);
    if (rounded != w && std::isfinite(rounded)) {
      ++report.rounded;
      report.largest_relative_error =
          std::max<double>(report.largest_relative_error, std::fabs((w - rounded) / w));
    }
  }
  return scratch.data();
}

// As Nest12Row.
int64_t NestRow(const cpu::Nest12Inner* inner, const void* source, DType dtype, int64_t count,
                int64_t first_index, uint8_t* upper, uint8_t* nibbles, int8_t* shift,
                NestReport& report, OutlierBuffers& remainders) {
  std::vector<uint16_t> scratch;
  const uint16_t* row = ToBf16(source, dtype, count, scratch, report);
  const uint16_t largest = LargestMagnitude(inner, row, count);
  if (largest >= kBf16Infinity) [[unlikely]] {
    return std::find_if(row, row + count,
                        [](uint16_t bf16) { return Magnitude(bf16) >= kBf16Infinity; }) -
           row;
  }
  *shift = static_cast<int8_t>(Nested12RowShift(largest));
  const auto before = static_cast<int64_t>(remainders.index.size());
  SplitRow(inner, row, count, *shift, first_index, upper, nibbles, remainders);
  report.elements += count;
  report.outliers += static_cast<int64_t>(remainders.index.size()) - before;
  return -1;
}

void CheckPlane(const char* what, const ConstTensorView& plane, DType dtype,
                std::initializer_list<int64_t> shape) {
  bool ok = plane && plane.dtype == dtype && plane.rank == static_cast<int>(shape.size()) &&
            plane.is_contiguous() && plane.device.type == DeviceType::kCpu;
  ok = ok && std::equal(shape.begin(), shape.end(), plane.shape.begin());
  Check(ok, ErrorCode::kInvalidArgument, "nest12: ", what, " is ", Describe(plane),
        ", expected contiguous ", DTypeName(dtype), "[", *shape.begin(),
        shape.size() == 2 ? StrCat(", ", *std::prev(shape.end())) : "", "] on the CPU");
}

template <typename View>
void CheckPlanes(const BasicNested12Planes<View>& planes, int64_t n, int64_t k) {
  CheckPlane("the upper plane", planes.upper, DType::kF8E4M3, {n, k});
  CheckPlane("the nibble plane", planes.nibble, DType::kU8, {n, NibbleBytes(k)});
  CheckPlane("the shifts", planes.shift, DType::kI8, {n});
}

// Pointers into the planes.
template <typename Byte, typename Shift>
struct PlaneRow {
  Byte* upper;
  Byte* nibbles;
  Shift* shift;
};
template <typename Byte, typename Shift>
PlaneRow(Byte*, Byte*, Shift*) -> PlaneRow<Byte, Shift>;

template <typename View>
auto RowOf(const BasicNested12Planes<View>& planes, int64_t row) {
  return PlaneRow{planes.upper.template as<uint8_t>() + row * planes.upper.shape[1],
                  planes.nibble.template as<uint8_t>() + row * planes.nibble.shape[1],
                  planes.shift.template as<int8_t>() + row};
}

// body(piece, first row, end row) over pieces of all rows.
template <typename Body>
void ForEachPiece(ThreadPool& threads, int64_t n, int64_t rows, const Body& body) {
  threads.ParallelFor((n + rows - 1) / rows, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t piece = begin; piece < end; ++piece) {
      body(piece, piece * rows, std::min((piece + 1) * rows, n));
    }
  });
}

int64_t PieceRows(int64_t k) {
  return std::max<int64_t>(1, kPieceElements / std::max<int64_t>(k, 1));
}

// A plane's weight and its remainder.
struct PlaneWeight {
  Nested12Weight weight;
  int shift;
  bool odd;
};

PlaneWeight PlaneWeightAt(const ConstNested12Planes& planes, int64_t index, float remainder) {
  const int64_t k = planes.upper.shape[1];
  const auto row = RowOf(planes, index / k);
  const int64_t column = index % k;
  return {{BitsAt(row.upper, row.nibbles, column), remainder}, *row.shift, IsOdd(column)};
}

}  // namespace

NestReport Nest12(ThreadPool& threads, std::string_view name, const ConstTensorView& source,
                  const Nested12Planes& planes, int64_t max_remainders,
                  OutlierBuffers* remainders) {
  Check(source.rank == 2 && source.is_contiguous() && source.device.type == DeviceType::kCpu &&
            (source.dtype == DType::kBF16 || source.dtype == DType::kF16 ||
             source.dtype == DType::kF32),
        ErrorCode::kInvalidArgument, "nest12: ", name, " is ", Describe(source),
        ", expected contiguous BF16, F16 or F32 [N, K] on the CPU");
  const int64_t n = source.shape[0];
  const int64_t k = source.shape[1];
  CheckPlanes(planes, n, k);
  const cpu::Nest12Inner* inner = SelectInner();
  struct Piece {
    NestReport report;
    OutlierBuffers remainders;
  };
  const int64_t piece_rows = PieceRows(k);
  std::vector<Piece> pieces((n + piece_rows - 1) / piece_rows);
  std::atomic<int64_t> found{0};
  ForEachPiece(threads, n, piece_rows, [&](int64_t index, int64_t begin, int64_t end) {
    Piece& piece = pieces[index];
    for (int64_t i = begin; i < end && found.load(std::memory_order_relaxed) <= max_remainders;
         ++i) {
      const auto row = RowOf(planes, i);
      const int64_t before = piece.report.outliers;
      const int64_t bad =
          NestRow(inner, source.as<char>() + i * k * DTypeSize(source.dtype), source.dtype, k,
                  i * k, row.upper, row.nibbles, row.shift, piece.report, piece.remainders);
      Check(bad < 0, ErrorCode::kInvalidFile, name, ": element ", i * k + bad,
            " is NaN or infinite; weights must be finite");
      found.fetch_add(piece.report.outliers - before, std::memory_order_relaxed);
    }
  });
  NestReport report;
  report.elements = n * k;
  *remainders = {};
  for (const Piece& piece : pieces) {
    report.outliers += piece.report.outliers;
    report.rounded += piece.report.rounded;
    report.largest_relative_error =
        std::max(report.largest_relative_error, piece.report.largest_relative_error);
  }
  if (report.outliers > max_remainders) {
    return report;
  }
  for (const Piece& piece : pieces) {
    remainders->index.insert(remainders->index.end(), piece.remainders.index.begin(),
                             piece.remainders.index.end());
    remainders->value.insert(remainders->value.end(), piece.remainders.value.begin(),
                             piece.remainders.value.end());
  }
  return report;
}

int64_t Nest12Row(const void* source, DType dtype, int64_t count, int64_t first_index,
                  uint8_t* upper, uint8_t* nibbles, int8_t* shift, NestReport& report,
                  OutlierBuffers& remainders) {
  static const cpu::Nest12Inner* const inner = SelectInner();
  return NestRow(inner, source, dtype, count, first_index, upper, nibbles, shift, report,
                 remainders);
}

void Unnest12(ThreadPool& threads, const ConstNested12Planes& planes, const OutlierList& remainders,
              const TensorView& out) {
  Check(out.rank == 2 && out.dtype == DType::kBF16 && out.is_contiguous() &&
            out.device.type == DeviceType::kCpu,
        ErrorCode::kInvalidArgument, "unnest12: the output is ", Describe(out),
        ", expected contiguous BF16 [N, K] on the CPU");
  const int64_t n = out.shape[0];
  const int64_t k = out.shape[1];
  CheckPlanes(planes, n, k);
  ForEachPiece(threads, n, PieceRows(k), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      Unnest12Row(planes, remainders, row, out.as<uint16_t>() + row * k);
    }
  });
}

void Unnest12Row(const ConstNested12Planes& planes, const OutlierList& remainders, int64_t row,
                 uint16_t* out) {
  const cpu::Nest12Inner* inner = SelectInner();
  const int64_t k = planes.upper.shape[1];
  const auto source = RowOf(planes, row);
  int64_t i = 0;
  while (i < k) {
    if (inner != nullptr) {
      const int64_t size = (k - i) / cpu::kNest12Group * cpu::kNest12Group;
      i += inner->merge(source.upper + i, source.nibbles + i / 2, size, *source.shift, out + i);
    }
    const int64_t next = inner == nullptr ? k : std::min(i + cpu::kNest12Group, k);
    for (; i < next; ++i) {
      out[i] =
          Nested12Merge({BitsAt(source.upper, source.nibbles, i), 0.0f}, *source.shift, IsOdd(i));
    }
  }
  if (remainders.size() == 0) {
    return;
  }
  const int64_t* begin = remainders.index.as<int64_t>();
  const int64_t* end = begin + remainders.size();
  for (const int64_t* it = std::lower_bound(begin, end, row * k); it != end && *it < (row + 1) * k;
       ++it) {
    const auto [weight, shift, odd] =
        PlaneWeightAt(planes, *it, remainders.value.as<float>()[it - begin]);
    out[*it - row * k] = Nested12Merge(weight, shift, odd);
  }
}

void CheckNested12(ThreadPool& threads, std::string_view name, const ConstNested12Planes& planes,
                   const OutlierList& remainders) {
  Check(planes.upper.rank == 2, ErrorCode::kInvalidArgument, "nest12: the upper plane is ",
        Describe(planes.upper), ", expected F8_E4M3[N, K]");
  const int64_t n = planes.upper.shape[0];
  const int64_t k = planes.upper.shape[1];
  CheckPlanes(planes, n, k);
  const cpu::Nest12Inner* inner = SelectInner();
  ForEachPiece(threads, n, PieceRows(k), [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const auto row = RowOf(planes, r);
      int64_t i = 0;
      if (inner != nullptr) {
        i = inner->count_valid(row.upper, row.nibbles, k / cpu::kNest12Group * cpu::kNest12Group);
      }
      for (; i < k; ++i) {
        const Nested12Bits bits = BitsAt(row.upper, row.nibbles, i);
        Check(Nested12Decode(bits, IsOdd(i)) <= kNested12MaxCode, ErrorCode::kInvalidFile, name,
              ": element ", r * k + i, " has upper byte ", int{bits.upper}, " and nibble ",
              int{bits.nibble}, ", which no weight has; the planes do not belong together");
      }
    }
  });
  int64_t previous = -1;
  for (int64_t i = 0; i < remainders.size(); ++i) {
    const int64_t index = remainders.index.as<int64_t>()[i];
    const float value = remainders.value.as<float>()[i];
    Check(index > previous && index < n * k, ErrorCode::kInvalidFile, name,
          ": remainder indices must ascend below ", n * k, ", but ", index, " follows ", previous);
    previous = index;
    const auto [weight, shift, odd] = PlaneWeightAt(planes, index, value);
    // A weight that splits into just these.
    bool made = false;
    const uint32_t code = Nested12Decode(weight.bits, odd);
    if (code <= kNested12FirstNormal && std::isfinite(value) && value != 0.0f) {
      const Nested12Weight again = Nested12Split(Nested12Merge(weight, shift, odd), shift, odd);
      made = again.bits == weight.bits && again.remainder == value;
    }
    Check(made, ErrorCode::kInvalidFile, name, ": remainder ", value, " at element ", index,
          " is not what rounding leaves of a weight there");
  }
}

}  // namespace dualfp
