#include "dualfp/quant/compare/compare_checkpoints.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <numeric>
#include <span>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/quant/compare/dequantized_checkpoint.h"

namespace dualfp {
namespace {

// Elements that a thread takes at a time.
constexpr int64_t kGrainElements = int64_t{1} << 16;

struct Sums {
  double a2 = 0;
  double b2 = 0;
  double ab = 0;
  double error2 = 0;
  int64_t clipped = 0;
  bool finite_a = true;
  bool finite_b = true;
};

std::string ShapeText(std::span<const int64_t> shape) {
  std::string text = "[";
  for (size_t i = 0; i < shape.size(); ++i) {
    text += StrCat(i == 0 ? "" : ", ", shape[i]);
  }
  return text + "]";
}

int64_t NumElements(std::span<const int64_t> shape) {
  return std::accumulate(shape.begin(), shape.end(), int64_t{1}, std::multiplies<>());
}

Sums SumRow(const DequantizedRows& a, const DequantizedRows& b, int64_t row,
            std::vector<float>& scratch) {
  const int64_t columns = a.values->columns();
  scratch.resize(2 * columns);
  const void* row_a = a.values->Row(row, scratch.data());
  const void* row_b = b.values->Row(row, scratch.data() + columns);
  Sums sums;
  for (int64_t i = 0; i < columns; ++i) {
    const double x = LoadFloat(row_a, a.values->dtype(), i);
    const double y = LoadFloat(row_b, b.values->dtype(), i);
    sums.a2 += x * x;
    sums.b2 += y * y;
    sums.ab += x * y;
    sums.error2 += (y - x) * (y - x);
  }
  // Squares of floats do not overflow a double.
  sums.finite_a = std::isfinite(sums.a2);
  sums.finite_b = std::isfinite(sums.b2);
  if (b.codes != nullptr) {
    constexpr uint8_t kMagnitude = 0x7F;
    const uint8_t largest = FloatToE4m3(kE4m3Max);
    const auto* codes = static_cast<const uint8_t*>(b.codes->Row(row, scratch.data()));
    sums.clipped = std::count_if(
        codes, codes + columns, [largest](uint8_t code) { return (code & kMagnitude) == largest; });
  }
  return sums;
}

// Row by row, so that the order of additions is the same for any number of threads.
std::vector<Sums> SumRows(const DequantizedRows& a, const DequantizedRows& b, int64_t num_rows,
                          ThreadPool& threads) {
  std::vector<Sums> rows(num_rows);
  std::vector<std::vector<float>> scratch(threads.num_threads());
  const int64_t grain = std::max<int64_t>(1, kGrainElements / a.values->columns());
  threads.ParallelFor(num_rows, grain, [&](int64_t begin, int64_t end, int thread) {
    for (int64_t row = begin; row < end; ++row) {
      rows[row] = SumRow(a, b, row, scratch[thread]);
    }
  });
  return rows;
}

void SetFigures(const Sums& sums, int64_t num_elements, TensorDifference& difference) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  difference.clipped_share = static_cast<double>(sums.clipped) / static_cast<double>(num_elements);
  difference.equal = sums.error2 == 0;
  if (difference.equal) {
    difference.sqnr_db = kInfinity;
    return;
  }
  const bool zero_a = sums.a2 == 0;
  difference.relative_error = zero_a ? kInfinity : std::sqrt(sums.error2 / sums.a2);
  difference.sqnr_db = zero_a ? -kInfinity : 10 * std::log10(sums.a2 / sums.error2);
  difference.cosine =
      zero_a || sums.b2 == 0
          ? 0
          : std::clamp(sums.ab / (std::sqrt(sums.a2) * std::sqrt(sums.b2)), -1.0, 1.0);
}

class Comparer {
 public:
  Comparer(const std::filesystem::path& a, const std::filesystem::path& b, ThreadPool& threads)
      : a_(a), b_(b), threads_(threads) {
    result_.a = a_.name();
    result_.b = b_.name();
  }

