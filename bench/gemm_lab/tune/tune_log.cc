#include "bench/gemm_lab/tune/tune_log.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <map>

#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/report/record_file.h"
#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/kernels/cuda/sm90/select/cost_model.h"
#include "dualfp/kernels/cuda/sm90/select/plans.h"

namespace dualfp::gpu {
namespace {

constexpr int64_t kMaxSize = 1 << 24;  // of N, K and M
constexpr double kLeastTime = 1e-3;    // microseconds
constexpr double kMostTime = 1e9;

TunePoint ReadPoint(const JsonFields& fields) {
  TunePoint point;
  const GemmFormat* format = FindFormat(fields.GetString("format"));
  if (format == nullptr || !IsTuned(*format)) {
    fields.FailExpected("format", fmt::format("{}", fmt::join(TunedFormatNames(), ", ")));
  }
  point.format = format->weights;
  point.n = static_cast<int>(fields.GetInt("n", 1, kMaxSize));
  point.k = static_cast<int>(fields.GetInt("k", 1, kMaxSize));
  point.m = static_cast<int>(fields.GetInt("m", 1, kMaxSize));
  return point;
}

Json PointRecord(const char* kind, const TunePoint& point) {
  return {{"kind", kind},
          {"format", FormatOf(point.format).name},
          {"n", point.n},
          {"k", point.k},
          {"m", point.m}};
}

// 0 where it is not there.
double CublasLtTime(const JsonFields& fields) {
  return fields.FindNumber("cublaslt_us", 0, kMostTime).value_or(0);
}

double Rounded(double microseconds) { return std::round(microseconds * 1000) / 1000; }

}  // namespace

std::string ToText(const TunePoint& point) {
  return fmt::format("{} N {} K {} M {}", FormatOf(point.format).name, point.n, point.k, point.m);
}

sm90::GemmProblem ProblemOf(const TunePoint& point) {
  return sm90::DenseProblem(point.format, point.m, point.n, point.k);
}

TuneLog::TuneLog(std::filesystem::path path, const Json& run) : path_(std::move(path)) {
  bool fresh = true;
  if (std::filesystem::exists(path_)) {
    const auto read = [&](const JsonFields& fields) {
      const std::string kind = fields.GetString("kind");
      if (kind == "run") {
        fresh = false;
        for (const char* key : {"gpu", "kernels"}) {
          const std::string expected = run.at(key).get<std::string>();
          if (fields.GetString(key) != expected) {
            fields.FailField(key, StrCat("measured with ", QuoteForMessage(fields.GetString(key)),
                                         ", now it is ", QuoteForMessage(expected),
                                         ": remove the file or choose another"));
          }
        }
      } else if (kind == "tuned") {
        points_.insert(ReadPoint(fields));
      } else if (kind == "failed") {
        failed_.insert({ReadPoint(fields), fields.GetString("plan")});
      } else {
        fields.FailExpected("kind", "run, tuned or failed");
      }
    };
    const size_t complete = ReadRecords(path_, read, /*skip_torn_line=*/true);
    if (complete < std::filesystem::file_size(path_)) {
      // Nothing is cut off a file that may be something else.
      Check(!fresh, ErrorCode::kInvalidFile, path_.string(), ":1: expected a record of kind run");
      std::filesystem::resize_file(path_, complete);
    }
  }
  file_ = open(path_.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0666);
  Check(file_ >= 0, ErrorCode::kIo, path_.string(), ": cannot be written: ", std::strerror(errno));
  if (fresh) {
    Append(run);
  }
}

TuneLog::~TuneLog() { close(file_); }

bool TuneLog::Has(const TunePoint& point) const {
  const std::lock_guard lock(mutex_);
  return points_.contains(point);
}

bool TuneLog::Failed(const TunePoint& point, const std::string& plan) const {
  const std::lock_guard lock(mutex_);
  return failed_.contains({point, plan});
}

size_t TuneLog::failures() const {
  const std::lock_guard lock(mutex_);
  return failed_.size();
}

void TuneLog::Add(const TunedPoint& tuned) {
  Json line = PointRecord("tuned", tuned.point);
  line["plan"] = tuned.plan;
  line["us"] = Rounded(tuned.microseconds);
  if (tuned.cublaslt_microseconds > 0) {
    line["cublaslt_us"] = Rounded(tuned.cublaslt_microseconds);
  }
  Json timed = Json::object();
  for (const auto& [plan, microseconds] : tuned.timed) {
    timed[plan] = Rounded(microseconds);
  }
  line["timed"] = std::move(timed);
  const std::lock_guard lock(mutex_);
  Append(line);
  points_.insert(tuned.point);
}

void TuneLog::AddFailure(const TunePoint& point, const std::string& plan,
                         const std::string& reason) {
  Json line = PointRecord("failed", point);
  line["plan"] = plan;
  line["reason"] = reason;
  const std::lock_guard lock(mutex_);
  Append(line);
  failed_.insert({point, plan});
}

// One write a line: what an interruption can leave is the beginning of a line, at the end.
void TuneLog::Append(const Json& line) {
  const std::string text = line.dump() + "\n";
  const ssize_t written = write(file_, text.data(), text.size());
  Check(written == static_cast<ssize_t>(text.size()) && fdatasync(file_) == 0, ErrorCode::kIo,
        path_.string(), ": cannot be written: ", std::strerror(errno));
}

std::vector<TunedPoint> ReadTunedPoints(const std::vector<std::filesystem::path>& paths) {
  std::vector<TunedPoint> points;
  for (const std::filesystem::path& path : paths) {
    ReadRecords(path, [&](const JsonFields& fields) {
      if (fields.GetString("kind") != "tuned") {
        return;
      }
      TunedPoint tuned;
      tuned.point = ReadPoint(fields);
      tuned.plan = fields.GetString("plan");
      tuned.microseconds = fields.GetNumber("us", kLeastTime, kMostTime);
      tuned.cublaslt_microseconds = CublasLtTime(fields);
      const JsonFields timed = fields.GetObject("timed");
      for (const auto& [plan, value] : timed.json().items()) {
        tuned.timed.emplace_back(plan, timed.GetNumber(plan, kLeastTime, kMostTime));
      }
      if (tuned.timed.empty()) {
        fields.FailExpected("timed", "at least one plan");
      }
      points.push_back(std::move(tuned));
    });
  }
  return points;
}

sm90::TunedTable TableFromRecords(const std::vector<std::filesystem::path>& paths) {
  sm90::TunedTable table;
  std::map<TunePoint, sm90::TunedRow> rows;
  for (const std::filesystem::path& path : paths) {
    ReadRecords(path, [&](const JsonFields& fields) {
      const std::string kind = fields.GetString("kind");
      if (kind == "run") {
        const std::string device = fields.GetString("gpu");
        if (!table.device.empty() && table.device != device) {
          fields.FailField("gpu", StrCat("the other records are of ", table.device));
        }
        table.device = device;
        // Records from before these two were kept are of the model's default device.
        const sm90::DeviceModel known;
        table.sms = static_cast<int>(
            fields.FindInt("sms", 1, 1 << 16).value_or(device == known.name ? known.sms : 0));
        const std::string kernels = fields.FindString("kernels").value_or("unknown");
        table.kernels = table.kernels.empty() || table.kernels == kernels ? kernels : "several";
      } else if (kind == "tuned" || kind == "point") {
        // The plan that is fastest with block scales is not that of the rows, which are for all.
        const GemmFormat* format = FindFormat(fields.GetString("format"));
        if (kind == "point" && format != nullptr && !IsTuned(*format)) {
          return;
        }
        const TunePoint point = ReadPoint(fields);
        sm90::TunedRow& row = rows[point];
        row.format = point.format;
        row.n = point.n;
        row.k = point.k;
        row.m = point.m;
        row.microseconds = fields.GetNumber("us", kLeastTime, kMostTime);
        // A benchmark's is that of the best of several kernels, not of the one that runs.
        if (kind == "tuned") {
          row.cublaslt = CublasLtTime(fields) / row.microseconds;
        }
        try {
          row.plan = sm90::PlanByName(fields.GetString("plan"));
        } catch (const Error& error) {
          fields.FailField("plan", error.what());
        }
      }
    });
    Check(table.sms > 0, ErrorCode::kInvalidFile, path.string(),
          ": expected a record of kind run that names the GPU and its multiprocessors");
  }
  for (const auto& [point, row] : rows) {
    table.rows.push_back(row);
  }
  return table;
}

}  // namespace dualfp::gpu
