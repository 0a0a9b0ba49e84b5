// The part of cuBLASLt's C interface (version 12 and later) that the baseline calls, declared here
// so that the command builds on machines that have neither its headers nor its library.
// https://docs.nvidia.com/cuda/cublas/index.html#using-the-cublaslt-api

#pragma once

#include <cuda_runtime_api.h>
#include <library_types.h>

#include <cstddef>
#include <cstdint>

namespace dualfp::gpu::lt {

using Status = int;  // 0: success
using Handle = void*;
using MatmulDesc = void*;
using MatrixLayout = void*;
using Preference = void*;

enum ComputeType : int { kCompute32F = 68 };
enum Operation : int { kOpN = 0, kOpT = 1 };
enum DescAttribute : int {
  kTransA = 3,
  kTransB = 4,
  kScalePointerA = 17,
  kScalePointerB = 18,
  kFastAccumulation = 25,
};
enum PreferenceAttribute : int { kMaxWorkspaceBytes = 1 };

struct Algorithm {
  uint64_t data[8];
};

struct HeuristicResult {
  Algorithm algorithm;
  size_t workspace_bytes;
  Status state;
  float waves;
  int reserved[4];
};

// By the names in the library.
struct Functions {
  size_t (*cublasLtGetVersion)();
  Status (*cublasLtCreate)(Handle*);
  Status (*cublasLtDestroy)(Handle);
  Status (*cublasLtMatmulDescCreate)(MatmulDesc*, ComputeType, cudaDataType_t scale);
  Status (*cublasLtMatmulDescDestroy)(MatmulDesc);
  Status (*cublasLtMatmulDescSetAttribute)(MatmulDesc, DescAttribute, const void*, size_t);
  Status (*cublasLtMatrixLayoutCreate)(MatrixLayout*, cudaDataType_t, uint64_t rows,
                                       uint64_t columns, int64_t leading_dimension);
  Status (*cublasLtMatrixLayoutDestroy)(MatrixLayout);
  Status (*cublasLtMatmulPreferenceCreate)(Preference*);
  Status (*cublasLtMatmulPreferenceDestroy)(Preference);
  Status (*cublasLtMatmulPreferenceSetAttribute)(Preference, PreferenceAttribute, const void*,
                                                 size_t);
  Status (*cublasLtMatmulAlgoGetHeuristic)(Handle, MatmulDesc, MatrixLayout a, MatrixLayout b,
                                           MatrixLayout c, MatrixLayout d, Preference, int most,
                                           HeuristicResult*, int* found);
  Status (*cublasLtMatmul)(Handle, MatmulDesc, const void* alpha, const void* a, MatrixLayout,
                           const void* b, MatrixLayout, const void* beta, const void* c,
                           MatrixLayout, void* d, MatrixLayout, const Algorithm*, void* workspace,
                           size_t workspace_bytes, cudaStream_t);
};

}  // namespace dualfp::gpu::lt
