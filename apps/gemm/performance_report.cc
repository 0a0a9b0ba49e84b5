#include "apps/gemm/performance_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "apps/gemm/formats.h"
#include "apps/gemm/record_file.h"
#include "apps/gemm/shapes.h"

namespace dualfp {
namespace {

const std::set<int> kTenM = {1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
const std::set<int> kOddM = {48, 96, 192, 320, 384, 640, 1536};
const std::set<std::string> kWanted = {"nested", "fp8"};  // formats that Figures() is about
constexpr int kSmallM = 64;
constexpr int kLargeM = 1024;

bool IsSummaryShape(const GemmRecord& record) {
  const std::vector<GemmShape> shapes = SummaryShapes();
  return std::any_of(shapes.begin(), shapes.end(), [&](const GemmShape& shape) {
    return shape.n == record.n && shape.k == record.k;
  });
}

// A line of the summary: what was measured beside what is wanted.
struct Figure {
  std::string name;
  GeometricMean measured;
  double must = 0;
  double must_worst = 0;  // 0: no bound
  double aim = 0;
};

std::string ToText(const Figure& figure) {
  const GeometricMean& s = figure.measured;
  const bool met = s.Mean() >= figure.must && s.worst() >= figure.must_worst;
  std::string wanted = fmt::format("≥ {:.2f}", figure.must);
  if (figure.must_worst > 0) {
    wanted += fmt::format(", none < {:.2f}", figure.must_worst);
  }
  return fmt::format("| {} | {} | **{:.3f}** | {:.3f} | {} | ≥ {:.2f} | {} |\n", figure.name,
                     s.count(), s.Mean(), s.worst(), wanted, figure.aim,
                     !met                     ? "no"
                     : s.Mean() >= figure.aim ? "yes, and the aim"
                                              : "yes");
}

// A line for a format that has no wanted figures.
std::string ToText(const GemmFormat& format, const GeometricMean& speed) {
  return fmt::format("| {} ÷ {} | {} | **{:.3f}** | {:.3f} | | | |\n", format.title,
                     format.baseline, speed.count(), speed.Mean(), speed.worst());
}

GeometricMean SpeedOver(const std::vector<GemmRecord>& points, const std::string& format,
                        const std::function<bool(int)>& wanted) {
  GeometricMean speed;
  for (const GemmRecord& point : points) {
    if (point.format == format && point.cublaslt_microseconds > 0 && IsSummaryShape(point) &&
        wanted(point.m)) {
      speed.Add(point.Speed());
    }
  }
  return speed;
}

// FP8 including quantization against cuBLASLt in FP16 at the same points.
GeometricMean QuantizedOverFp16(const std::vector<GemmRecord>& points) {
  std::map<std::tuple<int, int, int>, double> fp16;
  for (const GemmRecord& point : points) {
    if (point.format == "nested") {
      fp16[{point.n, point.k, point.m}] = point.cublaslt_microseconds;
    }
  }
  GeometricMean speed;
  for (const GemmRecord& point : points) {
    const auto baseline = fp16.find({point.n, point.k, point.m});
    if (point.format == "fp8" && point.with_quantize_microseconds > 0 && IsSummaryShape(point) &&
        kTenM.contains(point.m) && baseline != fp16.end() && baseline->second > 0) {
      speed.Add(baseline->second / point.with_quantize_microseconds);
    }
  }
  return speed;
}

GeometricMean QuantizationShare(const std::vector<Json>& records) {
  GeometricMean share;
  for (const Json& record : records) {
    if (record.value("kind", "") == "quantize" && record.value("source", "") == "plain" &&
        record.value("m", 0) >= kLargeM) {
      share.Add(record.value("of_copy", 0.0));
    }
  }
  return share;
}

std::vector<Figure> Figures(const PerformanceRecords& records,
                            const std::vector<ModelQuality>& quality) {
  const auto ten = [](int m) { return kTenM.contains(m); };
  const auto odd = [](int m) { return kOddM.contains(m); };
  const auto small = [&](int m) { return ten(m) && m <= kSmallM; };
  std::vector<Figure> figures = {
      {"NestedFP16 ÷ cuBLASLt FP16, M = 1 … 4096", SpeedOver(records.points, "nested", ten), 0.97,
       0.90, 1.00},
      {"the same, M ≤ 64", SpeedOver(records.points, "nested", small), 1.00, 0, 1.05},
      {"the same, M = 48, 96, 192, 320, 384, 640, 1536", SpeedOver(records.points, "nested", odd),
       0.97, 0.90, 1.00},
      {"FP8 ÷ cuBLASLt FP8, M = 1 … 4096", SpeedOver(records.points, "fp8", ten), 1.00, 0.92, 1.05},
      {"the same, M = 48, 96, 192, 320, 384, 640, 1536", SpeedOver(records.points, "fp8", odd),
       1.00, 0.92, 1.05},
      {"FP8 with quantization of X ÷ cuBLASLt FP16", QuantizedOverFp16(records.points), 1.50, 0,
       1.75},
      {"quantization of X per token ÷ copy bandwidth, M ≥ 1024", QuantizationShare(records.others),
       0.75, 0, 0.85}};
  for (const ModelQuality& q : quality) {
    figures.push_back(
        {fmt::format("cost model's choice ÷ best plan, {}, unseen shapes", FormatTitle(q.format)),
         q.unseen, 0.90, 0, 0.95});
  }
  std::erase_if(figures, [](const Figure& figure) { return figure.measured.count() == 0; });
  return figures;
}

std::string Scalar(const Json& value) {
  if (value.is_string()) {
    return value.get<std::string>();
  }
  return value.is_number_float() ? fmt::format("{:.4g}", value.get<double>()) : value.dump();
}

std::string Machine(const std::vector<Json>& runs) {
  std::string text;
  for (const Json& run : runs) {
    std::string line;
    for (const auto& [key, value] : run.items()) {
      if (key != "kind" && key != "command") {
        line += fmt::format("{}{} {}", line.empty() ? "" : ", ", key, Scalar(value));
      }
    }
    text += fmt::format("- {}; `{}`\n", line, Scalar(run.value("command", Json("-"))));
  }
  return text;
}

std::string PointTable(const std::vector<GemmRecord>& points) {
  const bool fp8 = IsFp8(points.front().format);
  std::string text = fmt::format(
      "| M | cuBLASLt µs | dualfp µs | speed | without overlap µs |{} TFLOP/s | GB/s | error | "
      "plan "
      "|\n|--:|--:|--:|--:|--:|{}--:|--:|--:|---|\n",
      fp8 ? " with quantization µs |" : "", fp8 ? "--:|" : "");
  const auto time = [](double us) { return us > 0 ? fmt::format("{:.2f}", us) : std::string("-"); };
  for (const GemmRecord& p : points) {
    text += fmt::format("| {} | {} | {:.2f} | {} | {} |{} {:.0f} | {:.0f} | {:.1e} | `{}` |\n", p.m,
                        time(p.cublaslt_microseconds), p.microseconds,
                        p.cublaslt_microseconds > 0 ? fmt::format("{:.3f}", p.Speed()) : "-",
                        time(p.no_overlap_microseconds),
                        fp8 ? fmt::format(" {} |", time(p.with_quantize_microseconds)) : "",
                        p.Operations() / p.microseconds * 1e-6, p.Bytes() / p.microseconds * 1e-3,
                        p.error, p.plan);
  }
  return text;
}

// Records of one kind: a column for each of the first one's members.
std::string GenericTable(const std::vector<Json>& records) {
  std::string header = "|";
  std::string rule = "|";
  for (const auto& [key, value] : records.front().items()) {
    if (key != "kind") {
      header += fmt::format(" {} |", key);
      rule += value.is_number() ? "--:|" : "---|";
    }
  }
  std::string text = header + "\n" + rule + "\n";
  for (const Json& record : records) {
    text += "|";
    for (const auto& [key, value] : records.front().items()) {
      if (key != "kind") {
        text += fmt::format(" {} |", record.contains(key) ? Scalar(record[key]) : "-");
      }
    }
    text += "\n";
  }
  return text;
}

std::string KindTitle(const std::string& kind) {
  return kind == "quantize" ? "Quantization of activations"
         : kind == "planes" ? "Preparation of planes"
                            : kind;
}

}  // namespace

PerformanceRecords ReadPerformanceRecords(const std::vector<std::filesystem::path>& files) {
  PerformanceRecords records;
  records.files = files;
  std::map<std::tuple<std::string, int, int, int>, size_t> places;
  for (const std::filesystem::path& file : files) {
    ReadRecords(file, [&](const JsonFields& fields) {
      const std::string kind = fields.GetString("kind");
      if (kind == "run") {
        const std::string gpu = fields.GetString("gpu");
        if (!records.runs.empty() && records.runs.front()["gpu"] != gpu) {
          fields.FailField("gpu", "the other records are of another GPU");
        }
        records.runs.push_back(fields.json());
      } else if (kind == "point") {
        const GemmRecord record = ParseGemmRecord(fields);
        const auto [place, added] = places.try_emplace(
            std::tuple(record.format, record.n, record.k, record.m), records.points.size());
        if (added) {
          records.points.push_back(record);
        } else {
          records.points[place->second] = record;
        }
      } else if (kind == "ceilings") {
        constexpr double kMax = 1e9;
        records.ceilings = {fields.GetNumber("copy_tb_s", 0, kMax) * 1e6,
                            fields.GetNumber("fp16_tflop_s", 0, kMax) * 1e6,
                            fields.GetNumber("fp8_tflop_s", 0, kMax) * 1e6};
      } else if (kind != "tuned" && kind != "failed" && kind != "candidate") {
        records.others.push_back(fields.json());
      }
    });
  }
  return records;
}

Report MakePerformanceReport(const PerformanceRecords& records,
                             const std::vector<ModelQuality>& quality, const std::string& plots,
                             const std::string& command) {
  Report report;
  std::string& text = report.markdown;
  text = fmt::format("# GPU performance\n\nWritten by `{}`; do not edit.\n\n", command);
  text +=
      "Speeds are cuBLASLt's time over dualfp's: above 1, dualfp is faster. Both ran in one "
      "process,\n"
      "in turn, as replays of CUDA graphs over weights that L2 cannot hold; cuBLASLt is the "
      "fastest\n"
      "of 8 of its heuristics. Means are geometric, over the six weights below.\n\n";
  text +=
      "## Summary\n\n| | points | mean | worst | wanted | aim | met "
      "|\n|---|--:|--:|--:|---|---|---|\n";
  for (const Figure& figure : Figures(records, quality)) {
    text += ToText(figure);
  }
  for (const GemmFormat& format : GemmFormats()) {
    const GeometricMean speed =
        SpeedOver(records.points, format.name, [](int /*m*/) { return true; });
    if (!kWanted.contains(format.name) && speed.count() > 0) {
      text += ToText(format, speed);
    }
  }
  for (const ModelQuality& q : quality) {
    text += fmt::format(
        "\nCost model, {}: {:.3f} of the best plan on the {} points it was fitted to (worst "
        "{:.3f}), "
        "{:.3f} on {} others (worst {:.3f}); {} of its choices were not among the timed plans, "
        "where "
        "its best timed one counts.\n",
        FormatTitle(q.format), q.seen.Mean(), q.seen.count(), q.seen.worst(), q.unseen.Mean(),
        q.unseen.count(), q.unseen.worst(), q.untimed);
  }

  const Ceilings ceilings = CompleteCeilings(records.ceilings, records.points);
  std::vector<GemmRecord> six;
  std::copy_if(records.points.begin(), records.points.end(), std::back_inserter(six),
               IsSummaryShape);
  report.plots = SpeedPlots(six);
  text += "\n";
  for (const Plot& plot : report.plots) {
    text += fmt::format("![{}]({}/{})\n", plot.title, plots, plot.file);
  }
  text += "\n## Machine\n\n" + Machine(records.runs);
  text += fmt::format(
      "\nThe roofline in the plots: {:.2f} TB/s, {:.0f} TFLOP/s in FP16, {:.0f} in FP8{}.\n",
      ceilings.bytes_per_microsecond * 1e-6, ceilings.fp16_flop_per_microsecond * 1e-6,
      ceilings.fp8_flop_per_microsecond * 1e-6,
      records.ceilings.bytes_per_microsecond > 0
          ? ", the higher of a copy kernel or 8192 x 8192 x 8192 by cuBLASLt and of any point"
          : ": the highest rates among the points");

  // In the plots' order: FP16 before FP8.
  std::map<std::tuple<bool, std::string, int, int>, std::vector<GemmRecord>> groups;
  for (const GemmRecord& point : records.points) {
    groups[{IsFp8(point.format), point.format, point.n, point.k}].push_back(point);
  }
  std::vector<Plot> rates = RatePlots(records.points, ceilings);
  std::string last;
  size_t index = 0;
  for (auto& [key, points] : groups) {
    const auto& [fp8, format, n, k] = key;
    std::sort(points.begin(), points.end(),
              [](const GemmRecord& a, const GemmRecord& b) { return a.m < b.m; });
    if (format != last) {
      text += fmt::format("\n## {}\n", FormatTitle(format));
      last = format;
    }
    const Plot& plot = rates[index++];
    text += fmt::format("\n### N {}, K {}\n\n![{}]({}/{})\n\n{}", n, k, plot.title, plots,
                        plot.file, PointTable(points));
  }
  std::move(rates.begin(), rates.end(), std::back_inserter(report.plots));

  std::map<std::string, std::vector<Json>> kinds;
  for (const Json& record : records.others) {
    kinds[record["kind"].get<std::string>()].push_back(record);
  }
  for (const auto& [kind, others] : kinds) {
    text += fmt::format("\n## {}\n\n{}", KindTitle(kind), GenericTable(others));
  }
  return report;
}

}  // namespace dualfp
