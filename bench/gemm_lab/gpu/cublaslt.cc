#include "bench/gemm_lab/gpu/cublaslt.h"

#include <fmt/core.h>

#include "bench/gemm_lab/gpu/device_memory.h"
#include "dualfp/base/check.h"
#include "dualfp/base/env.h"
#include "dualfp/kernels/cuda/common/cublaslt_api.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::gpu {
namespace lt = cuda::lt;

namespace {

constexpr size_t kWorkspaceBytes = 64 << 20;

// Attributes and values of cublasLt.h, as those in cublaslt_api.h: how operands are scaled.
constexpr int kDescScaleModeA = 31;
constexpr int kDescScaleModeB = 32;
constexpr int32_t kScaleVector128 = 4;
constexpr int32_t kScaleBlock128x128 = 5;

void CheckLt(lt::Status status, const char* what) {
  Check(status == lt::kSuccess, ErrorCode::kInternal, what, ": cuBLASLt status ", status);
}

const lt::Api& LoadApi() {
  std::string why;
  const lt::Api* api = lt::Load(&why);
  Check(api != nullptr, ErrorCode::kUnsupported, why);
  return *api;
}

}  // namespace

struct CublasLt::State {
  explicit State(const lt::Api& functions) : f(functions) {}

  const lt::Api& f;
  lt::Object handle = nullptr;
  lt::Object desc = nullptr;
  lt::Object w_layout = nullptr;
  lt::Object x_layout = nullptr;
  lt::Object y_layout = nullptr;
  DeviceMemory workspace{kWorkspaceBytes};
  DeviceMemory scale{sizeof(float)};  // of each FP8 operand
  Problem problem;
  std::vector<lt::Heuristic> algorithms;

  void ReleaseProblem() {
    if (desc != nullptr) {
      f.desc_destroy(desc);
      f.layout_destroy(w_layout);
      f.layout_destroy(x_layout);
      f.layout_destroy(y_layout);
      desc = nullptr;
    }
  }
};

CublasLt::CublasLt() {
  const lt::Api& api = LoadApi();
  state_ = std::make_unique<State>(api);
  CheckLt(api.create(&state_->handle), "cublasLtCreate");
  constexpr float root = 1.0f / 16;
  static_assert(kFp8Scale == root * root);
  cuda::CheckCuda(cudaMemcpy(state_->scale.bytes(), &root, sizeof(root), cudaMemcpyHostToDevice),
                  "cudaMemcpy");
}

CublasLt::~CublasLt() {
  state_->ReleaseProblem();
  state_->f.destroy(state_->handle);
}

std::string CublasLt::version() const {
  const size_t version = state_->f.get_version();
  return StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

int CublasLt::Prepare(const Problem& problem, int most) {
  State& s = *state_;
  s.ReleaseProblem();
  s.problem = problem;
  // Column-major: Y is [N, M] = Wᵀ (stored [K, N]) · X (stored [K, M]).
  CheckLt(s.f.desc_create(&s.desc, lt::kCompute32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
  const auto set = [&](int attribute, const auto& value) {
    CheckLt(s.f.desc_set(s.desc, attribute, &value, sizeof(value)),
            "cublasLtMatmulDescSetAttribute");
  };
  set(lt::kDescTransA, lt::kOpTranspose);
  if (problem.type == CUDA_R_8F_E4M3) {
    const float* scale = s.scale.as<float>();
    const bool blocks = problem.w_block_scales != nullptr;
    set(lt::kDescFastAccumulation, static_cast<int8_t>(problem.fast_accumulation));
    set(lt::kDescScalePointerA, blocks ? problem.w_block_scales : scale);
    set(lt::kDescScalePointerB, blocks ? problem.x_group_scales : scale);
    if (blocks) {
      set(kDescScaleModeA, kScaleBlock128x128);
      set(kDescScaleModeB, kScaleVector128);
    }
  }
  const auto create = s.f.layout_create;
  CheckLt(create(&s.w_layout, problem.type, problem.k, problem.n, problem.k), "layout of W");
  CheckLt(create(&s.x_layout, problem.type, problem.k, problem.m, problem.k), "layout of X");
  const cudaDataType_t y_type = problem.type == CUDA_R_16BF ? CUDA_R_16BF : CUDA_R_16F;
  CheckLt(create(&s.y_layout, y_type, problem.n, problem.m, problem.n), "layout of Y");
  lt::Object preference = nullptr;
  CheckLt(s.f.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  CheckLt(s.f.preference_set(preference, lt::kPreferenceWorkspaceBytes, &kWorkspaceBytes,
                             sizeof(kWorkspaceBytes)),
          "cublasLtMatmulPreferenceSetAttribute");
  s.algorithms.resize(most);
  int found = 0;
  const lt::Status status =
      s.f.heuristic(s.handle, s.desc, s.w_layout, s.x_layout, s.y_layout, s.y_layout, preference,
                    most, s.algorithms.data(), &found);
  s.f.preference_destroy(preference);
  return status == 0 ? found : 0;
}

void CublasLt::Run(int index, const void* w, cudaStream_t stream) {
  State& s = *state_;
  const float alpha = 1.0f;
  const float beta = 0.0f;
  CheckLt(s.f.matmul(s.handle, s.desc, &alpha, w, s.w_layout, s.problem.x, s.x_layout, &beta,
                     s.problem.y, s.y_layout, s.problem.y, s.y_layout,
                     &s.algorithms[index].algorithm, s.workspace.bytes(), kWorkspaceBytes, stream),
          "cublasLtMatmul");
}

std::unique_ptr<CublasLt> OpenCublasLt(const char* consequence) {
  try {
    return std::make_unique<CublasLt>();
  } catch (const Error& error) {
    if (GetEnv("DUALFP_CUBLASLT")) {
      throw;
    }
    fmt::print(stderr, "dualfp: note: no baseline, {}: {}\n", consequence, error.what());
    return nullptr;
  }
}

}  // namespace dualfp::gpu
