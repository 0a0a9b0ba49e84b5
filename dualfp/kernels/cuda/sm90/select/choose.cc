#include "dualfp/kernels/cuda/sm90/select/choose.h"

#include <algorithm>
#include <iomanip>
#include <sstream>

#include "dualfp/base/check.h"

namespace dualfp::sm90 {
namespace {

constexpr double kClearlyFaster = 0.97;  // of the plan's time
constexpr double kLittle = 1.02;         // that estimates may differ by and mean nothing

// The row for the problem's M, or nullptr: the smallest M that is not below it.
const TunedRow* FindRow(const TunedTable& table, const GemmProblem& problem) {
  for (const TunedRow& row : table.Find(problem.format, problem.n, problem.k)) {
    if (row.m >= problem.m) {
      return &row;
    }
  }
  return nullptr;
}

// Some of the cluster would have nothing to do; or the plan does what another one does: where two
// waves hold everything, the order of tiles does not matter.
bool Idle(const Plan& plan, const GemmProblem& problem, const DeviceModel& device) {
  const ClusterShape& c = plan.cluster;
  const int tiles = (problem.n + plan.config->rows - 1) / plan.config->rows *
                    ((problem.m + plan.config->tokens - 1) / plan.config->tokens);
  if (plan.raster_group != 8 && tiles <= 2 * device.sms) {
    return true;
  }
  return (c.share_w > 1 && problem.m <= plan.config->tokens * (c.share_w / 2)) ||
         (c.share_x > 1 && problem.n <= plan.config->rows * (c.share_x / 2));
}

// The plan's estimate over the least one.
double Disadvantage(const Plan& plan, const GemmProblem& problem, const DeviceModel& device) {
  const std::vector<RankedPlan> ranked = RankPlans(problem, device);
  return ranked.empty() ? 1.0
                        : EstimateCost(plan, problem, device).total / ranked.front().microseconds;
}

// Whether the row's plan is a choice for fewer tokens: where the model likes it no less than at the
// row's own M, where it was measured to be the best.
bool Suits(const TunedRow& row, const GemmProblem& problem, const DeviceModel& device) {
  if (row.m == problem.m) {
    return true;
  }
  GemmProblem measured = problem;
  measured.m = row.m;
  return Disadvantage(row.plan, problem, device) <=
         Disadvantage(row.plan, measured, device) * kLittle;
}

std::string DescribePlan(const Plan& plan) {
  const KernelConfig& config = *plan.config;
  const ClusterShape& c = plan.cluster;
  std::ostringstream text;
  text << config.rows << " weights x " << config.tokens << " tokens x " << config.k
       << " of K a stage, " << config.stages << " stages, " << config.warpgroups
       << (config.warpgroups == 1 ? " warpgroup, "
           : config.ping_pong     ? " ping-pong warpgroups, "
                                  : " warpgroups, ")
       << config.ctas << (config.ctas == 1 ? " CTA" : " CTAs") << " an SM, "
       << (config.shared_bytes + 512) / 1024 << " KiB of shared memory; ";
  if (c.size() == 1) {
    text << "no clusters";
  } else {
    text << "clusters of " << c.size() << " CTAs:" << (c.split > 1 ? " split K by " : "");
    if (c.split > 1) {
      text << c.split;
    }
    if (c.share_x > 1) {
      text << " share X by " << c.share_x;
    }
    if (c.share_w > 1) {
      text << " share W by " << c.share_w;
    }
  }
  return std::move(text).str();
}

}  // namespace

Tables DefaultTables(const DeviceModel& device) {
  const TunedTable* environment = EnvironmentTable();
  if (environment == nullptr) {
    return {&BuiltInTable()};
  }
  Check(environment->sms == device.sms, ErrorCode::kInvalidFile, environment->origin,
        " (DUALFP_TUNED_TABLE) is for ", environment->device, " with ", environment->sms,
        " multiprocessors; this GPU is ", device.name, " with ", device.sms);
  return {environment, &BuiltInTable()};
}

Choice Choose(const GemmProblem& problem, const DeviceModel& device, const Tables& tables) {
  for (const TunedTable* table : tables) {
    if (table == nullptr || table->sms != device.sms) {
      continue;
    }
    const TunedRow* row = FindRow(*table, problem);
    if (row != nullptr && Unsupported(row->plan, problem).empty() && Suits(*row, problem, device)) {
      return {row->plan, row->microseconds, table, row};
    }
  }
  const std::vector<RankedPlan> ranked = RankPlans(problem, device);
  Check(!ranked.empty(), ErrorCode::kUnsupported, "gemm: no Hopper kernel runs m=", problem.m,
        " n=", problem.n, " k=", problem.k, ": N and K must be multiples of 16");
  return {ranked.front().plan, ranked.front().microseconds};
}

bool CublasLtWins(const GemmProblem& problem, const DeviceModel& device, const Tables& tables) {
  const TunedRow* row = Choose(problem, device, tables).row;
  return row != nullptr && row->cublaslt > 0 && row->cublaslt < kClearlyFaster;
}

std::vector<RankedPlan> RankPlans(const GemmProblem& problem, const DeviceModel& device) {
  std::vector<RankedPlan> ranked;
  for (const Plan& plan : AllPlans()) {
    if (!Idle(plan, problem, device) && Unsupported(plan, problem).empty()) {
      ranked.push_back({plan, EstimateCost(plan, problem, device).total});
    }
  }
  std::stable_sort(ranked.begin(), ranked.end(), [](const RankedPlan& a, const RankedPlan& b) {
    return a.microseconds < b.microseconds;
  });
  return ranked;
}

std::string Explain(const GemmProblem& problem, const DeviceModel& device, const Tables& tables,
                    int alternatives) {
  const Choice choice = Choose(problem, device, tables);
  const Estimate estimate = EstimateCost(choice.plan, problem, device);
  std::ostringstream text;
  text << std::fixed << std::setprecision(2);
  text << FormatName(problem.format) << " Y[" << problem.m << ", " << problem.n << "] = X["
       << problem.m << ", " << problem.k << "] W[" << problem.n << ", " << problem.k << "]^T on "
       << device.name << " (" << device.sms << " multiprocessors)\n";
  text << "plan: " << Name(choice.plan) << "\n      " << DescribePlan(choice.plan) << "\n";
  if (choice.row != nullptr) {
    text << "why:  tuned, " << choice.table->origin << ":" << choice.row->line << ": measured "
         << choice.row->microseconds << " us at M = " << choice.row->m;
    if (choice.table->kernels != KernelFingerprint()) {
      text << ", with kernels " << choice.table->kernels << " (this build has "
           << KernelFingerprint() << ")";
    }
    if (choice.row->cublaslt > 0) {
      text << "; cuBLASLt takes " << choice.row->cublaslt << " of that"
           << (CublasLtWins(problem, device, tables) ? " and runs where it is installed" : "");
    }
  } else {
    text << "why:  the cost model's best; no tuned row for N = " << problem.n
         << ", K = " << problem.k << " whose plan suits this M";
  }
  text << "\ncost: estimated " << estimate.total << " us (compute " << estimate.compute << " in "
       << estimate.waves << (estimate.waves == 1 ? " wave" : " waves") << ", DRAM " << estimate.dram
       << ")\n";
  const std::vector<RankedPlan> ranked = RankPlans(problem, device);
  text << "the model's best of " << ranked.size() << " plans:\n";
  for (int i = 0; i < alternatives && i < static_cast<int>(ranked.size()); ++i) {
    text << std::setw(10) << ranked[i].microseconds << " us  " << Name(ranked[i].plan) << "\n";
  }
  return std::move(text).str();
}

}  // namespace dualfp::sm90
