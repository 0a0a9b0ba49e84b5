#include "apps/gpu/cublaslt.h"

#include <dlfcn.h>

#include "apps/gpu/cublaslt_api.h"
#include "apps/gpu/device_memory.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::gpu {
namespace {

constexpr size_t kWorkspaceBytes = 64 << 20;
constexpr const char* kSonames[] = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

void CheckLt(lt::Status status, const char* what) {
  Check(status == 0, ErrorCode::kInternal, what, ": cuBLASLt status ", status);
}

template <class Function>
void Find(void* library, const char* name, Function& function) {
  function = reinterpret_cast<Function>(dlsym(library, name));
  Check(function != nullptr, ErrorCode::kUnsupported, "cuBLASLt has no ", name);
}

void* Open(const std::string& library) {
  if (!library.empty()) {
    void* opened = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    Check(opened != nullptr, ErrorCode::kUnsupported, "cannot load cuBLASLt: ", dlerror());
    return opened;
  }
  for (const char* soname : kSonames) {
    if (void* opened = dlopen(soname, RTLD_NOW | RTLD_LOCAL)) {
      return opened;
    }
  }
  Fail(ErrorCode::kUnsupported, "cannot load cuBLASLt: ", dlerror());
}

}  // namespace

struct CublasLt::State {
  lt::Functions f{};
  lt::Handle handle = nullptr;
  lt::MatmulDesc desc = nullptr;
  lt::MatrixLayout w_layout = nullptr;
  lt::MatrixLayout x_layout = nullptr;
  lt::MatrixLayout y_layout = nullptr;
  DeviceMemory workspace{kWorkspaceBytes};
  DeviceMemory scale{sizeof(float)};  // of each FP8 operand
  Problem problem;
  std::vector<lt::HeuristicResult> algorithms;

  void ReleaseProblem() {
    if (desc != nullptr) {
      f.cublasLtMatmulDescDestroy(desc);
      f.cublasLtMatrixLayoutDestroy(w_layout);
      f.cublasLtMatrixLayoutDestroy(x_layout);
      f.cublasLtMatrixLayoutDestroy(y_layout);
      desc = nullptr;
    }
  }
};

CublasLt::CublasLt(const std::string& library) {
  void* opened = Open(library);
  state_ = std::make_unique<State>();
  lt::Functions& f = state_->f;
  Find(opened, "cublasLtGetVersion", f.cublasLtGetVersion);
  Find(opened, "cublasLtCreate", f.cublasLtCreate);
  Find(opened, "cublasLtDestroy", f.cublasLtDestroy);
  Find(opened, "cublasLtMatmulDescCreate", f.cublasLtMatmulDescCreate);
  Find(opened, "cublasLtMatmulDescDestroy", f.cublasLtMatmulDescDestroy);
  Find(opened, "cublasLtMatmulDescSetAttribute", f.cublasLtMatmulDescSetAttribute);
  Find(opened, "cublasLtMatrixLayoutCreate", f.cublasLtMatrixLayoutCreate);
  Find(opened, "cublasLtMatrixLayoutDestroy", f.cublasLtMatrixLayoutDestroy);
  Find(opened, "cublasLtMatmulPreferenceCreate", f.cublasLtMatmulPreferenceCreate);
  Find(opened, "cublasLtMatmulPreferenceDestroy", f.cublasLtMatmulPreferenceDestroy);
  Find(opened, "cublasLtMatmulPreferenceSetAttribute", f.cublasLtMatmulPreferenceSetAttribute);
  Find(opened, "cublasLtMatmulAlgoGetHeuristic", f.cublasLtMatmulAlgoGetHeuristic);
  Find(opened, "cublasLtMatmul", f.cublasLtMatmul);
  CheckLt(f.cublasLtCreate(&state_->handle), "cublasLtCreate");
  constexpr float root = 1.0f / 16;
  static_assert(kFp8Scale == root * root);
  cuda::CheckCuda(cudaMemcpy(state_->scale.bytes(), &root, sizeof(root), cudaMemcpyHostToDevice),
                  "cudaMemcpy");
}

CublasLt::~CublasLt() {
  state_->ReleaseProblem();
  state_->f.cublasLtDestroy(state_->handle);
}

std::string CublasLt::version() const {
  const size_t version = state_->f.cublasLtGetVersion();
  return StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

int CublasLt::Prepare(const Problem& problem, int most) {
  State& s = *state_;
  s.ReleaseProblem();
  s.problem = problem;
  // Column-major: Y is [N, M] = Wᵀ (stored [K, N]) · X (stored [K, M]).
  CheckLt(s.f.cublasLtMatmulDescCreate(&s.desc, lt::kCompute32F, CUDA_R_32F),
          "cublasLtMatmulDescCreate");
  const auto set = [&](lt::DescAttribute attribute, const auto& value) {
    CheckLt(s.f.cublasLtMatmulDescSetAttribute(s.desc, attribute, &value, sizeof(value)),
            "cublasLtMatmulDescSetAttribute");
  };
  set(lt::kTransA, lt::kOpT);
  set(lt::kTransB, lt::kOpN);
  const cudaDataType_t type = problem.fp8 ? CUDA_R_8F_E4M3 : CUDA_R_16F;
  if (problem.fp8) {
    const float* scale = s.scale.as<float>();
    set(lt::kFastAccumulation, static_cast<int8_t>(problem.fast_accumulation));
    set(lt::kScalePointerA, scale);
    set(lt::kScalePointerB, scale);
  }
  const auto create = s.f.cublasLtMatrixLayoutCreate;
  CheckLt(create(&s.w_layout, type, problem.k, problem.n, problem.k), "layout of W");
  CheckLt(create(&s.x_layout, type, problem.k, problem.m, problem.k), "layout of X");
  CheckLt(create(&s.y_layout, CUDA_R_16F, problem.n, problem.m, problem.n), "layout of Y");
  lt::Preference preference = nullptr;
  CheckLt(s.f.cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
  CheckLt(s.f.cublasLtMatmulPreferenceSetAttribute(preference, lt::kMaxWorkspaceBytes,
                                                   &kWorkspaceBytes, sizeof(kWorkspaceBytes)),
          "cublasLtMatmulPreferenceSetAttribute");
  s.algorithms.resize(most);
  int found = 0;
  const lt::Status status =
      s.f.cublasLtMatmulAlgoGetHeuristic(s.handle, s.desc, s.w_layout, s.x_layout, s.y_layout,
                                         s.y_layout, preference, most, s.algorithms.data(), &found);
  s.f.cublasLtMatmulPreferenceDestroy(preference);
  return status == 0 ? found : 0;
}

void CublasLt::Run(int index, const void* w, cudaStream_t stream) {
  State& s = *state_;
  const float alpha = 1.0f;
  const float beta = 0.0f;
  CheckLt(s.f.cublasLtMatmul(s.handle, s.desc, &alpha, w, s.w_layout, s.problem.x, s.x_layout,
                             &beta, s.problem.y, s.y_layout, s.problem.y, s.y_layout,
                             &s.algorithms[index].algorithm, s.workspace.bytes(), kWorkspaceBytes,
                             stream),
          "cublasLtMatmul");
}

}  // namespace dualfp::gpu
