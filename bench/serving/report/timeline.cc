#include "bench/serving/report/timeline.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

namespace dualfp {
namespace {

constexpr int kMaxBins = 120;
constexpr size_t kMaxDots = 4000;
constexpr int kDistributionPoints = 160;

// The run cut into equal parts of a round length.
class Bins {
 public:
  explicit Bins(double duration) {
    width_ = RoundStep(std::max(duration, 1e-3) / kMaxBins);
    count_ = static_cast<size_t>(std::max(1.0, std::ceil(duration / width_)));
  }

  double width() const { return width_; }
  size_t count() const { return count_; }
  size_t At(double seconds) const {
    return std::min(count_ - 1, static_cast<size_t>(std::max(0.0, seconds) / width_));
  }
  double Middle(size_t bin) const { return (static_cast<double>(bin) + 0.5) * width_; }

  std::vector<ChartPoint> Line(const std::vector<double>& values, double factor = 1) const {
    std::vector<ChartPoint> points;
    for (size_t bin = 0; bin < count_; ++bin) {
      points.push_back({Middle(bin), factor * values[bin]});
    }
    return points;
  }

 private:
  double width_ = 1;
  size_t count_ = 1;
};

ChartPanel Arrivals(const LoadResult& load, const Bins& bins) {
  std::vector<double> arrivals(bins.count());
  for (const RequestRecord& record : load.records) {
    arrivals[bins.At(record.planned)] += 1 / bins.width();
  }
  return {"Arrivals", {"requests/s"}, {{"", Colour::kInk, LayerKind::kArea, bins.Line(arrivals)}}};
}

ChartPanel InFlight(const LoadResult& load, const Bins& bins) {
  // Request-seconds in each bin, over its width.
  std::vector<double> running(bins.count());
  for (const RequestRecord& record : load.records) {
    const double end = record.start + record.latency;
    for (size_t bin = bins.At(record.start); bin <= bins.At(end); ++bin) {
      const double from = static_cast<double>(bin) * bins.width();
      const double overlap = std::min(end, from + bins.width()) - std::max(record.start, from);
      running[bin] += std::max(0.0, overlap) / bins.width();
    }
  }
  ChartPanel panel{
      "Requests", {}, {{"in flight", Colour::kSecond, LayerKind::kArea, bins.Line(running)}}};
  ChartLayer waiting{"waiting in the server", Colour::kBad, LayerKind::kLine, {}};
  for (const ServerSample& sample : load.samples) {
    waiting.points.push_back({sample.at, sample.waiting});
  }
  if (!waiting.points.empty()) {
    panel.layers.push_back(std::move(waiting));
  }
  return panel;
}

bool HasPrecisions(const LoadResult& load) {
  return load.samples.size() >= 2 && load.samples.front().fp8_layers.has_value();
}

// Rows computed a second, from the growth of the server's counters.
ChartPanel TokensByPrecisionPanel(const LoadResult& load, const Bins& bins) {
  constexpr std::pair<PrecisionClass, Colour> kOrder[] = {{PrecisionClass::kExact, Colour::kFp16},
                                                          {PrecisionClass::kMixed, Colour::kMixed},
                                                          {PrecisionClass::kFp8, Colour::kFp8}};
  ChartPanel panel{"Tokens computed, prompts included", {"tokens/s"}};
  for (const auto& [precision, colour] : kOrder) {
    const auto index = static_cast<size_t>(precision);
    std::vector<double> rate(bins.count());
    for (size_t i = 1; i < load.samples.size(); ++i) {
      const ServerSample& a = load.samples[i - 1];
      const ServerSample& b = load.samples[i];
      // Spread over the bins between the two readings.
      const auto grown = static_cast<double>(b.tokens[index] - a.tokens[index]);
      for (size_t bin = bins.At(a.at); bin <= bins.At(b.at) && b.at > a.at; ++bin) {
        const double from = static_cast<double>(bin) * bins.width();
        const double overlap = std::min(b.at, from + bins.width()) - std::max(a.at, from);
        rate[bin] += grown * std::max(0.0, overlap) / (b.at - a.at) / bins.width();
      }
    }
    panel.layers.push_back(
        {std::string(PrecisionClassName(precision)), colour, LayerKind::kStack, bins.Line(rate)});
  }
  return panel;
}

ChartPanel OutputTokens(const LoadResult& load, const Bins& bins) {
  std::vector<double> rate(bins.count());
  for (const RequestRecord& record : load.records) {
    double at = record.start + record.ttft;
    rate[bins.At(at)] += record.ok() ? 1 / bins.width() : 0;
    for (const double gap : record.itl) {
      rate[bins.At(at += gap)] += 1 / bins.width();
    }
  }
  return {"Output tokens", {"tokens/s"}, {{"", Colour::kFp16, LayerKind::kArea, bins.Line(rate)}}};
}

ChartPanel Fp8Layers(const LoadResult& load) {
  ChartPanel panel{"Layers in FP8", {"%"}, {{"", Colour::kFp8, LayerKind::kArea, {}}}};
  panel.y.to = 100;
  for (const ServerSample& sample : load.samples) {
    panel.layers[0].points.push_back({sample.at, 100 * sample.fp8_layers.value_or(0)});
  }
  return panel;
}

// Median and 99th percentile in each bin, of values stamped with their time.
class BinnedLatencies {
 public:
  explicit BinnedLatencies(const Bins& bins) : bins_(bins), values_(bins.count()) {}

