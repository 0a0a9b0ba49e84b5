// Writing checkpoint rows into a Linear's memory: as they are, or split into nested planes.

#pragma once

#include <cstdint>
#include <string>

#include "dualfp/base/error.h"
#include "dualfp/base/thread_pool.h"
#include "dualfp/model/model.h"
#include "dualfp/model/weight_source.h"

namespace dualfp {

struct FillStats {
  int64_t outliers = 0;     // beyond +-1.75
  int64_t beyond_fp16 = 0;  // beyond +-65504: no FP16 weight at all
  int64_t rounded = 0;      // that FP16 does not hold exactly
  double largest_relative_rounding = 0;

  void Merge(const FillStats& other);
};

// Gives the linear memory for [n, k] of its format, and views of it. Nested: both planes in one
// buffer; plain: values of `dtype`.
void AllocateLinear(Linear& linear, QuantFormat format, DType dtype);

// Writes one part from `rows`, whose dtype must be the plain linear's own. Nested planes get the
// clamped weight, and up to max_outliers remainders are added to the outlier list; beyond that
// they are only counted. Throws `code` for a NaN or infinity, naming tensor and place.
FillStats FillPart(Linear& linear, const LinearPart& part, const TensorRows& rows,
                   int64_t max_outliers, ErrorCode code, ThreadPool& threads);

// Sorts the outlier list and shows it in the weight.
void FinishOutliers(Linear& linear);

// Drops the outliers of one part, which is about to be filled again.
void RemoveOutliers(Linear& linear, const LinearPart& part);

}  // namespace dualfp
