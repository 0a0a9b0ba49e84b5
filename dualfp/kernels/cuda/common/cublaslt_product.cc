#include "dualfp/kernels/cuda/common/cublaslt_product.h"

#include <utility>

#include "dualfp/base/check.h"

namespace dualfp::cuda::lt {
namespace {

void CheckStatus(Status status, const char* call) {
  Check(status == kSuccess, ErrorCode::kInternal, call, ": cuBLASLt status ", status);
}

}  // namespace

Product::Product(const Api& api, const ProductShape& shape) : api_(api) {
  try {
    CheckStatus(api_.desc_create(&desc_, kCompute32F, CUDA_R_32F), "cublasLtMatmulDescCreate");
    Set(kDescTransA, kOpTranspose);
    const auto layout = [&](int index, cudaDataType_t type, int64_t rows, int64_t columns,
                            int64_t stride) {
      CheckStatus(api_.layout_create(&layouts_[index], type, rows, columns, stride),
                  "cublasLtMatrixLayoutCreate");
    };
    layout(0, shape.type, shape.k, shape.n, shape.k);
    layout(1, shape.type, shape.k, shape.m, shape.x_stride);
    layout(2, shape.out_type, shape.n, shape.m, shape.c_stride);
    layout(3, shape.out_type, shape.n, shape.m, shape.d_stride);
  } catch (...) {
    Destroy();
    throw;
  }
}

Product::Product(Product&& other) noexcept
    : api_(other.api_),
      desc_(std::exchange(other.desc_, nullptr)),
      layouts_(std::exchange(other.layouts_, {})) {}

Product::~Product() { Destroy(); }

void Product::Destroy() {
  for (const Object layout : layouts_) {
    if (layout != nullptr) {
      api_.layout_destroy(layout);
    }
  }
  if (desc_ != nullptr) {
    api_.desc_destroy(desc_);
  }
}

void Product::Set(int attribute, const void* value, size_t bytes) {
  CheckStatus(api_.desc_set(desc_, attribute, value, bytes), "cublasLtMatmulDescSetAttribute");
}

int Product::FindAlgorithms(Object handle, uint64_t workspace_bytes,
                            const std::array<uint32_t, 4>& alignment,
                            std::span<Heuristic> found) const {
  Object preference = nullptr;
  CheckStatus(api_.preference_create(&preference), "cublasLtMatmulPreferenceCreate");
  api_.preference_set(preference, kPreferenceWorkspaceBytes, &workspace_bytes,
                      sizeof(workspace_bytes));
  for (size_t i = 0; i < alignment.size(); ++i) {
    api_.preference_set(preference, kPreferenceAlignmentA + static_cast<int>(i), &alignment[i],
                        sizeof(uint32_t));
  }
  int count = 0;
  const Status status =
      api_.heuristic(handle, desc_, layouts_[0], layouts_[1], layouts_[2], layouts_[3], preference,
                     static_cast<int>(found.size()), found.data(), &count);
  api_.preference_destroy(preference);
  return status == kSuccess ? count : 0;
}

void Product::Run(Object handle, const Algorithm& algorithm, const Operands& operands, float beta,
                  void* workspace, size_t workspace_bytes, cudaStream_t stream) const {
  const float alpha = 1.0f;
  CheckStatus(api_.matmul(handle, desc_, &alpha, operands.w, layouts_[0], operands.x, layouts_[1],
                          &beta, operands.c, layouts_[2], operands.d, layouts_[3], &algorithm,
                          workspace, workspace_bytes, stream),
              "cublasLtMatmul");
}

}  // namespace dualfp::cuda::lt
