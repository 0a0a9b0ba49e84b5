#include "apps/compare_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <string_view>

#include "bench/charts/bars.h"

namespace dualfp {
namespace {

// As many bars as a page shows.
constexpr size_t kMostBars = 40;

int64_t NumEqual(const Comparison& comparison) {
  return std::count_if(comparison.tensors.begin(), comparison.tensors.end(),
                       [](const TensorDifference& tensor) { return tensor.equal; });
}

std::string FolderName(const std::string& directory) {
  std::filesystem::path path = std::filesystem::path(directory).lexically_normal();
  if (!path.has_filename()) {
    path = path.parent_path();
  }
  return path.filename().string();
}

std::string ModuleOf(const std::string& tensor) {
  constexpr std::string_view kSuffix = ".weight";
  return tensor.ends_with(kSuffix) ? tensor.substr(0, tensor.size() - kSuffix.size()) : tensor;
}

Json Finite(double value) { return std::isfinite(value) ? Json(value) : Json(); }

}  // namespace

void PrintComparison(const Comparison& comparison) {
  size_t width = 6;
  size_t a_width = 4;
  size_t b_width = 2;
  for (const TensorDifference& tensor : comparison.tensors) {
    width = std::max(width, tensor.name.size());
    a_width = std::max(a_width, tensor.format_a.size());
    b_width = std::max(b_width, tensor.format_b.size());
  }
  fmt::print("{:<{}}  {:<{}}  {:<{}}  {:>9}  {:>8}  {:>9}  {:>12}\n", "tensor", width, "from",
             a_width, "to", b_width, "error", "SQNR, dB", "clipped", "cosine");
  for (const TensorDifference& tensor : comparison.tensors) {
    fmt::print("{:<{}}  {:<{}}  {:<{}}  {:>9.3e}  {:>8.2f}  {:>7.4f} %  {:>12.9f}\n", tensor.name,
               width, tensor.format_a, a_width, tensor.format_b, b_width, tensor.relative_error,
               tensor.sqnr_db, 100 * tensor.clipped_share, tensor.cosine);
  }
  for (const UncomparedTensor& tensor : comparison.uncompared) {
    fmt::print("not compared: {}: {}\n", tensor.name, tensor.reason);
  }
  fmt::print("{} against {}: {} tensors, {} of them equal; {} not compared\n", comparison.b,
             comparison.a, comparison.tensors.size(), NumEqual(comparison),
             comparison.uncompared.size());
}

Json ComparisonJson(const Comparison& comparison) {
  Json json;
  json["a"] = comparison.a;
  json["b"] = comparison.b;
  json["equal"] = NumEqual(comparison);
  json["tensors"] = Json::array();
  for (const TensorDifference& tensor : comparison.tensors) {
    json["tensors"].push_back({{"name", tensor.name},
                               {"shape", tensor.shape},
                               {"format_a", tensor.format_a},
                               {"format_b", tensor.format_b},
                               {"relative_error", Finite(tensor.relative_error)},
                               {"sqnr_db", Finite(tensor.sqnr_db)},
                               {"clipped_share", tensor.clipped_share},
                               {"cosine", tensor.cosine},
                               {"equal", tensor.equal}});
  }
  json["uncompared"] = Json::array();
  for (const UncomparedTensor& tensor : comparison.uncompared) {
    json["uncompared"].push_back({{"name", tensor.name}, {"reason", tensor.reason}});
  }
  return json;
}

std::string DrawComparison(const Comparison& comparison) {
  BarChart chart;
  chart.title = fmt::format("{} against {}", FolderName(comparison.b), FolderName(comparison.a));
  chart.axis = "relative error of a tensor (Frobenius norm)";
  chart.groups.resize(1);
  for (const TensorDifference& tensor : comparison.tensors) {
    if (tensor.equal || chart.groups[0].size() == kMostBars) {
      break;
    }
    const double error = tensor.relative_error;
    chart.groups[0].push_back({ModuleOf(tensor.name), error, error, error});
  }
  return DrawBars(chart).File();
}

}  // namespace dualfp
