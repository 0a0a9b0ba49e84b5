// Which SMs of a device lie in one GPC, which CUDA does not tell: found by where clusters run,
// since the CTAs of a cluster share a GPC.

#pragma once

#include <array>
#include <cstdint>

#include "dualfp/kernels/cuda/sm90/gemm_params.h"

namespace dualfp::sm90 {

struct GpcMap {
  int sms = 0;   // 0: not known
  int gpcs = 0;  // groups of SMs that clusters were seen to share
  std::array<uint8_t, kMostSlots> of_sm = {};
  std::array<uint8_t, kMostGpcs> members = {};  // largest groups first
};

// Of the current device. Runs some small kernels when first asked for and waits for them; not for
// streams that are being captured. Devices of more than kMostSlots SMs stay unknown.
const GpcMap& FindGpcs();

// The same, or nothing known yet.
const GpcMap& KnownGpcs();

}  // namespace dualfp::sm90
