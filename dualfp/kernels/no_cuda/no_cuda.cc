// Stands in for cuda/ in builds without nvcc.

#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/device_driver.h"

namespace dualfp {

const DeviceDriver* CudaDriver() { return nullptr; }

std::vector<Backend> CudaBackends() { return {}; }

}  // namespace dualfp
