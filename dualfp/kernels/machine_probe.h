// What the CPU can do at best: the ceilings that benchmarks put kernels beside. One call takes one
// sample; on a shared machine, take many, alternating with what they are compared to.

#pragma once

#include <cstddef>

#include "dualfp/base/thread_pool.h"

namespace dualfp {

// Bytes per second at which all threads together read `size` bytes at `data`, one contiguous part
// each. For memory rather than a cache, `size` must exceed the last cache several times over.
double SampleReadBandwidth(ThreadPool& threads, const void* data, size_t size);

// Floating-point operations per second of all threads together in float fused multiply-adds on
// registers, two per element, over about a millisecond.
double SampleMultiplyAddRate(ThreadPool& threads);

}  // namespace dualfp
