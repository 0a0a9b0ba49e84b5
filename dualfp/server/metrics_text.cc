#include "dualfp/server/metrics_text.h"

#include <dirent.h>
#include <fmt/format.h>
#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <iterator>

namespace dualfp {
namespace {

// Backslash, quote and line feed, as the format asks of a label's value.
std::string EscapeLabel(std::string_view value) {
  std::string escaped;
  for (const char c : value) {
    if (c == '\\' || c == '"') {
      escaped += '\\';
    }
    if (c == '\n') {
      escaped += "\\n";
    } else {
      escaped += c;
    }
  }
  return escaped;
}

std::string FormatValue(double value) {
  if (std::isnan(value)) {
    return "NaN";
  }
  if (std::isinf(value)) {
    return value > 0 ? "+Inf" : "-Inf";
  }
  return fmt::format("{}", value);
}

class TextRenderer : public MetricVisitor {
 public:
  explicit TextRenderer(std::string_view model_name)
      : model_label_(fmt::format("model_name=\"{}\"", EscapeLabel(model_name))) {}

  void Visit(std::string_view name, std::string_view help, MetricLabel label,
             const Counter& counter) override {
    Head(name, help, "counter");
    Sample(name, "", Labels(label), fmt::format("{}", counter.value()));
  }

  void Visit(std::string_view name, std::string_view help, MetricLabel label,
             const Gauge& gauge) override {
    Head(name, help, "gauge");
    Sample(name, "", Labels(label), FormatValue(gauge.value()));
  }

  void Visit(std::string_view name, std::string_view help, MetricLabel label,
             const Histogram& histogram) override {
    Head(name, help, "histogram");
    const Histogram::Snapshot snapshot = histogram.Read();
    const std::string labels = Labels(label);
    uint64_t cumulative = 0;
    for (size_t i = 0; i < snapshot.counts.size(); ++i) {
      cumulative += snapshot.counts[i];
      const std::string bound =
          i < snapshot.bounds.size() ? FormatValue(snapshot.bounds[i]) : "+Inf";
      Sample(name, "_bucket", fmt::format("{},le=\"{}\"", labels, bound),
             fmt::format("{}", cumulative));
    }
    Sample(name, "_sum", labels, FormatValue(snapshot.sum));
    Sample(name, "_count", labels, fmt::format("{}", cumulative));
  }

  std::string Take() { return std::move(out_); }

 private:
  std::string Labels(MetricLabel label) const {
    return label.first.empty()
               ? model_label_
               : fmt::format("{},{}=\"{}\"", model_label_, label.first, EscapeLabel(label.second));
  }

  void Head(std::string_view name, std::string_view help, std::string_view type) {
    if (name != last_name_) {
      fmt::format_to(std::back_inserter(out_), "# HELP dualfp:{0} {1}\n# TYPE dualfp:{0} {2}\n",
                     name, help, type);
      last_name_ = name;
    }
  }

  void Sample(std::string_view name, std::string_view suffix, std::string_view labels,
              std::string_view value) {
    fmt::format_to(std::back_inserter(out_), "dualfp:{}{}{{{}}} {}\n", name, suffix, labels, value);
  }

  std::string model_label_;
  std::string last_name_;
  std::string out_;
};

void RenderHttp(const HttpMetrics& http, MetricVisitor& visitor) {
  const auto plain = [&](std::string_view name, std::string_view help, const auto& metric) {
    visitor.Visit(name, help, MetricLabel{}, metric);
  };
  plain("http_connections", "Open connections.", http.connections);
  plain("http_connections_refused_total", "Connections answered with 503 for want of a place.",
        http.connections_refused_total);
  plain("http_connections_evicted_total", "Idle connections closed to make place.",
        http.connections_evicted_total);
  plain("http_slow_readers_total", "Streams cancelled because the client did not read them.",
        http.slow_readers_total);
  static constexpr std::string_view kClasses[] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};
  for (int i = 0; i < 6; ++i) {
    visitor.Visit("http_responses_total", "Answers, by status.", {"status", kClasses[i]},
                  http.responses_total[i]);
  }
}

int64_t ResidentBytes() {
  int64_t total = 0;
  int64_t resident = 0;
  if (FILE* file = std::fopen("/proc/self/statm", "r")) {
    if (std::fscanf(file, "%ld %ld", &total, &resident) != 2) {
      resident = 0;
    }
    std::fclose(file);
  }
  return resident * sysconf(_SC_PAGESIZE);
}

int64_t OpenDescriptors() {
  int64_t count = 0;
  if (DIR* directory = opendir("/proc/self/fd")) {
    while (readdir(directory) != nullptr) {
      ++count;
    }
    closedir(directory);
    count -= 3;  // ".", ".." and the directory itself
  }
  return count;
}

}  // namespace

std::string RenderMetrics(const EngineMetrics* engine, std::string_view model_name,
                          const HttpMetrics& http) {
  TextRenderer renderer(model_name);
  if (engine != nullptr) {
    engine->ForEach(renderer);
  }
  RenderHttp(http, renderer);
  // Every exporter has these, under these names.
  return renderer.Take() +
         fmt::format(
             "# HELP process_resident_memory_bytes Resident memory of the process.\n"
             "# TYPE process_resident_memory_bytes gauge\n"
             "process_resident_memory_bytes {}\n"
             "# HELP process_open_fds Open file descriptors.\n"
             "# TYPE process_open_fds gauge\n"
             "process_open_fds {}\n",
             ResidentBytes(), OpenDescriptors());
}

}  // namespace dualfp
