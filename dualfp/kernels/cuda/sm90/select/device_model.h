// What the cost model should know of the GPU at hand.

#pragma once

#include "dualfp/kernels/cuda/sm90/select/cost_model.h"

namespace dualfp::sm90 {

// Of the calling thread's current device. Throws kUnsupported where there is none.
DeviceModel CurrentDevice();

}  // namespace dualfp::sm90
