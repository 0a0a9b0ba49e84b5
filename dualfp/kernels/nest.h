// Splitting weights into nested planes, and back (formats.md, NestedFP; numeric/nested.h has the
// format's one-element functions).

#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "dualfp/base/thread_pool.h"
#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {

// Owns what an OutlierList shows.
struct OutlierBuffers {
  std::vector<int64_t> index;  // ascending, into the flat tensor
  std::vector<float> value;    // w - clamp(w)

  // Valid while this is neither changed nor destroyed.
  OutlierList View() const;
};

struct NestReport {
  int64_t elements = 0;
  int64_t outliers = 0;                 // |w| > 1.75
  int64_t rounded = 0;                  // BF16 and F32 weights that are not exact in FP16
  double largest_relative_error = 0.0;  // of those
};

// Splits `source`, F16, BF16 or F32, contiguous and on the CPU, into `upper` (F8_E4M3) and `lower`
// (U8) of the same number of elements. BF16 and F32 round to FP16 first; beyond FP16's range a
// weight keeps its own value as an outlier. Outliers go to the planes as +-1.75 and the rest of
// them to `outliers`, which is replaced.
//
// With more than `max_outliers`, the report says so (its other counts are then incomplete) and
// planes and `outliers` are of no use: the tensor had better stay plain.
//
// Throws kInvalidFile, naming `name` and the element, on NaN or infinity, and kInvalidArgument on
// shapes and dtypes. Reads the source once; all cores together are bound by memory.
NestReport Nest(ThreadPool& threads, std::string_view name, const ConstTensorView& source,
                const TensorView& upper, const TensorView& lower, int64_t max_outliers,
                OutlierBuffers* outliers);

// The same for one run of `count` weights on the calling thread, for a caller whose rows do not lie
// one after the other: adds to `report` and appends to `outliers`, where the run's first weight has
// index `first_index`. Returns the place of the first NaN or infinity in the run, and then has not
// finished, or -1.
int64_t NestRun(const void* source, DType dtype, int64_t count, int64_t first_index, uint8_t* upper,
                uint8_t* lower, NestReport& report, OutlierBuffers& outliers);

// The exact FP16 weight again: `out` F16 with as many elements. Planes and outliers as Nest() made
// or CheckNested() accepted them. Outliers beyond FP16's range become infinities.
void Unnest(ThreadPool& threads, const ConstTensorView& upper, const ConstTensorView& lower,
            const OutlierList& outliers, const TensorView& out);

// Throws kInvalidFile, naming `name` and the element, unless the planes and outliers are ones that
// Nest() could have made: for planes that were read from a file.
void CheckNested(ThreadPool& threads, std::string_view name, const ConstTensorView& upper,
                 const ConstTensorView& lower, const OutlierList& outliers);

}  // namespace dualfp
