// Y[M,N] = X[M,K] · W[N,K]ᵀ: the op that dualfp exists for.
//
// GemmDesc identifies a problem completely (no pointers); kernels declare which descriptions they
// support; table.cc lists them, best first, reference last. The first that supports a description
// runs, unless DUALFP_KERNEL=name forces one.
//
// Contract of Gemm():
//   * X is row-major [M, K], Y row-major [M, N]; rows may be strided, columns are contiguous.
//   * W is a Weight (tensor/weight.h) on the same device as X and Y.
//   * M >= 0, N and K >= 1; kernels handle any size, padding inside where they need it.
//   * Y does not alias X. It may alias `residual` exactly.
//   * Accumulation is FP32. Results depend on the kernel and on K, never on M, on the number of
//     threads or on the other rows of X: a row's result is the same in any batch, except where
//     GemmKernel::row_invariant is false.
//   * Thread-safe: concurrent calls need separate Contexts.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "dualfp/kernels/context.h"
#include "dualfp/tensor/quant_format.h"
#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {

// What happens to X before the multiplication at Precision::kFp8.
enum class ActivationQuant : uint8_t {
  kNone,              // weight-only: X is used as it is
  kDynamicPerToken,   // s[m] = amax(X[m,:]) / 448, X/s rounded to E4M3 (the default at kFp8)
  kDynamicPerTensor,  // one s for all rows
  kStaticPerTensor,   // s = Weight::input_scale
};

// Y = activation(X·Wᵀ + bias) + residual.
enum class Activation : uint8_t {
  kNone,
  kSilu,
  kSiluMul,  // W interleaves gate and up rows (g0, u0, g1, u1, ...); Y is [M, N/2] = silu(g) * u
};

struct GemmDesc {
  DeviceType device = DeviceType::kCpu;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  QuantFormat weight_format = QuantFormat::kPlain;
  DType weight_dtype = DType::kF16;  // of Weight::values
  ScaleGranularity weight_scale = ScaleGranularity::kNone;
  bool has_outliers = false;
  Precision precision = Precision::kFp16;
  ActivationQuant activation_quant = ActivationQuant::kNone;
  DType x_dtype = DType::kF32;
  DType y_dtype = DType::kF32;
  Activation activation = Activation::kNone;
  bool has_bias = false;
  bool has_residual = false;
};

// "m=1 n=4096 k=4096 nested@fp8 x=F32 y=F32 per-token": for messages and benchmarks.
std::string Describe(const GemmDesc& desc);

struct GemmArgs {
  ConstTensorView x;
  const Weight* weight = nullptr;
  TensorView y;
  Precision precision = Precision::kFp16;
  ActivationQuant activation_quant = ActivationQuant::kDynamicPerToken;  // used at kFp8 only
  Activation activation = Activation::kNone;
  ConstTensorView bias;      // F32 [N], optional
  ConstTensorView residual;  // like Y, optional
};

// Checks shapes, dtypes and devices and builds the description.
// Throws kInvalidArgument (shapes, dtypes) or kUnsupported (weight cannot compute at precision).
GemmDesc DescribeGemm(const GemmArgs& args);

struct GemmKernel {
  // <op>_<weights>_<activations>_<out>_<isa>_<tile>, e.g. "gemm_nested_f32_f32_avx512_4x64".
  std::string_view name;
  // Empty when this kernel can run `desc` on this machine, else why not.
  std::string (*supports)(const GemmDesc& desc);
  // Scratch bytes for `desc`; nullptr means none.
  int64_t (*workspace_bytes)(const GemmDesc& desc);
  void (*run)(const Context& context, const GemmDesc& desc, const GemmArgs& args);
  bool row_invariant = true;
};

// All kernels of this build, in order of preference.
std::span<const GemmKernel> GemmKernels();

// The kernel that Gemm() would run. Throws kUnsupported, with each kernel's reason, when none can.
const GemmKernel& SelectGemmKernel(const GemmDesc& desc);

int64_t GemmWorkspaceBytes(const GemmDesc& desc);

void Gemm(const Context& context, const GemmArgs& args);

// Rows [begin, end) of a batch that compute at one precision.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  Precision precision = Precision::kFp16;
};

// Gemm() over a batch whose rows want different precisions (prefill in FP8 beside decodes in
// FP16). Ranges are ascending, disjoint and cover all rows; args.precision is ignored.
void GemmRows(const Context& context, const GemmArgs& args, std::span<const RowRange> ranges);

}  // namespace dualfp
