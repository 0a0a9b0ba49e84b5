// The record of a tuning run: JSON lines, appended as points finish, so that an interrupted run
// goes on where it was.
//
//   {"kind":"run","gpu":"NVIDIA H200","sms":132,"kernels":"6f1c...","commit":...,"command":...}
//   {"kind":"tuned","format":"nested","n":4096,"k":4096,"m":16,"plan":"...","us":11.2,
//    "timed":{"nested_split_...":11.3,...}}
//   {"kind":"failed","format":...,"n":...,"k":...,"m":...,"plan":"...","reason":"did not finish"}

#pragma once

#include <filesystem>
#include <map>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/kernels/cuda/sm90/select/tuned_table.h"

namespace dualfp::gpu {

struct TunePoint {
  sm90::WeightFormat format = sm90::WeightFormat::kNested;
  int n = 0;
  int k = 0;
  int m = 0;

  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes the 0 inside for a pointer.
  auto operator<=>(const TunePoint&) const = default;
};

// "nested N 4096 K 4096 M 16".
std::string ToText(const TunePoint& point);

struct TunedPoint {
  TunePoint point;
  std::string plan;                  // the fastest
  double microseconds = 0;           // its
  double cublaslt_microseconds = 0;  // of plain weights, taken in turn with it; 0: not measured
  // Every plan that was timed, fastest first. Slow ones were sampled once.
  std::vector<std::pair<std::string, double>> timed;
};

sm90::GemmProblem ProblemOf(const TunePoint& point);

class TuneLog {
 public:
  // Reads what is there; a last line that an interruption cut short is removed from the file. A new
  // file gets `run` as its first line. Throws kInvalidFile "PATH:LINE: ..." for a broken
  // line, or when the file was measured on another GPU or with other kernels than `run` says; kIo.
  TuneLog(std::filesystem::path path, const Json& run);
  ~TuneLog();
  TuneLog(const TuneLog&) = delete;
  TuneLog& operator=(const TuneLog&) = delete;

  bool Has(const TunePoint& point) const;
  bool Failed(const TunePoint& point, const std::string& plan) const;

  // Appended and flushed to the disk. From any thread.
  void Add(const TunedPoint& point);
  void AddFailure(const TunePoint& point, const std::string& plan, const std::string& reason);

  const std::filesystem::path& path() const { return path_; }
  size_t failures() const;

 private:
  void Append(const Json& line);

  std::filesystem::path path_;
  int file_ = -1;
  mutable std::mutex mutex_;
  std::set<TunePoint> points_;
  std::set<std::pair<TunePoint, std::string>> failed_;
};

// The "tuned" lines of record files. Throws kInvalidFile "PATH:LINE: ...".
std::vector<TunedPoint> ReadTunedPoints(const std::vector<std::filesystem::path>& paths);

// The fastest plans that recorded files tell of: "tuned" lines, and "point" lines of dualfp bench
// gemm. Later lines replace earlier ones. Throws kInvalidFile "PATH:LINE: ..." also for a plan that
// this build does not have and for files of GPUs that differ.
sm90::TunedTable TableFromRecords(const std::vector<std::filesystem::path>& paths);

}  // namespace dualfp::gpu
