#include "bench/cuda/cublaslt.h"

#include <cublasLt.h>
#include <dlfcn.h>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::bench {
namespace {

constexpr size_t kWorkspaceBytes = 64 << 20;

void CheckLt(cublasStatus_t status, const char* what) {
  Check(status == CUBLAS_STATUS_SUCCESS, ErrorCode::kInternal, what, ": cuBLASLt status ",
        static_cast<int>(status));
}

template <class Function>
void Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  Check(function != nullptr, ErrorCode::kUnsupported, "cuBLASLt has no ", name);
}

}  // namespace

struct CublasLt::State {
  void* library = nullptr;
  decltype(&cublasLtGetVersion) get_version;
  decltype(&cublasLtCreate) create;
  decltype(&cublasLtMatmulDescCreate) desc_create;
  decltype(&cublasLtMatmulDescDestroy) desc_destroy;
  decltype(&cublasLtMatmulDescSetAttribute) desc_set;
  decltype(&cublasLtMatrixLayoutCreate) layout_create;
  decltype(&cublasLtMatrixLayoutDestroy) layout_destroy;
  decltype(&cublasLtMatmulPreferenceCreate) preference_create;
  decltype(&cublasLtMatmulPreferenceDestroy) preference_destroy;
  decltype(&cublasLtMatmulPreferenceSetAttribute) preference_set;
  decltype(&cublasLtMatmulAlgoGetHeuristic) heuristic;
  decltype(&cublasLtMatmul) matmul;

  cublasLtHandle_t handle = nullptr;
  cublasLtMatmulDesc_t desc = nullptr;
  cublasLtMatrixLayout_t w_layout = nullptr;
  cublasLtMatrixLayout_t x_layout = nullptr;
  cublasLtMatrixLayout_t y_layout = nullptr;
  void* workspace = nullptr;
  float* scale = nullptr;  // of each FP8 operand
  Problem problem;
  std::vector<cublasLtMatmulHeuristicResult_t> algorithms;
};

CublasLt::CublasLt(const std::string& path) : state_(new State) {
  State& s = *state_;
  s.library = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL);
  Check(s.library != nullptr, ErrorCode::kUnsupported, "cannot load ", path, ": ", dlerror());
  Find(s.library, "cublasLtGetVersion", s.get_version);
  Find(s.library, "cublasLtCreate", s.create);
  Find(s.library, "cublasLtMatmulDescCreate", s.desc_create);
  Find(s.library, "cublasLtMatmulDescDestroy", s.desc_destroy);
  Find(s.library, "cublasLtMatmulDescSetAttribute", s.desc_set);
  Find(s.library, "cublasLtMatrixLayoutCreate", s.layout_create);
  Find(s.library, "cublasLtMatrixLayoutDestroy", s.layout_destroy);
  Find(s.library, "cublasLtMatmulPreferenceCreate", s.preference_create);
  Find(s.library, "cublasLtMatmulPreferenceDestroy", s.preference_destroy);
  Find(s.library, "cublasLtMatmulPreferenceSetAttribute", s.preference_set);
  Find(s.library, "cublasLtMatmulAlgoGetHeuristic", s.heuristic);
  Find(s.library, "cublasLtMatmul", s.matmul);
  version_ = s.get_version();
  CheckLt(s.create(&s.handle), "cublasLtCreate");
  cuda::CheckCuda(cudaMalloc(&s.workspace, kWorkspaceBytes), "cudaMalloc");
  cuda::CheckCuda(cudaMalloc(reinterpret_cast<void**>(&s.scale), sizeof(float)), "cudaMalloc");
  const float scale = 1.0f / 16;  // keeps FP8 outputs in the range of FP16
  cuda::CheckCuda(cudaMemcpy(s.scale, &scale, sizeof(scale), cudaMemcpyHostToDevice), "cudaMemcpy");
}

int CublasLt::Prepare(const Problem& problem, int most) {
  State& s = *state_;
  s.problem = problem;
  if (s.desc != nullptr) {
    s.desc_destroy(s.desc);
    s.layout_destroy(s.w_layout);
    s.layout_destroy(s.x_layout);
    s.layout_destroy(s.y_layout);
  }
  // Column-major: Y is [N, M] = Wᵀ (stored [K, N]) · X (stored [K, M]).
  CheckLt(s.desc_create(&s.desc, CUBLAS_COMPUTE_32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const auto set = [&](cublasLtMatmulDescAttributes_t attribute, const auto& value) {
    CheckLt(s.desc_set(s.desc, attribute, &value, sizeof(value)), "cublasLtMatmulDescSetAttribute");
  };
  set(CUBLASLT_MATMUL_DESC_TRANSA, CUBLAS_OP_T);
  set(CUBLASLT_MATMUL_DESC_TRANSB, CUBLAS_OP_N);
  const cudaDataType_t type = problem.fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16F;
  if (problem.fp8) {
    set(CUBLASLT_MATMUL_DESC_FAST_ACCUM, static_cast<int8_t>(problem.fast_accumulation));
    set(CUBLASLT_MATMUL_DESC_A_SCALE_POINTER, s.scale);
    set(CUBLASLT_MATMUL_DESC_B_SCALE_POINTER, s.scale);
  }
  CheckLt(s.layout_create(&s.w_layout, type, problem.k, problem.n, problem.k), "W layout");
  CheckLt(s.layout_create(&s.x_layout, type, problem.k, problem.m, problem.k), "X layout");
  CheckLt(s.layout_create(&s.y_layout, CUDA_R_16F, problem.n, problem.m, problem.n), "Y layout");
  cublasLtMatmulPreference_t preference;
  CheckLt(s.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  CheckLt(s.preference_set(preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &kWorkspaceBytes,
                           sizeof(kWorkspaceBytes)),
          "cublasLtMatmulPreferenceSetAttribute");
  s.algorithms.resize(most);
  int found = 0;
  const cublasStatus_t status =
      s.heuristic(s.handle, s.desc, s.w_layout, s.x_layout, s.y_layout, s.y_layout, preference,
                  most, s.algorithms.data(), &found);
  s.preference_destroy(preference);
  return status == CUBLAS_STATUS_SUCCESS ? found : 0;
}

void CublasLt::Run(int index, const void* w, cudaStream_t stream) {
  State& s = *state_;
  const float alpha = 1.0f;
  const float beta = 0.0f;
  CheckLt(s.matmul(s.handle, s.desc, &alpha, w, s.w_layout, s.problem.x, s.x_layout, &beta,
                   s.problem.y, s.y_layout, s.problem.y, s.y_layout, &s.algorithms[index].algo,
                   s.workspace, kWorkspaceBytes, stream),
          "cublasLtMatmul");
}

}  // namespace dualfp::bench
