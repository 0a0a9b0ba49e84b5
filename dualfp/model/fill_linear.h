// The one filler: checkpoint rows into a Linear's memory, as they are, split into planes or
// quantized, whoever brings them (a checkpoint, a refill) and wherever in the weight they go.

#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "dualfp/base/error.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/model/model.h"
#include "dualfp/model/stored_matrix.h"

namespace dualfp {

// Gives the linear memory for [n, k] in `scheme`, scales included, and views of it. `dtype` is that
// of plain values.
void AllocateLinear(Linear& linear, const WeightScheme& scheme, DType dtype);

// Writes one of the linear's parts, which has `part.rows` rows from `rows` (F32, F16 or BF16):
//   plain    as they are, converted where the weight's dtype is another
//   nested   planes, and the rest of what they do not hold to the outlier list, until it has more
//            than max_outliers: what is in it is then incomplete, the counts are not
//   others   codes and scales of this part alone (kernels/quantize_weight.h)
// Throws `code` for a NaN or infinity, naming tensor and place.
NestReport FillPart(Linear& linear, const LinearPart& part, const TensorRows& rows,
                    int64_t max_outliers, ErrorCode code, ThreadPool& threads);

// Writes one of the linear's parts as it is stored: codes, checked for NaN, and their scales. The
// linear's scheme is the matrix's, or per channel where that has fewer scales; of 128x128 blocks,
// weight.parts says where in a block the part begins (BlockOffset()). Throws as FillPart(), and
// kUnsupported for shards that begin inside a group or a block of columns.
void CopyPart(Linear& linear, const LinearPart& part, const StoredMatrix& matrix, ErrorCode code,
              ThreadPool& threads);

// Sorts the outlier list and shows it in the weight.
void FinishOutliers(Linear& linear);

// Drops the outliers of one part, which is about to be filled again.
void RemoveOutliers(Linear& linear, const LinearPart& part);

// Sets the static activation scale that all parts share, or one for each part.
void SetInputScale(Linear& linear, float scale);
void SetInputScales(Linear& linear, std::span<const float> scales);

}  // namespace dualfp
