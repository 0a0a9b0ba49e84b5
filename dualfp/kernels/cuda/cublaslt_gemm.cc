#include "dualfp/kernels/cuda/cublaslt_gemm.h"

#include <algorithm>
#include <array>
#include <map>
#include <mutex>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cublaslt_product.h"
#include "dualfp/kernels/cuda/common/scoped_device.h"
#include "dualfp/kernels/cuda/finish_sums.h"
#include "dualfp/kernels/cuda/stream.h"

namespace dualfp::cuda {
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

uint32_t Alignment(const void* p) {
  const auto address = reinterpret_cast<uintptr_t>(p);
  return static_cast<uint32_t>(std::min<uintptr_t>(256, address & (~address + 1)));
}

// What distinguishes prepared products.
struct ProductKey {
  DType dtype;      // of W and X
  DType out_dtype;  // of C and D
  int64_t m, n, k;
  int64_t x_stride;
  int64_t c_stride;
  int64_t d_stride;
  std::array<uint32_t, 4> alignment;  // of W, X, C, D

  // NOLINTNEXTLINE(modernize-use-nullptr): clang-tidy 14 takes the 0 inside for a pointer.
  auto operator<=>(const ProductKey&) const = default;
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

  void Run(const ProductKey& key, const lt::Operands& operands, float beta, void* workspace,
           cudaStream_t stream) {
    const std::lock_guard lock(mutex_);
    const Prepared& prepared = Find(key);
    prepared.product.Run(handle_, prepared.algorithm, operands, beta, workspace, kLtWorkspaceBytes,
                         stream);
  }

 private:
  static constexpr size_t kMostPrepared = 4096;

  struct Prepared {
    lt::Product product;
    lt::Algorithm algorithm;
    uint64_t age;
  };

  const Prepared& Find(const ProductKey& key) {
    if (const auto found = prepared_.find(key); found != prepared_.end()) {
      return found->second;
    }
    if (prepared_.size() >= kMostPrepared) {
      const uint64_t oldest = made_ - kMostPrepared / 2;
      std::erase_if(prepared_, [&](const auto& entry) { return entry.second.age < oldest; });
    }
    lt::Product product(api_, {CudaType(key.dtype), CudaType(key.out_dtype), key.m, key.n, key.k,
                               key.x_stride, key.c_stride, key.d_stride});
    lt::Heuristic best{};
    Check(product.FindAlgorithms(handle_, kLtWorkspaceBytes, key.alignment, {&best, 1}) > 0,
          ErrorCode::kUnsupported, "cuBLASLt has no kernel");
    return prepared_.emplace(key, Prepared{std::move(product), best.algorithm, made_++})
        .first->second;
  }

  const lt::Api& api_;
  lt::Object handle_ = nullptr;
  std::mutex mutex_;
  std::map<ProductKey, Prepared> prepared_;
  uint64_t made_ = 0;
};

Products& ProductsOfDevice(int device) {
  static std::mutex mutex;
  static std::map<int, Products> devices;
  std::string why;
  const lt::Api* api = lt::Load(&why);
  Check(api != nullptr, ErrorCode::kUnsupported, why);
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
  ProductKey product;
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
  try {
    ProductsOfDevice(context.device.index)
        .Run(product, {w, args.x.data, c, d}, adds ? 1.0f : 0.0f, workspace, stream);
  } catch (const Error& error) {
    Fail(error.code(), "gemm: ", error.what(), " for ", Describe(desc));
  }
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
