#include "apps/gemm_plots.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <system_error>
#include <tuple>
#include <utility>

#include "apps/plot_lines.h"
#include "dualfp/base/check.h"
#include "dualfp/io/file.h"

namespace dualfp {
namespace {

constexpr const char* kRooflineColour = "#999999";

// By format (FP16 before FP8), N, K; each by M. A later record of a point replaces an earlier one.
using Series = std::map<std::tuple<bool, std::string, int, int>, std::map<int, GemmRecord>>;

Series Group(const std::vector<GemmRecord>& records) {
  Series series;
  for (const GemmRecord& record : records) {
    series[{IsFp8(record.format), record.format, record.n, record.k}][record.m] = record;
  }
  return series;
}

// Points of a roofline to each doubling of M: its bend lies between batch sizes.
constexpr double kRooflineSteps = 8;

// The least time for the operations and the bytes.
double RooflineMicroseconds(const GemmRecord& record, const Ceilings& ceilings) {
  return std::max(record.Operations() / ceilings.FlopPerMicrosecond(record.format),
                  record.Bytes() / ceilings.bytes_per_microsecond);
}

// `amount` a microsecond, times `unit`, over M.
template <class Amount>
LineChart RateChart(const std::map<int, GemmRecord>& points, const Ceilings& ceilings,
                    const std::string& title, const std::string& axis, double unit,
                    const Amount& amount) {
  Line ours{"dualfp", LineColour(0)};
  Line theirs{IsFp8(points.begin()->second.format) ? "cuBLASLt FP8" : "cuBLASLt FP16",
              LineColour(1)};
  Line quantized{"dualfp with quantization of X", LineColour(4)};
  Line roofline{"roofline", kRooflineColour, /*dashed=*/true, /*markers=*/false};
  for (const auto& [m, record] : points) {
    const double scaled = amount(record) * unit;
    ours.points.emplace_back(m, scaled / record.microseconds);
    if (record.cublaslt_microseconds > 0) {
      theirs.points.emplace_back(m, scaled / record.cublaslt_microseconds);
    }
    if (record.with_quantize_microseconds > 0) {
      quantized.points.emplace_back(m, scaled / record.with_quantize_microseconds);
    }
  }
  GemmRecord ideal = points.begin()->second;
  const int last = points.rbegin()->first;
  const int first = ideal.m;
  const int steps = static_cast<int>(std::ceil(kRooflineSteps * std::log2(1.0 * last / first)));
  for (int step = 0; step <= steps; ++step) {
    ideal.m =
        std::min(last, static_cast<int>(std::lround(first * std::exp2(step / kRooflineSteps))));
    roofline.points.emplace_back(ideal.m,
                                 amount(ideal) * unit / RooflineMicroseconds(ideal, ceilings));
  }
  LineChart chart{title, "M (tokens)", axis};
  chart.lines = {roofline, theirs, ours};
  if (!quantized.points.empty()) {
    chart.lines.push_back(quantized);
  }
  return chart;
}

}  // namespace

std::string FormatTitle(const std::string& format) {
  return format == "fp8" ? "FP8" : format == "nested" ? "NestedFP16" : format;
}

Ceilings CompleteCeilings(Ceilings ceilings, const std::vector<GemmRecord>& records) {
  Ceilings highest;
  for (const GemmRecord& record : records) {
    double& rate =
        IsFp8(record.format) ? highest.fp8_flop_per_microsecond : highest.fp16_flop_per_microsecond;
    for (const double microseconds : {record.microseconds, record.cublaslt_microseconds}) {
      if (microseconds > 0) {
        rate = std::max(rate, record.Operations() / microseconds);
        highest.bytes_per_microsecond =
            std::max(highest.bytes_per_microsecond, record.Bytes() / microseconds);
      }
    }
  }
  const auto fill = [](double& known, double seen) { known = std::max({known, seen, 1e-9}); };
  fill(ceilings.bytes_per_microsecond, highest.bytes_per_microsecond);
  fill(ceilings.fp16_flop_per_microsecond, highest.fp16_flop_per_microsecond);
  fill(ceilings.fp8_flop_per_microsecond, highest.fp8_flop_per_microsecond);
  return ceilings;
}

std::vector<Plot> SpeedPlots(const std::vector<GemmRecord>& records) {
  std::map<std::pair<bool, std::string>, LineChart> charts;
  for (const auto& [key, points] : Group(records)) {
    const auto& [fp8, format, n, k] = key;
    LineChart& chart = charts[{fp8, format}];
    Line line{fmt::format("{} x {}", n, k), LineColour(chart.lines.size())};
    for (const auto& [m, record] : points) {
      if (record.cublaslt_microseconds > 0) {
        line.points.emplace_back(m, record.Speed());
      }
    }
    if (!line.points.empty()) {
      chart.lines.push_back(line);
    }
  }
  std::vector<Plot> plots;
  for (auto& [key, chart] : charts) {
    const auto& [fp8, format] = key;
    if (chart.lines.empty()) {
      continue;
    }
    const char* baseline = fp8 ? "cuBLASLt FP8" : "cuBLASLt FP16";
    chart.title = fmt::format("{}: speed over {}", FormatTitle(format), baseline);
    chart.x_axis = "M (tokens)";
    chart.y_axis = "cuBLASLt's time / dualfp's";
    chart.log_y = false;
    chart.least = 0.6;
    chart.mark = 1.0;
    plots.push_back({format + "_speed.svg", chart.title, DrawLineCharts({chart})});
  }
  return plots;
}

std::vector<Plot> RatePlots(const std::vector<GemmRecord>& records, const Ceilings& ceilings) {
  std::vector<Plot> plots;
  for (const auto& [key, points] : Group(records)) {
    const auto& [fp8, format, n, k] = key;
    Plot plot;
    plot.file = fmt::format("{}_{}_{}.svg", format, n, k);
    plot.title = fmt::format("{}, N {}, K {}", FormatTitle(format), n, k);
    // Operations a microsecond are 1e-6 TFLOP/s, bytes a microsecond 1e-3 GB/s.
    plot.svg = DrawLineCharts(
        {RateChart(points, ceilings, plot.title, "TFLOP/s", 1e-6,
                   [](const GemmRecord& record) { return record.Operations(); }),
         RateChart(points, ceilings, "The same: bandwidth, each operand counted once", "GB/s", 1e-3,
                   [](const GemmRecord& record) { return record.Bytes(); })});
    plots.push_back(std::move(plot));
  }
  return plots;
}

void WritePlots(const std::filesystem::path& folder, const std::vector<Plot>& plots) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  Check(!error, ErrorCode::kIo, folder.string(), ": cannot be made: ", error.message());
  for (const Plot& plot : plots) {
    WriteFileAtomically(folder / plot.file, plot.svg);
  }
}

}  // namespace dualfp
