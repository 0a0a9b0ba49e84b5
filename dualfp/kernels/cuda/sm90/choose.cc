#include "dualfp/kernels/cuda/sm90/choose.h"

#include <algorithm>
#include <cmath>

#include "dualfp/base/check.h"

namespace dualfp::sm90 {
namespace {

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

}  // namespace

double EstimateMicroseconds(const Plan& plan, const GemmProblem& problem,
                            const DeviceModel& device) {
  const KernelConfig& c = *plan.config;
  const ClusterShape& cluster = plan.cluster;
  const bool nested = c.format == WeightFormat::kNested;
  const double rows = c.rows();
  const double weight_bytes = rows * c.k * (nested ? 2 : 1);
  const double x_bytes = double(c.tokens) * c.k * (nested ? 2 : 1);
  const double steps = c.k / (nested ? 16.0 : 32.0) * (rows / 64);

  // Cycles of one SM for one stage of one CTA, by what may bound it.
  const double tensor = steps * std::max(c.tokens / 2.0, 8.0);
  const double shared = (steps * (2048 + 32.0 * c.tokens) + weight_bytes + x_bytes) / 128.0;
  const double decode = nested ? rows / 64 * c.k / 64 * 90 : 0.0;
  const double stage = std::max({tensor * 1.1, shared, decode, 60.0});

  const int stages = CeilDiv(problem.k, c.k);
  const int clusters = CeilDiv(problem.n, c.rows() * cluster.share_x) *
                       CeilDiv(problem.m, c.tokens * cluster.share_w);
  const int ctas = clusters * cluster.size();
  const int usable = device.ctas_in_clusters[cluster.size()] / cluster.size() * cluster.size();
  const int slots = usable * c.ctas;
  const double clock = device.clock_ghz * 1e3;
  double compute;
  if (c.family == Family::kSplit) {
    const int part = CeilDiv(stages, cluster.split);
    const double waves = std::ceil(double(ctas) / slots);
    const double sharing = std::min<double>(c.ctas, std::ceil(double(ctas) / usable));
    const double epilogue = 900 + rows * c.tokens * 8 / 128 + (cluster.split > 1 ? 900 : 0);
    compute = waves * (part * stage * sharing + epilogue) / clock;
  } else if (plan.parts > 1) {
    const double exchange = rows * c.tokens * 4 / 16 * (1 - 1.0 / plan.parts);
    compute = (CeilDiv(stages, plan.parts) * stage + exchange + 2500) / clock;
  } else if (plan.parts == Plan::kStream) {
    // Partial sums are written and read once at the rate of L2; with few tiles several times.
    const double shares = std::max(1.0, double(slots) / ctas);
    const double exchange = rows * c.tokens * 4 / 32 * (1 + shares);
    compute = (double(ctas) / slots * stages * stage + exchange + 2000) / clock;
  } else {
    const double waves = std::ceil(double(ctas) / slots);
    const double sharing = std::min<double>(c.ctas, std::ceil(double(ctas) / usable));
    compute = waves * (stages * stage * sharing + 500 + rows * c.tokens * 4 / 128) / clock;
  }
  const double stage_count = double(ctas) / cluster.split * stages;
  const double l2 = stage_count * (weight_bytes / cluster.share_w + x_bytes / cluster.share_x) /
                    device.l2_bytes_per_us;
  const double bytes = double(problem.n) * problem.k * (nested ? 2 : 1) +
                       double(problem.m) * problem.k * (nested ? 2 : 1) +
                       2.0 * problem.m * problem.n;
  // Few CTAs cannot draw the whole bandwidth.
  const double busy = std::min(1.0, double(ctas) / device.sms * 1.5);
  const double memory = bytes / (device.dram_bytes_per_us * busy);
  const double most = std::max({compute, l2, memory});
  return 2.5 + most + 0.1 * (compute + l2 + memory - most);
}

Plan ChoosePlan(const GemmProblem& problem, const DeviceModel& device) {
  const TunedRow* row = nullptr;
  for (const TunedRow& candidate : TunedRows()) {
    if (candidate.format == problem.format && candidate.n == problem.n &&
        candidate.k == problem.k && candidate.m >= problem.m &&
        (row == nullptr || candidate.m < row->m)) {
      row = &candidate;
    }
  }
  const std::vector<RankedPlan> ranked = RankPlans(problem, device);
  Check(!ranked.empty(), ErrorCode::kUnsupported, "gemm: no Hopper kernel runs m=", problem.m,
        " n=", problem.n, " k=", problem.k, ": N and K must be multiples of 16");
  if (row != nullptr) {
    for (const RankedPlan& candidate : ranked) {
      if (Name(candidate.plan) == row->plan) {
        return candidate.plan;
      }
    }
  }
  return ranked.front().plan;
}

std::vector<RankedPlan> RankPlans(const GemmProblem& problem, const DeviceModel& device) {
  std::vector<RankedPlan> ranked;
  for (const KernelConfig& config : KernelConfigs()) {
    for (const int split : {1, 2, 3, 4, 5, 6, 8}) {
      for (const int share_x : {1, 2, 4}) {
        for (const int share_w : {1, 2, 4}) {
          const bool idle = (share_w > 1 && problem.m <= config.tokens * (share_w / 2)) ||
                            (share_x > 1 && problem.n <= config.rows() * (share_x / 2));
          const bool persistent = config.family == Family::kPersistent;
          const int tiles = CeilDiv(problem.n, config.rows()) * CeilDiv(problem.m, config.tokens);
          for (const int group : {8, 16}) {
            for (const int parts : {1, Plan::kStream, 2, 3, 4, 5, 6, 8}) {
              const Plan plan{&config, {split, share_x, share_w}, group, parts};
              // Where one wave holds everything, its order does not matter.
              const bool same = group != 8 && (!persistent || tiles <= 2 * device.sms);
              if (!idle && !same && Unsupported(plan, problem).empty()) {
                ranked.push_back({plan, EstimateMicroseconds(plan, problem, device)});
              }
            }
          }
        }
      }
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const RankedPlan& a, const RankedPlan& b) {
    return a.microseconds < b.microseconds;
  });
  return ranked;
}

}  // namespace dualfp::sm90
