// How CPU ops share rows among threads.

#pragma once

#include <algorithm>
#include <cstdint>
#include <functional>

#include "dualfp/kernels/context.h"

namespace dualfp {

// Calls body(begin, end) over chunks of [0, rows). A chunk holds at least min_elements elements
// (rows of row_elements each), so that small work stays on the calling thread. Allocates nothing.
template <typename Body>
void ParallelRows(const Context& context, int64_t rows, int64_t row_elements, int64_t min_elements,
                  const Body& body) {
  const int64_t grain = std::max<int64_t>(1, min_elements / std::max<int64_t>(1, row_elements));
  const auto chunk = [&body](int64_t begin, int64_t end, int) { body(begin, end); };
  context.threads->ParallelFor(rows, grain, std::cref(chunk));
}

}  // namespace dualfp
