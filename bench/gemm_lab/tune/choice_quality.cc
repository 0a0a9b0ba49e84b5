// How the cost model's choices compare with the plans that were timed.

#include <map>
#include <unordered_map>

#include "bench/gemm_lab/gemm_lab.h"
#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/report/record_file.h"
#include "bench/gemm_lab/tune/tune_log.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"

namespace dualfp {
std::vector<ModelQuality> EvaluateModel(const std::vector<std::filesystem::path>& files) {
  std::map<std::string, ModelQuality> by_format;
  const sm90::DeviceModel device;
  for (const gpu::TunedPoint& tuned : gpu::ReadTunedPoints(files)) {
    const std::string format = FormatOf(tuned.point.format).name;
    ModelQuality& quality = by_format[format];
    quality.format = format;
    std::unordered_map<std::string, double> timed(tuned.timed.begin(), tuned.timed.end());
    bool first = true;
    for (const sm90::RankedPlan& ranked : sm90::RankPlans(ProblemOf(tuned.point), device)) {
      const auto found = timed.find(Name(ranked.plan));
      if (found != timed.end()) {
        // The winner was raced, the others were sampled: compare like with like.
        const double best = tuned.timed.front().second;
        (IsFittedShape(tuned.point.n, tuned.point.k) ? quality.seen : quality.unseen)
            .Add(best / found->second);
        quality.untimed += first ? 0 : 1;
        break;
      }
      first = false;
    }
  }
  std::vector<ModelQuality> all;
  all.reserve(by_format.size());
  for (auto& [format, quality] : by_format) {
    all.push_back(quality);
  }
  return all;
}

}  // namespace dualfp
