// Which plan runs a problem: a measured choice where a table has one for its N, K and M, or for a
// larger M if the cost model likes it no less at this one, else the model's best. Pure: depends on
// its arguments alone, so that it can be printed and tested without a GPU.

#pragma once

#include <string>
#include <vector>

#include "dualfp/kernels/cuda/sm90/select/cost_model.h"
#include "dualfp/kernels/cuda/sm90/select/plans.h"
#include "dualfp/kernels/cuda/sm90/select/tuned_table.h"

namespace dualfp::sm90 {

// Tables in order of precedence; null ones are left out. A table counts for devices with as many
// multiprocessors as its own.
using Tables = std::vector<const TunedTable*>;

// The environment's table, then the compiled-in one. Throws kInvalidFile when the former is for a
// GPU unlike `device`.
Tables DefaultTables(const DeviceModel& device);

struct Choice {
  Plan plan;
  double microseconds = 0;            // of the row, or estimated
  const TunedTable* table = nullptr;  // nullptr: the model chose
  const TunedRow* row = nullptr;      // of `table`
};

// Throws kUnsupported when no kernel can run the problem.
Choice Choose(const GemmProblem& problem, const DeviceModel& device, const Tables& tables);

// Whether cuBLASLt was measured to be faster at the problem's row by more than measurements differ.
// Of plain weights.
bool CublasLtWins(const GemmProblem& problem, const DeviceModel& device, const Tables& tables);

struct RankedPlan {
  Plan plan;
  double microseconds;  // estimated
};

// Every plan that can run the problem, fastest estimate first.
std::vector<RankedPlan> RankPlans(const GemmProblem& problem, const DeviceModel& device);

// The choice for people: the plan's shape, why it was chosen, its estimate part by part, and the
// model's `alternatives` best plans.
std::string Explain(const GemmProblem& problem, const DeviceModel& device, const Tables& tables,
                    int alternatives);

}  // namespace dualfp::sm90
