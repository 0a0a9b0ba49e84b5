// Writing checkpoint rows into a Linear's memory: as they are, split into nested planes, or
// quantized.

#pragma once

#include <cstdint>
#include <string>

#include "dualfp/base/error.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/model/model.h"
#include "dualfp/model/weight_source.h"

namespace dualfp {

// Gives the linear memory for [n, k] of its format, and views of it. Nested: both planes in one
// buffer; plain: values of `dtype`.
void AllocateLinear(Linear& linear, QuantFormat format, DType dtype);

// Writes one part from `rows`, whose dtype must be the plain linear's own. Nested planes get the
// clamped weight and the outlier list the rest, until it has more than max_outliers: what is in it
// is then incomplete, the counts are not. Throws `code` for a NaN or infinity, naming tensor and
// place.
NestReport FillPart(Linear& linear, const LinearPart& part, const TensorRows& rows,
                    int64_t max_outliers, ErrorCode code, ThreadPool& threads);

// Replaces a plain weight by E4M3 codes and their scales (kernels/quantize.h).
void QuantizeLinear(Linear& linear, ScaleGranularity granularity, ThreadPool& threads);

// Sorts the outlier list and shows it in the weight.
void FinishOutliers(Linear& linear);

// Drops the outliers of one part, which is about to be filled again.
void RemoveOutliers(Linear& linear, const LinearPart& part);

}  // namespace dualfp
