// For tests that run plans of the Hopper GEMM kernels one by one: which plans, at which sizes, and
// what a run that hangs says.

#pragma once

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <functional>
#include <set>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/base/watchdog.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"

namespace dualfp::cuda {

struct PlanShape {
  int m, n, k;
};

// Odd ones, with parts of tiles on every side.
inline constexpr PlanShape kPlanShapes[] = {{1, 272, 144},   {3, 400, 1040}, {17, 1040, 2064},
                                            {63, 528, 1552}, {65, 656, 512}, {127, 272, 80},
                                            {257, 400, 336}, {600, 144, 272}};
// Tiles enough for several rounds of a persistent kernel.
inline constexpr PlanShape kManyTiles = {130, 20'016, 272};
// Little enough for compute-sanitizer.
inline constexpr PlanShape kLittleWork = {33, 272, 400};

inline constexpr std::chrono::minutes kHangLimit{1};  // much longer than any test's launches take

using PlanFilter = std::function<bool(const sm90::Plan&)>;

// Of the many ways to divide K and to share operands, each kernel's extremes.
inline bool IsExtremePlan(const sm90::Plan& plan) {
  const sm90::ClusterShape& c = plan.cluster;
  return plan.split_k != 1 ? plan.raster_group == sm90::Plan().raster_group && plan.split_k != 5 &&
                                 plan.split_k != 6
                           : c.split == 1 || c.split == 3 || c.split == 8 || c.size() == 8;
}

// In which rings run on from tile to tile.
inline bool WalksOverTiles(const sm90::Plan& plan) {
  return plan.config->family == sm90::Family::kPersistent && plan.cluster.size() <= 2 &&
         plan.split_k <= 1;
}

// Calls run(plan) for all plans that pass, or for the first of each kernel, until a test fails.
template <class Run>
void ForEachPlan(const sm90::GemmProblem& problem, const PlanFilter& filter, bool once,
                 const Run& run) {
  std::set<const void*> seen;
  Watchdog dog(kHangLimit);
  for (const sm90::RankedPlan& ranked : sm90::RankPlans(problem, sm90::DeviceModel())) {
    if (!filter(ranked.plan) || (once && !seen.insert(ranked.plan.config->function).second)) {
      continue;
    }
    const std::string what =
        StrCat(Name(ranked.plan), ", M ", problem.m, " N ", problem.n, " K ", problem.k);
    SCOPED_TRACE(what);
    const Watchdog::Watch watch(dog, [&] { std::fprintf(stderr, "HUNG: %s\n", what.c_str()); });
    run(ranked.plan);
    if (::testing::Test::HasFailure()) {
      return;
    }
  }
}

// Kernels of one family, whose test runs each of them once.
struct KernelFamily {
  sm90::WeightFormat format;
  sm90::Family family;
  bool clusters;

  bool Has(const sm90::Plan& plan) const {
    return plan.config->family == family && (plan.cluster.size() > 1) == clusters;
  }
};

template <class Formats>
std::vector<KernelFamily> FamiliesOf(const Formats& formats) {
  std::vector<KernelFamily> families;
  for (const sm90::WeightFormat format : formats) {
    for (const sm90::Family family : {sm90::Family::kSplit, sm90::Family::kPersistent}) {
      for (const bool clusters : {false, true}) {
        families.push_back({format, family, clusters});
      }
    }
  }
  return families;
}

// "nested12_bf16_split_clusters".
inline std::string TestName(const KernelFamily& family) {
  return StrCat(FormatName(family.format),
                family.family == sm90::Family::kSplit ? "_split" : "_persistent",
                family.clusters ? "_clusters" : "");
}

}  // namespace dualfp::cuda
