// Backends as parameters of tests.

#pragma once

#include <algorithm>
#include <vector>

#include "dualfp/kernels/backend.h"

namespace dualfp {

// The CPU's backends of this machine whose ops differ.
inline std::vector<const Backend*> BackendsWithOps() {
  std::vector<const Backend*> backends = UsableBackends(DeviceType::kCpu);
  const auto same = [](const Backend* a, const Backend* b) { return a->ops == b->ops; };
  backends.erase(std::unique(backends.begin(), backends.end(), same), backends.end());
  return backends;
}

}  // namespace dualfp