  Comparison Run(const ComparisonProgress& progress);

 private:
  void Refuse(const std::string& name, std::string reason) {
    result_.uncompared.push_back({name, std::move(reason)});
  }
  // Names of tensors that both have and that can be compared; the others are listed.
  std::vector<std::string> Match();
  void Compare(const std::string& name);

  DequantizedCheckpoint a_;
  DequantizedCheckpoint b_;
  ThreadPool& threads_;
  Comparison result_;
};

std::vector<std::string> Comparer::Match() {
  std::vector<std::string> names;
  bool any = false;
  for (const auto& [name, a] : a_.tensors()) {
    const auto found = b_.tensors().find(name);
    if (found == b_.tensors().end()) {
      Refuse(name, StrCat("only in ", a_.name()));
      continue;
    }
    any = true;
    const DequantizedTensor& b = found->second;
    if (a.shape != b.shape) {
      Refuse(name, StrCat("shape ", ShapeText(a.shape), " in ", a_.name(), ", ", ShapeText(b.shape),
                          " in ", b_.name()));
    } else if (!a.unreadable.empty() || !b.unreadable.empty()) {
      Refuse(name, a.unreadable.empty() ? b.unreadable : a.unreadable);
    } else if (NumElements(a.shape) == 0) {
      Refuse(name, "no elements");
    } else {
      names.push_back(name);
    }
  }
  Check(any, ErrorCode::kInvalidArgument, a_.name(), " and ", b_.name(),
        " have no tensor in common by name");
  for (const auto& [name, b] : b_.tensors()) {
    if (!a_.tensors().contains(name)) {
      Refuse(name, StrCat("only in ", b_.name()));
    }
  }
  return names;
}

void Comparer::Compare(const std::string& name) {
  const DequantizedTensor& tensor = a_.tensors().at(name);
  const DequantizedRows a = a_.Open(name);
  const DequantizedRows b = b_.Open(name);
  const int64_t num_elements = NumElements(tensor.shape);
  const std::vector<Sums> rows = SumRows(a, b, num_elements / tensor.shape.back(), threads_);
  Sums total;
  for (size_t i = 0; i < rows.size(); ++i) {
    const Sums& row = rows[i];
    if (!row.finite_a || !row.finite_b) {
      Refuse(name,
             StrCat("NaN or infinity in row ", i, " in ", row.finite_a ? b_.name() : a_.name()));
      return;
    }
    total.a2 += row.a2;
    total.b2 += row.b2;
    total.ab += row.ab;
    total.error2 += row.error2;
    total.clipped += row.clipped;
  }
  TensorDifference difference{.name = name,
                              .shape = tensor.shape,
                              .format_a = tensor.format,
                              .format_b = b_.tensors().at(name).format};
  SetFigures(total, num_elements, difference);
  result_.tensors.push_back(std::move(difference));
}

Comparison Comparer::Run(const ComparisonProgress& progress) {
  const std::vector<std::string> names = Match();
  const auto elements = [this](const std::string& name) {
    return NumElements(a_.tensors().at(name).shape);
  };
  int64_t total = 0;
  for (const std::string& name : names) {
    total += elements(name);
  }
  int64_t done = 0;
  for (const std::string& name : names) {
    Compare(name);
    done += elements(name);
    if (progress) {
      progress(done, total);
    }
  }
  std::stable_sort(result_.tensors.begin(), result_.tensors.end(),
                   [](const TensorDifference& x, const TensorDifference& y) {
                     return x.relative_error > y.relative_error;
                   });
  std::sort(result_.uncompared.begin(), result_.uncompared.end(),
            [](const UncomparedTensor& x, const UncomparedTensor& y) { return x.name < y.name; });
  return std::move(result_);
}

}  // namespace

Comparison CompareCheckpoints(const std::filesystem::path& a, const std::filesystem::path& b,
                              ThreadPool& threads, const ComparisonProgress& progress) {
  return Comparer(a, b, threads).Run(progress);
}

}  // namespace dualfp
