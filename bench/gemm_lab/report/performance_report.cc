#include "bench/gemm_lab/report/performance_report.h"

#include <fmt/core.h>

#include <algorithm>
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <tuple>

#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/report/record_file.h"
#include "bench/gemm_lab/report/shapes.h"

namespace dualfp {
namespace {

const std::set<int> kTenM = {1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
const std::set<int> kOddM = {48, 96, 192, 320, 384, 640, 1536};
const std::set<std::string> kInFigures = {"nested", "fp8"};  // formats that Figures() is about
constexpr int kSmallM = 64;
constexpr int kLargeM = 1024;

bool IsSummaryShape(const GemmRecord& record) {
  const std::vector<GemmShape> shapes = SummaryShapes();
  return std::any_of(shapes.begin(), shapes.end(), [&](const GemmShape& shape) {
    return shape.n == record.n && shape.k == record.k;
  });
}

// A line of the summary.
struct Figure {
  std::string name;
  GeometricMean measured;
};

std::string ToText(const Figure& figure) {
  const GeometricMean& s = figure.measured;
  return fmt::format("| {} | {} | **{:.3f}** | {:.3f} |\n", figure.name, s.count(), s.Mean(),
                     s.worst());
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
      {"NestedFP16 ÷ cuBLASLt FP16, M = 1 … 4096", SpeedOver(records.points, "nested", ten)},
      {"the same, M ≤ 64", SpeedOver(records.points, "nested", small)},
      {"the same, M = 48, 96, 192, 320, 384, 640, 1536", SpeedOver(records.points, "nested", odd)},
      {"FP8 ÷ cuBLASLt FP8, M = 1 … 4096", SpeedOver(records.points, "fp8", ten)},
      {"the same, M = 48, 96, 192, 320, 384, 640, 1536", SpeedOver(records.points, "fp8", odd)},
      {"FP8 with quantization of X ÷ cuBLASLt FP16", QuantizedOverFp16(records.points)},
      {"quantization of X per token ÷ copy bandwidth, M ≥ 1024",
       QuantizationShare(records.others)}};
  for (const ModelQuality& q : quality) {
    figures.push_back(
        {fmt::format("cost model's choice ÷ best plan, {}, unseen shapes", FormatTitle(q.format)),
         q.unseen});
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

// The points of each format's largest weight, FP16 before FP8.
std::vector<std::vector<GemmRecord>> LargestWeights(const std::vector<GemmRecord>& points) {
  std::map<std::pair<bool, std::string>, std::vector<GemmRecord>> by_format;
  for (const GemmRecord& point : points) {
    std::vector<GemmRecord>& kept = by_format[{IsFp8(point.format), point.format}];
    const auto weight = [](const GemmRecord& r) {
      return std::tuple(int64_t{r.n} * r.k, r.n);  // N tells weights of one size apart
    };
    if (!kept.empty() && weight(point) > weight(kept.front())) {
      kept.clear();
    }
    if (kept.empty() || weight(point) == weight(kept.front())) {
      kept.push_back(point);
    }
  }
  std::vector<std::vector<GemmRecord>> all;
  all.reserve(by_format.size());
  for (auto& [format, kept] : by_format) {
    all.push_back(std::move(kept));
  }
  return all;
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
  text += "## Summary\n\n| | points | mean | worst |\n|---|--:|--:|--:|\n";
  for (const Figure& figure : Figures(records, quality)) {
    text += ToText(figure);
  }
  for (const GemmFormat& format : GemmFormats()) {
    const GeometricMean speed =
        SpeedOver(records.points, format.name, [](int /*m*/) { return true; });
    if (!kInFigures.contains(format.name) && speed.count() > 0) {
      text += ToText({fmt::format("{} ÷ {}", format.title, format.baseline), speed});
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

  text += "\nBelow is the largest weight of each format; the records have the others.\n";
  for (std::vector<GemmRecord>& points : LargestWeights(records.points)) {
    std::sort(points.begin(), points.end(),
              [](const GemmRecord& a, const GemmRecord& b) { return a.m < b.m; });
    const GemmRecord& first = points.front();
    text += fmt::format("\n## {}, N {}, K {}\n\n", FormatTitle(first.format), first.n, first.k);
    // Promoted sums do FP8's operations on FP8's bytes: one roofline shows both.
    if (FormatByName(first.format).weights != sm90::WeightFormat::kE4m3Promoted) {
      const Plot plot = RatePlots(points, ceilings).front();
      text += fmt::format("![{}]({}/{})\n\n", plot.title, plots, plot.file);
      report.plots.push_back(plot);
    }
    text += PointTable(points);
  }

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
