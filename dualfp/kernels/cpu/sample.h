// The CPU's sampler, the same for every instruction set: plain C++ that compilers vectorise.

#pragma once

#include "dualfp/kernels/sample.h"

namespace dualfp::cpu {

void Sample(const Context& context, const SampleArgs& args);

}  // namespace dualfp::cpu
