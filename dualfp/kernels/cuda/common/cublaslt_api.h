// The part of cuBLASLt's C interface that dualfp calls, declared here because the library is loaded
// at run time and its headers are a download of hundreds of megabytes. Names and values are those
// of cublasLt.h of CUDA 13 (documented at docs.nvidia.com/cuda/cublas, "Using the cuBLASLt API");
// the version in the library's name guards them.

#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>
#include <string>

namespace dualfp::cuda::lt {

using Object = void*;  // handle, descriptor, layout or preference
using Status = int;

constexpr Status kSuccess = 0;
constexpr int kCompute32F = 68;
constexpr int32_t kOpTranspose = 1;
constexpr int kDescTransA = 3;
constexpr int kDescScalePointerA = 17;  // of FP8 operands; const float* on the device
constexpr int kDescScalePointerB = 18;
constexpr int kDescFastAccumulation = 25;  // int8_t
constexpr int kPreferenceWorkspaceBytes = 1;
constexpr int kPreferenceAlignmentA = 5;  // then B, C, D; uint32_t bytes

struct Algorithm {
  uint64_t data[8];
};

struct Heuristic {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

struct Api {
  size_t (*get_version)();  // 130100: 13.1.0
  Status (*create)(Object* handle);
  Status (*destroy)(Object handle);
  Status (*desc_create)(Object* desc, int compute, cudaDataType_t scale);
  Status (*desc_set)(Object desc, int attribute, const void* value, size_t bytes);
  Status (*desc_destroy)(Object desc);
  Status (*layout_create)(Object* layout, cudaDataType_t type, uint64_t rows, uint64_t columns,
                          int64_t leading);
  Status (*layout_destroy)(Object layout);
  Status (*preference_create)(Object* preference);
  Status (*preference_set)(Object preference, int attribute, const void* value, size_t bytes);
  Status (*preference_destroy)(Object preference);
  Status (*heuristic)(Object handle, Object desc, Object a, Object b, Object c, Object d,
                      Object preference, int wanted, Heuristic* results, int* found);
  Status (*matmul)(Object handle, Object desc, const void* alpha, const void* a, Object a_layout,
                   const void* b, Object b_layout, const void* beta, const void* c, Object c_layout,
                   void* d, Object d_layout, const Algorithm* algorithm, void* workspace,
                   size_t workspace_bytes, cudaStream_t stream);
};

// The library, loaded once: DUALFP_CUBLASLT names it, else libcublasLt.so.13 is looked for. nullptr
// where there is none, and then *why says what was tried.
const Api* Load(std::string* why);

}  // namespace dualfp::cuda::lt
