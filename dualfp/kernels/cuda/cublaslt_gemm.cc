#include "dualfp/kernels/cuda/cublaslt_gemm.h"

#include <dlfcn.h>

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <optional>

#include "dualfp/base/check.h"
#include "dualfp/base/env.h"
#include "dualfp/kernels/cuda/common/cublaslt_api.h"
#include "dualfp/kernels/cuda/common/scoped_device.h"
#include "dualfp/kernels/cuda/finish_sums.h"
#include "dualfp/kernels/cuda/stream.h"

namespace dualfp::cuda {
namespace lt {
namespace {

struct Library {
  Api api;
  std::string error;  // empty when api is complete
};

Library Open() {
  Library library;
  const std::string name = GetEnv("DUALFP_CUBLASLT").value_or("libcublasLt.so.13");
  void* handle = dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
  if (handle == nullptr) {
    library.error = StrCat("needs cuBLASLt for CUDA 13, which did not load (", dlerror(),
                           "); install it or set DUALFP_CUBLASLT to its path");
    return library;
  }
  const auto find = [&](const char* symbol, auto& function) {
    function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(handle, symbol));
    if (function == nullptr && library.error.empty()) {
      library.error = StrCat("needs cuBLASLt, but ", name, " has no ", symbol);
    }
  };
  Api& api = library.api;
  find("cublasLtGetVersion", api.get_version);
  find("cublasLtCreate", api.create);
  find("cublasLtDestroy", api.destroy);
  find("cublasLtMatmulDescCreate", api.desc_create);
  find("cublasLtMatmulDescSetAttribute", api.desc_set);
  find("cublasLtMatmulDescDestroy", api.desc_destroy);
  find("cublasLtMatrixLayoutCreate", api.layout_create);
  find("cublasLtMatrixLayoutDestroy", api.layout_destroy);
  find("cublasLtMatmulPreferenceCreate", api.preference_create);
  find("cublasLtMatmulPreferenceSetAttribute", api.preference_set);
  find("cublasLtMatmulPreferenceDestroy", api.preference_destroy);
  find("cublasLtMatmulAlgoGetHeuristic", api.heuristic);
  find("cublasLtMatmul", api.matmul);
  return library;
}

}  // namespace

const Api* Load(std::string* why) {
  static const Library library = Open();
  *why = library.error;
  return library.error.empty() ? &library.api : nullptr;
}

}  // namespace lt

namespace {

constexpr int64_t kLtWorkspaceBytes = 32 << 20;

cudaDataType_t CudaType(DType dtype) {
  return dtype == DType::kF16 ? CUDA_R_16F : dtype == DType::kBF16 ? CUDA_R_16BF : CUDA_R_32F;
}

// cuBLASLt adds a residual itself, in Y's dtype.
bool WritesY(const GemmDesc& desc) {
  return !desc.has_bias && desc.activation == Activation::kNone &&
         (desc.y_dtype == desc.x_dtype || desc.y_dtype == DType::kF32);
}

void CheckLt(lt::Status status, const char* what, const GemmDesc& desc) {
  Check(status == lt::kSuccess, ErrorCode::kInternal, "gemm: ", what, " for ", Describe(desc),
        ": cuBLASLt status ", status);
}

uint32_t Alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return static_cast<uint32_t>(std::min<uintptr_t>(256, address & (~address + 1)));
}

// One product as cuBLASLt sees it; column-major, so that Yᵀ [N, M] = W · Xᵀ.
struct Product {
  DType dtype;      // of W and X
  DType out_dtype;  // of C and D
  int64_t m, n, k;
  int64_t x_stride;
  int64_t c_stride;
  int64_t d_stride;
  std::array<uint32_t, 4> alignment;  // of W, X, C, D

  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes the 0 inside for a pointer.
  auto operator<=>(const Product&) const = default;
};

// Prepared products of one device. cuBLASLt's heuristic takes longer than a small product, and a
// model has few shapes; a server whose M wanders would collect many, so the oldest half goes.
class Products {
 public:
  Products(const lt::Api& api, int device) : api_(api) {
    Check(api_.create(&handle_) == lt::kSuccess, ErrorCode::kInternal,
          "cublasLtCreate failed on device ", device);
  }
  Products(const Products&) = delete;
  Products& operator=(const Products&) = delete;

  void Run(const GemmDesc& desc, const Product& product, const void* w, const void* x,
           const void* c, void* d, void* workspace, cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    const Plan& plan = Find(desc, product);
    const float alpha = 1.0f;
    const float beta = desc.has_residual ? 1.0f : 0.0f;
    CheckLt(api_.matmul(handle_, plan.desc, &alpha, w, plan.layouts[0], x, plan.layouts[1], &beta,
                        c, plan.layouts[2], d, plan.layouts[3], &plan.algorithm, workspace,
                        kLtWorkspaceBytes, stream),
            "cublasLtMatmul", desc);
  }

 private:
  static constexpr size_t kMostPlans = 4096;

  struct Plan {
    lt::Object desc = nullptr;
    std::array<lt::Object, 4> layouts{};
    lt::Algorithm algorithm{};
    uint64_t age = 0;
  };

  void Destroy(const Plan& plan) const {
    for (const lt::Object layout : plan.layouts) {
      if (layout != nullptr) {
        api_.layout_destroy(layout);
      }
    }
    if (plan.desc != nullptr) {
      api_.desc_destroy(plan.desc);
    }
  }

