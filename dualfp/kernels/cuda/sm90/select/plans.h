// Every plan there is: each kernel with each way to divide the work.

#pragma once

#include <span>
#include <string_view>

#include "dualfp/kernels/cuda/sm90/gemm.h"

namespace dualfp::sm90 {

// All plans that some problem can run, in the order of KernelConfigs().
std::span<const Plan> AllPlans();

// The plan that Name() calls so; throws kInvalidArgument when this build has none.
Plan PlanByName(std::string_view name);

// A problem whose rows follow one another, with a workspace but without operands: what tables and
// explanations are about.
GemmProblem DenseProblem(WeightFormat format, int m, int n, int k);

}  // namespace dualfp::sm90
