// Lets one definition serve the host compiler and nvcc's device pass.

#pragma once

#if defined(__CUDACC__)
#define DUALFP_HOST_DEVICE __host__ __device__
#else
#define DUALFP_HOST_DEVICE
#endif
