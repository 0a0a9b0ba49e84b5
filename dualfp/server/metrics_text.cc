#include "dualfp/server/metrics_text.h"

#include <dirent.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <iterator>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"

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
  TextRenderer(std::string_view prefix, std::string_view model_name)
      : prefix_(prefix), model_label_(fmt::format("model_name=\"{}\"", EscapeLabel(model_name))) {}

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
      fmt::format_to(std::back_inserter(out_), "# HELP {0}:{1} {2}\n# TYPE {0}:{1} {3}\n", prefix_,
                     name, help, type);
      last_name_ = name;
    }
  }

  void Sample(std::string_view name, std::string_view suffix, std::string_view labels,
              std::string_view value) {
    fmt::format_to(std::back_inserter(out_), "{}:{}{}{{{}}} {}\n", prefix_, name, suffix, labels,
                   value);
  }

  std::string_view prefix_;
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
  plain("http_uploads_evicted_total", "Uploads closed to make room for others.",
        http.uploads_evicted_total);
  plain("http_slow_readers_total", "Streams cancelled because the client did not read them.",
        http.slow_readers_total);
  static constexpr std::string_view kClasses[] = {"none", "1xx", "2xx", "3xx", "4xx", "5xx"};
  for (int i = 0; i < 6; ++i) {
    visitor.Visit("http_responses_total", "Answers, by status.", {"status", kClasses[i]},
                  http.responses_total[i]);
  }
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

// What /proc/self/stat says, in seconds since 1970, seconds and bytes.
struct ProcessStat {
  double start_time = 0.0;
  double cpu_seconds = 0.0;
  int64_t virtual_bytes = 0;
  int64_t resident_bytes = 0;
};

// When the machine started, in seconds since 1970.
double BootTime() {
  long long seconds = 0;
  if (FILE* file = std::fopen("/proc/stat", "r")) {
    char line[4096];
    while (std::fgets(line, sizeof(line), file) != nullptr &&
           std::sscanf(line, "btime %lld", &seconds) != 1) {
    }
    std::fclose(file);
  }
  return static_cast<double>(seconds);
}

ProcessStat ReadProcessStat() {
  ProcessStat stat;
  FILE* file = std::fopen("/proc/self/stat", "r");
  if (file == nullptr) {
    return stat;
  }
  char line[4096];
  const char* rest = std::fgets(line, sizeof(line), file) != nullptr ? std::strrchr(line, ')') : "";
  std::fclose(file);
  // proc(5): utime and stime are fields 14 and 15, starttime, vsize and rss 22 to 24.
  unsigned long user = 0;
  unsigned long system = 0;
  unsigned long long start = 0;
  unsigned long virtual_bytes = 0;
  long resident_pages = 0;
  if (rest != nullptr &&
      std::sscanf(rest,
                  ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d "
                  "%llu %lu %ld",
                  &user, &system, &start, &virtual_bytes, &resident_pages) == 5) {
    const auto ticks = static_cast<double>(sysconf(_SC_CLK_TCK));
    stat.start_time = BootTime() + static_cast<double>(start) / ticks;
    stat.cpu_seconds = static_cast<double>(user + system) / ticks;
    stat.virtual_bytes = static_cast<int64_t>(virtual_bytes);
    stat.resident_bytes = resident_pages * sysconf(_SC_PAGESIZE);
  }
  return stat;
}

// Every exporter has these, under these names.
std::string RenderProcess() {
  std::string out;
  const auto add = [&](std::string_view name, std::string_view help, std::string_view type,
                       auto value) {
    fmt::format_to(std::back_inserter(out),
                   "# HELP process_{0} {1}\n# TYPE process_{0} {2}\nprocess_{0} {3}\n", name, help,
                   type, value);
  };
  const ProcessStat stat = ReadProcessStat();
  rlimit descriptors{};
  getrlimit(RLIMIT_NOFILE, &descriptors);
  add("cpu_seconds_total", "Processor time, user and system.", "counter", stat.cpu_seconds);
  add("open_fds", "Open file descriptors.", "gauge", OpenDescriptors());
  add("max_fds", "File descriptors that may be open.", "gauge", descriptors.rlim_cur);
  add("virtual_memory_bytes", "Address space in use.", "gauge", stat.virtual_bytes);
  add("resident_memory_bytes", "Resident memory of the process.", "gauge", stat.resident_bytes);
  add("start_time_seconds", "Start of the process, in seconds since 1970.", "gauge",
      fmt::format("{:.2f}", stat.start_time));
  return out;
}

}  // namespace

void CheckMetricsPrefix(std::string_view prefix) {
  const bool valid = !prefix.empty() && !(prefix.front() >= '0' && prefix.front() <= '9') &&
                     std::all_of(prefix.begin(), prefix.end(), [](char c) {
                       return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                              (c >= '0' && c <= '9') || c == '_';
                     });
  Check(valid, ErrorCode::kInvalidArgument, "--metrics-prefix ", QuoteForMessage(prefix),
        ": expected letters, digits and underscores, not beginning with a digit");
}

std::string RenderMetrics(std::string_view prefix, const EngineMetrics* engine,
                          std::string_view model_name, const HttpMetrics& http) {
  TextRenderer renderer(prefix, model_name);
  if (engine != nullptr) {
    engine->ForEach(renderer);
  }
  RenderHttp(http, renderer);
  return renderer.Take() + RenderProcess();
}

}  // namespace dualfp
