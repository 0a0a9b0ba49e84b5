// Splitting BF16 weights into Nested12 planes, and back (formats.md, Nested12; numeric/nested12.h
// has the format's one-element functions).

#pragma once

#include <cstdint>
#include <string_view>

#include "dualfp/base/thread_pool.h"
#include "dualfp/kernels/nest.h"
#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {

// Bytes of a row of the nibble plane.
constexpr int64_t NibbleBytes(int64_t k) { return (k + 1) / 2; }

// The memory of a weight [N, K]: contiguous and on the CPU.
template <typename View>
struct BasicNested12Planes {
  View upper;   // F8_E4M3 [N, K]
  View nibble;  // U8 [N, ceil(K/2)]: even columns in the low half; an odd K's last is 0
  View shift;   // I8 [N]
};

using Nested12Planes = BasicNested12Planes<TensorView>;
using ConstNested12Planes = BasicNested12Planes<ConstTensorView>;

// Splits `source`, BF16, F16 or F32 [N, K], contiguous and on the CPU. F16 and F32 round to BF16
// first, which the report counts. Weights below 2^-14 of their shifted row that the planes do not
// hold exactly leave a remainder, w - plane * 2^-shift, in `remainders`, which is replaced:
// NestReport::outliers counts those.
//
// With more than `max_remainders`, the report says so (its other counts are then incomplete) and
// planes and `remainders` are of no use: the tensor had better stay plain.
//
// Throws kInvalidFile, naming `name` and the element, on a weight that is NaN or infinite or rounds
// to infinity, and kInvalidArgument on shapes and dtypes.
NestReport Nest12(ThreadPool& threads, std::string_view name, const ConstTensorView& source,
                  const Nested12Planes& planes, int64_t max_remainders, OutlierBuffers* remainders);

// The same for one row of `count` weights on the calling thread: adds to `report` and appends to
// `remainders`, where the row's first weight has index `first_index`. Returns the place of the
// first weight that is not finite, and then has not finished, or -1.
int64_t Nest12Row(const void* source, DType dtype, int64_t count, int64_t first_index,
                  uint8_t* upper, uint8_t* nibbles, int8_t* shift, NestReport& report,
                  OutlierBuffers& remainders);

// The exact BF16 weight again: `out` BF16 [N, K]. Planes and remainders as Nest12() made or
// CheckNested12() accepted them.
void Unnest12(ThreadPool& threads, const ConstNested12Planes& planes, const OutlierList& remainders,
              const TensorView& out);

// Row `row` of it, to as many BF16 patterns as the planes have columns, on the calling thread.
void Unnest12Row(const ConstNested12Planes& planes, const OutlierList& remainders, int64_t row,
                 uint16_t* out);

// Throws kInvalidFile, naming `name` and the element, unless the planes and remainders are ones
// that Nest12() could have made, whatever the shifts: for planes that were read from a file.
void CheckNested12(ThreadPool& threads, std::string_view name, const ConstNested12Planes& planes,
                   const OutlierList& remainders);

}  // namespace dualfp
