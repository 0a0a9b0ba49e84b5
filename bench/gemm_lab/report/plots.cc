#include "bench/gemm_lab/report/plots.h"

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <system_error>
#include <tuple>
#include <utility>

#include "bench/charts/panels.h"
#include "bench/gemm_lab/report/formats.h"
#include "dualfp/base/check.h"
#include "dualfp/io/file.h"

namespace dualfp {
namespace {

// Speeds are drawn from here, since those of interest are about 1.
constexpr double kLeastSpeed = 0.6;

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
ChartPanel RatePanel(const std::map<int, GemmRecord>& points, const Ceilings& ceilings,
                     const std::string& title, const std::string& axis, double unit,
                     const Amount& amount) {
  ChartLayer roofline{"roofline", Colour::kMuted, LayerKind::kDashedLine};
  ChartLayer theirs{BaselineTitle(points.begin()->second.format), SeriesColour(1),
                    LayerKind::kMarkedLine};
  ChartLayer ours{"dualfp", SeriesColour(0), LayerKind::kMarkedLine};
  ChartLayer quantized{"dualfp with quantization of X", SeriesColour(4), LayerKind::kMarkedLine};
  for (const auto& [m, record] : points) {
    const double scaled = amount(record) * unit;
    const double x = m;
    ours.points.push_back({x, scaled / record.microseconds});
    if (record.cublaslt_microseconds > 0) {
      theirs.points.push_back({x, scaled / record.cublaslt_microseconds});
    }
    if (record.with_quantize_microseconds > 0) {
      quantized.points.push_back({x, scaled / record.with_quantize_microseconds});
    }
  }
  GemmRecord ideal = points.begin()->second;
  const int last = points.rbegin()->first;
  const int first = ideal.m;
  const int steps = static_cast<int>(std::ceil(kRooflineSteps * std::log2(1.0 * last / first)));
  for (int step = 0; step <= steps; ++step) {
    ideal.m =
        std::min(last, static_cast<int>(std::lround(first * std::exp2(step / kRooflineSteps))));
    roofline.points.push_back({static_cast<double>(ideal.m),
                               amount(ideal) * unit / RooflineMicroseconds(ideal, ceilings)});
  }
  ChartPanel panel{title, {axis, ScaleKind::kLog10}, {roofline, theirs, ours}};
  if (!quantized.points.empty()) {
    panel.layers.push_back(quantized);
  }
  return panel;
}

std::string Draw(const std::vector<ChartPanel>& panels) {
  ChartLayout layout;
  layout.x = {"M (tokens)", ScaleKind::kLog2};
  layout.columns = panels.size();
  layout.width = panels.size() == 1 ? 720 : 940;
  layout.panel_height = 260;
  return DrawPanels(panels, layout).File();
}

}  // namespace

std::string FormatTitle(const std::string& format) {
  const GemmFormat* known = FindFormat(format);
  return known != nullptr ? known->title : format;
}

std::string BaselineTitle(const std::string& format) {
  const GemmFormat* known = FindFormat(format);
  return known != nullptr ? known->baseline : "cuBLASLt";
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
  std::map<std::pair<bool, std::string>, std::vector<ChartLayer>> lines;
  for (const auto& [key, points] : Group(records)) {
    const auto& [fp8, format, n, k] = key;
    std::vector<ChartLayer>& others = lines[{fp8, format}];
    ChartLayer line{fmt::format("{} x {}", n, k), SeriesColour(others.size()),
                    LayerKind::kMarkedLine};
    for (const auto& [m, record] : points) {
      if (record.cublaslt_microseconds > 0) {
        line.points.push_back({static_cast<double>(m), record.Speed()});
      }
    }
    if (!line.points.empty()) {
      others.push_back(std::move(line));
    }
  }
  std::vector<Plot> plots;
  for (auto& [key, layers] : lines) {
    const auto& [fp8, format] = key;
    if (layers.empty()) {
      continue;
    }
    ChartPanel panel;
    panel.title = fmt::format("{}: speed over {}", FormatTitle(format), BaselineTitle(format));
    panel.y = {"its time / dualfp's"};
    panel.y.from = kLeastSpeed;
    panel.mark = {1.0, ""};
    panel.layers = std::move(layers);
    plots.push_back({format + "_speed.svg", panel.title, Draw({panel})});
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
    plot.svg = Draw({RatePanel(points, ceilings, plot.title, "TFLOP/s", 1e-6,
                               [](const GemmRecord& record) { return record.Operations(); }),
                     RatePanel(points, ceilings, "The same, each operand counted once", "GB/s",
                               1e-3, [](const GemmRecord& record) { return record.Bytes(); })});
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
