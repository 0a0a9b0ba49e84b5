#include "dualfp/kernels/cuda/sm90/select/plans.h"

#include <map>
#include <string>
#include <vector>

#include "dualfp/base/check.h"

namespace dualfp::sm90 {
namespace {

// Where a plan wants a workspace, whether there is one matters to Unsupported(), not what it is.
char some_workspace;

// A problem that hinders no plan: one token, few rows, K enough for any split.
constexpr int kEasyN = 16;
constexpr int kEasyK = 1 << 20;

std::vector<Plan> MakePlans() {
  std::vector<Plan> plans;
  for (const KernelConfig& config : KernelConfigs()) {
    const GemmProblem easy = DenseProblem(config.format, 1, kEasyN, kEasyK);
    for (const int split : {1, 2, 3, 4, 5, 6, 8}) {
      for (const int share_x : {1, 2, 4}) {
        for (const int share_w : {1, 2, 4}) {
          for (const int group : {8, 16}) {
            for (const int split_k : {1, Plan::kStreamK, 2, 3, 4, 5, 6, 8}) {
              const Plan plan{&config, {split, share_x, share_w}, group, split_k};
              const bool walks = config.family == Family::kPersistent;
              if ((walks || group == 8) && Unsupported(plan, easy).empty()) {
                plans.push_back(plan);
              }
            }
          }
        }
      }
    }
  }
  return plans;
}

}  // namespace

std::span<const Plan> AllPlans() {
  static const std::vector<Plan> plans = MakePlans();
  return plans;
}

Plan PlanByName(std::string_view name) {
  static const std::map<std::string, Plan, std::less<>> by_name = [] {
    std::map<std::string, Plan, std::less<>> plans;
    for (const Plan& plan : AllPlans()) {
      plans.emplace(Name(plan), plan);
    }
    return plans;
  }();
  const auto found = by_name.find(name);
  Check(found != by_name.end(), ErrorCode::kInvalidArgument, "no plan of this build is named ",
        std::string(name.substr(0, 80)));
  return found->second;
}

GemmProblem DenseProblem(WeightFormat format, int m, int n, int k) {
  GemmProblem problem;
  problem.format = format;
  problem.m = m;
  problem.n = n;
  problem.k = k;
  problem.x_stride = k;
  problem.epilogue.y_stride = n;
  problem.workspace = &some_workspace;
  return problem;
}

}  // namespace dualfp::sm90