  void Add(double at, double seconds) { values_[bins_.At(at)].push_back(seconds); }

  ChartLayer Layer(const char* name, Colour colour, double q) {
    std::vector<double> line;
    for (std::vector<double>& values : values_) {
      line.push_back(InterpolatedQuantile(values, q));  // a gap where there is none
    }
    return {name, colour, LayerKind::kLine, bins_.Line(line, 1e3)};
  }

 private:
  const Bins& bins_;
  std::vector<std::vector<double>> values_;
};

ChartPanel Ttft(const LoadResult& load, const Bins& bins, const Goodput& goodput) {
  ChartPanel panel{"Time to first token", {"ms"}};
  ChartLayer dots{"a request", Colour::kFp16, LayerKind::kPoints, {}};
  BinnedLatencies latencies(bins);
  for (const RequestRecord& record : load.records) {
    if (record.ok()) {
      dots.points.push_back({record.start, 1e3 * record.ttft});
      latencies.Add(record.start, record.ttft);
    }
  }
  if (dots.points.size() <= kMaxDots) {
    panel.layers.push_back(std::move(dots));
  } else {
    panel.layers.push_back(latencies.Layer("p99", Colour::kBad, 0.99));
  }
  panel.layers.push_back(latencies.Layer("median", Colour::kInk, 0.5));
  if (goodput.ttft) {
    panel.mark = {1e3 * *goodput.ttft, "goal"};
  }
  return panel;
}

ChartPanel Itl(const LoadResult& load, const Bins& bins, const Goodput& goodput) {
  BinnedLatencies latencies(bins);
  for (const RequestRecord& record : load.records) {
    double at = record.start + record.ttft;
    for (const double gap : record.itl) {
      latencies.Add(at += gap, gap);
    }
  }
  ChartPanel panel{"Inter-token latency", {"ms"}};
  panel.layers.push_back(latencies.Layer("p99", Colour::kBad, 0.99));
  panel.layers.push_back(latencies.Layer("median", Colour::kInk, 0.5));
  if (goodput.tpot) {
    panel.mark = {1e3 * *goodput.tpot, "goal"};
  }
  return panel;
}

}  // namespace

std::vector<ChartPanel> Timeline(const LoadResult& load, const Goodput& goodput) {
  const Bins bins(load.duration);
  std::vector<ChartPanel> panels = {Arrivals(load, bins), InFlight(load, bins)};
  if (HasPrecisions(load)) {
    panels.push_back(TokensByPrecisionPanel(load, bins));
    panels.push_back(Fp8Layers(load));
  } else {
    panels.push_back(OutputTokens(load, bins));
  }
  panels.push_back(Ttft(load, bins, goodput));
  panels.push_back(Itl(load, bins, goodput));
  return panels;
}

Distribution DrawDistribution(const std::string& title, std::vector<double> seconds) {
  Distribution distribution;
  distribution.x_end = 1e3 * std::max(1e-6, 1.05 * InterpolatedQuantile(seconds, 0.995));
  std::sort(seconds.begin(), seconds.end());
  distribution.panel.title = title;
  distribution.panel.y.title = "% of the sample";
  distribution.panel.y.to = 100;
  ChartLayer line{"", Colour::kFp16, LayerKind::kArea, {{0, 0}}};
  for (int i = 0; i <= kDistributionPoints; ++i) {
    const double share = static_cast<double>(i) / kDistributionPoints;
    const double value =
        1e3 * seconds[static_cast<size_t>(share * static_cast<double>(seconds.size() - 1))];
    if (value > distribution.x_end) {
      break;
    }
    line.points.push_back({value, 100 * share});
  }
  distribution.panel.layers.push_back(std::move(line));
  return distribution;
}

}  // namespace dualfp
