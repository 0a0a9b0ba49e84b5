// Which plan runs a problem: a cost model over every feasible plan. Pure: depends on its arguments
// alone, so that it can be printed and tested without a GPU.

#pragma once

#include <array>
#include <span>
#include <string_view>
#include <vector>

#include "dualfp/kernels/cuda/sm90/gemm.h"

namespace dualfp::sm90 {

// What the model knows of a device.
struct DeviceModel {
  int sms = 132;
  double clock_ghz = 1.75;  // under load
  double dram_bytes_per_us = 4.2e6;
  double l2_bytes_per_us = 8.0e6;
  // CTAs at one time, one to an SM, in clusters of 1..8 (index 0 unused).
  std::array<int, 9> ctas_in_clusters = {0, 132, 132, 117, 120, 110, 102, 105, 120};
};

struct RankedPlan {
  Plan plan;
  double microseconds;  // estimated
};

// A measured choice (bench/results/, written by tools/tuned_table.py): for problems of this N and K
// with M up to this one and above the previous row's.
struct TunedRow {
  WeightFormat format;
  int n;
  int k;
  int m;
  std::string_view plan;  // Name(Plan)
};

std::span<const TunedRow> TunedRows();

double EstimateMicroseconds(const Plan& plan, const GemmProblem& problem,
                            const DeviceModel& device);

// The plan that runs `problem`: from the tuned table where it has the shape, else the model's best.
// Throws kUnsupported when no kernel can.
Plan ChoosePlan(const GemmProblem& problem, const DeviceModel& device);

// Every plan that can run the problem, fastest estimate first.
std::vector<RankedPlan> RankPlans(const GemmProblem& problem, const DeviceModel& device);

}  // namespace dualfp::sm90
