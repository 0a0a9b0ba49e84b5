// docs/performance.md: recorded GPU measurements as Markdown, the summary first.

#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "bench/gemm_lab/report/plots.h"
#include "bench/statistics.h"

namespace dualfp {

// How good the cost model's choice is: the best measured time over that of its choice.
struct ModelQuality {
  std::string format;
  GeometricMean seen;    // on the shapes that the model's constants were fitted to
  GeometricMean unseen;  // on others
  int untimed = 0;  // points whose choice had not been timed: the best-ranked timed plan counts
};

// What record files hold, read into memory.
struct PerformanceRecords {
  std::vector<std::filesystem::path> files;
  std::vector<Json> runs;          // "run" lines
  std::vector<GemmRecord> points;  // "point" lines; a later line replaces an earlier one
  Ceilings ceilings;
  std::vector<Json> others;  // lines of other kinds, but "tuned" and "failed"
};

// Throws kInvalidFile "PATH:LINE: ..."; also when the files are of GPUs with different names.
PerformanceRecords ReadPerformanceRecords(const std::vector<std::filesystem::path>& files);

struct Report {
  std::string markdown;
  std::vector<Plot> plots;
};

// `plots`: the plots' folder as the Markdown names it; `command`: what makes the report.
Report MakePerformanceReport(const PerformanceRecords& records,
                             const std::vector<ModelQuality>& quality, const std::string& plots,
                             const std::string& command);

}  // namespace dualfp
