#include "bench/gemm_lab/gpu/cublaslt.h"

#include <fmt/core.h>

#include <optional>

#include "bench/gemm_lab/gpu/device_memory.h"
#include "dualfp/base/check.h"
#include "dualfp/base/env.h"
#include "dualfp/kernels/cuda/common/cublaslt_product.h"
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
  explicit State(const lt::Api& functions) : api(functions) {}

  const lt::Api& api;
  lt::Object handle = nullptr;
  DeviceMemory workspace{kWorkspaceBytes};
  DeviceMemory scale{sizeof(float)};  // of each FP8 operand
  Problem problem;
  std::optional<lt::Product> product;
  std::vector<lt::Heuristic> algorithms;
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
  state_->product.reset();
  state_->api.destroy(state_->handle);
}

std::string CublasLt::version() const {
  const size_t version = state_->api.get_version();
  return StrCat(version / 10000, ".", version / 100 % 100, ".", version % 100);
}

int CublasLt::Prepare(const Problem& problem, int most) {
  State& s = *state_;
  s.problem = problem;
  const cudaDataType_t y_type = problem.type == CUDA_R_16BF ? CUDA_R_16BF : CUDA_R_16F;
  s.product.reset();
  lt::Product& product =
      s.product.emplace(s.api, lt::ProductShape{problem.type, y_type, problem.m, problem.n,
                                                problem.k, problem.k, problem.n, problem.n});
  if (problem.type == CUDA_R_8F_E4M3) {
    const float* scale = s.scale.as<float>();
    const bool blocks = problem.w_block_scales != nullptr;
    product.Set(lt::kDescFastAccumulation, static_cast<int8_t>(problem.fast_accumulation));
    product.Set(lt::kDescScalePointerA, blocks ? problem.w_block_scales : scale);
    product.Set(lt::kDescScalePointerB, blocks ? problem.x_group_scales : scale);
    if (blocks) {
      product.Set(kDescScaleModeA, kScaleBlock128x128);
      product.Set(kDescScaleModeB, kScaleVector128);
    }
  }
  s.algorithms.resize(most);
  constexpr uint32_t kAligned = 256;  // as all that is allocated
  return product.FindAlgorithms(s.handle, kWorkspaceBytes, {kAligned, kAligned, kAligned, kAligned},
                                s.algorithms);
}

void CublasLt::Run(int index, const void* w, cudaStream_t stream) {
  State& s = *state_;
  s.product->Run(s.handle, s.algorithms[index].algorithm,
                 {w, s.problem.x, s.problem.y, s.problem.y}, 0.0f, s.workspace.bytes(),
                 kWorkspaceBytes, stream);
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
