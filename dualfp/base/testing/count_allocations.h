// For tests: how often this process has called operator new. Linking count_allocations.cc replaces
// the operator in all its forms (those that do not throw, too: a sanitizer finds memory of the one
// freed by the other).

#pragma once

#include <cstdint>

namespace dualfp {

int64_t CountAllocations();

}  // namespace dualfp
