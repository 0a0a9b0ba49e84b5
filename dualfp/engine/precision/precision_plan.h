// What the engine asks of a step's plan (model/precision_plan.h).

#pragma once

#include <cstdint>
#include <string>

#include "dualfp/engine/request.h"
#include "dualfp/model/precision_plan.h"

namespace dualfp {

// By the layers; lm_head does not count.
PrecisionClass ClassOf(const PrecisionPlan& plan);
int CountLayers(const PrecisionPlan& plan, Precision precision);
double Fp8Fraction(const PrecisionPlan& plan);

void SetAll(PrecisionPlan* plan, Precision precision);

// lm_head at the precision of the layers where they agree, else at FP16.
void LetHeadFollow(PrecisionPlan* plan);

// Plans with equal layers have equal tags, and others different ones (64-bit hash). Never 0. Part
// of a KV block's prefix-cache key: what lm_head computes at does not reach the cache.
uint64_t TagOf(const PrecisionPlan& plan);

// "exact", "fp8", or "fp8 in 12 of 32 layers": for logs.
std::string Describe(const PrecisionPlan& plan);

}  // namespace dualfp
