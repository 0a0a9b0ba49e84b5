// The loops of machine_probe.cc as any compiler makes them of plain C++.

#pragma once

#include "dualfp/kernels/cpu/probe_inner.h"

namespace dualfp::reference {

extern const cpu::ProbeInner kProbeInner;

}  // namespace dualfp::reference
