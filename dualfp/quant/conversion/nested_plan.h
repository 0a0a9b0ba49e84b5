// Checkpoints of nested weights (docs/formats.md, NestedFP and Nested12), and what they become.

#pragma once

#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/io/json.h"
#include "dualfp/io/name_pattern.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/quant/conversion/conversion.h"

namespace dualfp {

// The format of a checkpoint of nested weights: "nested", "nested12", or empty for others. Throws
// kInvalidFile for fields of a wrong type, kUnsupported for a version that is not ours.
std::string NestedFormatOf(const Json& config, const std::string& origin);

// Linear layers, but lm_head, routers and those of `ignore`, as FP16 in two planes; those with
// outliers in more than 0.1 % of their weights stay. BF16 and F32 weights round to FP16, which the
// report counts. Reads all of them once, to count the outliers: files begin with all shapes. Throws
// kUnsupported for a quantized checkpoint, kInvalidFile for a NaN or infinity.
Conversion PlanNested(const Checkpoint& checkpoint, const Json& config,
                      const std::vector<NamePattern>& ignore, ThreadPool& threads);

// Every BF16 matrix NAME.weight, tables too, in 12 bits, without loss; those with remainders in
// more than 1 % of their weights stay. Likewise.
Conversion PlanNested12(const Checkpoint& checkpoint, const Json& config,
                        const std::vector<NamePattern>& ignore, ThreadPool& threads);

// The upper planes of a nested checkpoint, byte for byte, as FP8 weights: of nested ones with one
// scale, 1/256 (quant_method fp8), of nested12 with one for each row, 2^(-8 - shift)
// (compressed-tensors). What the planes do not hold is lost, and counted. lm_head and tables of
// nested12 become BF16 again.
Conversion PlanFp8FromNested(const Checkpoint& checkpoint, const Json& config);

}  // namespace dualfp