  const Plan& Find(const GemmDesc& desc, const Product& product) {
    if (const auto found = plans_.find(product); found != plans_.end()) {
      return found->second;
    }
    if (plans_.size() >= kMostPlans) {
      const uint64_t oldest = made_ - kMostPlans / 2;
      std::erase_if(plans_, [&](const auto& entry) {
        if (entry.second.age < oldest) {
          Destroy(entry.second);
        }
        return entry.second.age < oldest;
      });
    }
    Plan plan;
    try {
      Make(desc, product, plan);
    } catch (...) {
      Destroy(plan);
      throw;
    }
    plan.age = made_++;
    return plans_.emplace(product, plan).first->second;
  }

  void Make(const GemmDesc& desc, const Product& product, Plan& plan) const {
    CheckLt(api_.desc_create(&plan.desc, lt::kCompute32F, CUDA_R_32F), "cublasLtMatmulDescCreate",
            desc);
    CheckLt(api_.desc_set(plan.desc, lt::kDescTransA, &lt::kOpTranspose, sizeof(int32_t)),
            "cublasLtMatmulDescSetAttribute", desc);
    const auto layout = [&](int index, DType dtype, int64_t rows, int64_t columns, int64_t stride) {
      CheckLt(api_.layout_create(&plan.layouts[index], CudaType(dtype), rows, columns, stride),
              "cublasLtMatrixLayoutCreate", desc);
    };
    layout(0, product.dtype, product.k, product.n, product.k);
    layout(1, product.dtype, product.k, product.m, product.x_stride);
    layout(2, product.out_dtype, product.n, product.m, product.c_stride);
    layout(3, product.out_dtype, product.n, product.m, product.d_stride);
    lt::Object preference = nullptr;
    CheckLt(api_.preference_create(&preference), "cublasLtMatmulPreferenceCreate", desc);
    const uint64_t bytes = kLtWorkspaceBytes;
    api_.preference_set(preference, lt::kPreferenceWorkspaceBytes, &bytes, sizeof(bytes));
    for (int i = 0; i < 4; ++i) {
      api_.preference_set(preference, lt::kPreferenceAlignmentA + i, &product.alignment[i],
                          sizeof(uint32_t));
    }
    lt::Heuristic best{};
    int found = 0;
    const lt::Status status =
        api_.heuristic(handle_, plan.desc, plan.layouts[0], plan.layouts[1], plan.layouts[2],
                       plan.layouts[3], preference, 1, &best, &found);
    api_.preference_destroy(preference);
    Check(status == lt::kSuccess && found > 0, ErrorCode::kUnsupported,
          "gemm: cuBLASLt has no kernel for ", Describe(desc), " (status ", status, ")");
    plan.algorithm = best.algorithm;
  }

  const lt::Api& api_;
  lt::Object handle_ = nullptr;
  std::mutex mutex_;
  std::map<Product, Plan> plans_;
  uint64_t made_ = 0;
};

Products& ProductsOfDevice(int device) {
  static std::mutex mutex;
  static std::map<int, Products> devices;
  std::string why;
  const lt::Api* api = lt::Load(&why);
  Check(api != nullptr, ErrorCode::kUnsupported, "gemm: ", why);
  const std::lock_guard lock(mutex);
  return devices.try_emplace(device, *api, device).first->second;
}

}  // namespace

std::string CublasLtMissing() {
  std::string why;
  lt::Load(&why);
  return why;
}

void PrepareCublasLt(int device) { ProductsOfDevice(device); }

int64_t CublasLtWorkspaceBytes(const GemmDesc& desc) {
  return kLtWorkspaceBytes +
         (WritesY(desc) ? 0 : desc.m * desc.n * static_cast<int64_t>(sizeof(float)));
}

void RunCublasLt(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  const bool direct = WritesY(desc);
  uint8_t* workspace = context.workspace.as<uint8_t>();
  float* sums = reinterpret_cast<float*>(workspace + kLtWorkspaceBytes);
  void* d = direct ? args.y.data : sums;
  const bool adds = direct && desc.has_residual;
  const void* c = adds ? args.residual.data : d;
  const void* w = args.weight->values.data;
  Product product;
  product.dtype = desc.x_dtype;
  product.out_dtype = direct ? desc.y_dtype : DType::kF32;
  product.m = desc.m;
  product.n = desc.n;
  product.k = desc.k;
  product.x_stride = desc.m > 1 ? args.x.strides[0] : desc.k;
  product.d_stride = !direct || desc.m == 1 ? desc.n : args.y.strides[0];
  product.c_stride = !adds ? product.d_stride : desc.m == 1 ? desc.n : args.residual.strides[0];
  product.alignment = {Alignment(w), Alignment(args.x.data), Alignment(c), Alignment(d)};
  const cudaStream_t stream = StreamOf(context).get();
  const ScopedDevice scope(context.device.index);
  GemmDesc product_desc = desc;
  product_desc.has_residual = adds;
  ProductsOfDevice(context.device.index)
      .Run(product_desc, product, w, args.x.data, c, d, workspace, stream);
  if (!direct) {
    FinishArgs finish;
    finish.sums = sums;
    finish.m = desc.m;
    finish.n = desc.n;
    finish.bias = args.bias.as<float>();
    finish.residual = args.residual.data;
    finish.residual_stride = args.residual.strides[0];
    finish.y = args.y.data;
    finish.y_stride = args.y.strides[0];
    finish.type = desc.y_dtype == DType::kF16    ? FinishType::kF16
                  : desc.y_dtype == DType::kBF16 ? FinishType::kBf16
                                                 : FinishType::kF32;
    finish.silu_mul = desc.activation == Activation::kSiluMul;
    FinishSums(finish, stream);
  }
}

}  // namespace dualfp::cuda
