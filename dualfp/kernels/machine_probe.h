// Work that runs as fast as the CPU can: the ceilings that benchmarks put kernels beside. One call
// is one sample of a few milliseconds at most; on a shared machine, take many, alternating with
// what they are compared to.

#pragma once

#include <cstdint>

#include "dualfp/base/thread_pool.h"

namespace dualfp {

// All threads together read `size` bytes at `data`, one contiguous part each. Returns the bytes
// read. For memory rather than a cache, `size` must exceed the last cache.
int64_t ProbeRead(ThreadPool& threads, const void* data, int64_t size);

// All threads do float fused multiply-adds on registers, for about a millisecond. Returns the
// floating-point operations done by all of them, two for each element.
int64_t ProbeMultiplyAdd(ThreadPool& threads);

}  // namespace dualfp
