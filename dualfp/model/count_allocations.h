// For tests: how often this process has called operator new. Linking count_allocations.cc replaces
// the operator.

#pragma once

#include <cstdint>

namespace dualfp {

int64_t CountAllocations();

}  // namespace dualfp
