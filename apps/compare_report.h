// What `dualfp inspect --compare` prints and draws.

#pragma once

#include <string>

#include "dualfp/io/json.h"
#include "dualfp/quant/compare/compare_checkpoints.h"

namespace dualfp {

void PrintComparison(const Comparison& comparison);

// Figures that are infinite are null.
Json ComparisonJson(const Comparison& comparison);

// The largest relative errors as bars: an SVG file.
std::string DrawComparison(const Comparison& comparison);

}  // namespace dualfp
