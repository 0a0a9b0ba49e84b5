// Y[M,N] = X[M,K] · W[N,K]ᵀ: the op that dualfp exists for.
//
// GemmDesc identifies a problem completely (no pointers); kernels declare which descriptions they
// support; backends (backend.h) list them, best first, reference last. The first that supports a
// description and does not yield to a later one runs, unless DUALFP_KERNEL=name forces one.
//
// Contract of Gemm():
//   * X is row-major [M, K], Y row-major [M, N]; rows may be strided, columns are contiguous.
//   * W is a Weight (tensor/weight.h) on the same device as X and Y. W, its scales and the bias are
//     complete before the call: on a GPU they are read while the stream's previous kernel runs.
//   * M >= 0, N and K >= 1; kernels handle any size, padding inside where they need it.
//   * Y does not alias X. It may alias `residual` exactly.
//   * Accumulation is FP32, but for FP8 on tensor cores (see Accumulation). Results depend on the
//     kernel and on K, never on M, on the number of threads or on the other rows of X: a row's
//     result is the same in any batch, except where GemmKernel::row_invariant is false or the rows
//     share a scale (kDynamicPerTensor).
//   * Weights are finite (loaders reject NaN and infinity, formats.md); X may be anything, and a
//     NaN or infinity in one row of it reaches that row of Y only, but for kDynamicPerTensor.
//   * context.workspace holds at least GemmWorkspaceBytes().
//   * Thread-safe: concurrent calls need separate Contexts.

#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "dualfp/kernels/context.h"
#include "dualfp/kernels/epilogue.h"
#include "dualfp/kernels/quantize.h"
#include "dualfp/tensor/quant_format.h"
#include "dualfp/tensor/tensor_view.h"
#include "dualfp/tensor/weight.h"

namespace dualfp {

// What a weight's element is worth to the product at each precision:
//   kPlain   fp16: the value itself.
//   kNested  fp16: the exact FP16 weight, outliers included, so that nested and plain FP16 kernels
//            of the same shape agree bit for bit. fp8: E4M3(upper) / 256 plus the outlier's
//            remainder; like every weight it multiplies the quantized activation.
//   kNested12  fp16: the exact BF16 weight, remainders included; plain BF16 kernels of the same
//            shape agree bit for bit on rows without remainders. fp8: E4M3(upper) * 2^(-8 - shift).
//   others   q * scale at every precision that the format offers.
// At kFp8 with activation quantization, X[m,k] stands for E4M3(X[m,k] / s[m]) * s[m] (quantize.h).

// How the tensor cores sum FP8 products. kFast keeps sums in their registers, which on Hopper hold
// about 14 significant bits; kPromoted adds to FP32 every 128 of K. The CPU always sums in FP32,
// and weights or activations with scales along K are always promoted.
enum class Accumulation : uint8_t { kFast, kPromoted };

struct GemmDesc {
  Device device;
  int64_t m = 0;
  int64_t n = 0;
  int64_t k = 0;
  QuantFormat weight_format = QuantFormat::kPlain;
  DType weight_dtype = DType::kF16;  // of Weight::values
  ScaleGranularity weight_scale = ScaleGranularity::kNone;
  RowParts parts;  // where they matter: block scales, or several input scales
  bool has_outliers = false;
  Precision precision = Precision::kExact;
  ActivationQuant activation_quant = ActivationQuant::kNone;
  bool part_input_scales = false;  // kStaticPerTensor with a scale for each part
  Accumulation accumulation = Accumulation::kFast;
  DType x_dtype = DType::kF32;
  DType y_dtype = DType::kF32;
  Activation activation = Activation::kNone;
  bool has_bias = false;
  bool has_residual = false;

  friend bool operator==(const GemmDesc&, const GemmDesc&) = default;
};

// "m=1 n=4096 k=4096 nested@fp8 x=F32 y=F32 per-token": for messages and benchmarks.
std::string Describe(const GemmDesc& desc);

struct GemmArgs {
  // F32 | F16 | BF16 [M, K]. Or, at kFp8 with quantized activations, codes that this device's
  // quantizers wrote: F8_E4M3 [M, K] with x_scales, F32 [M], what a code of 1 is worth in each row
  // (scales along K: [groups of K, M], rows may be strided). The product is the same, bit for
  // bit, as of what was quantized.
  ConstTensorView x;
  ConstTensorView x_scales;
  const Weight* weight = nullptr;
  TensorView y;  // F32 | F16 | BF16 [M, N], or [M, N/2] with kSiluMul
  Precision precision = Precision::kExact;
  ActivationQuant activation_quant = ActivationQuant::kDynamicPerToken;  // used at kFp8 only
  Accumulation accumulation = Accumulation::kFast;                       // likewise
  Activation activation = Activation::kNone;
  ConstTensorView bias;      // F32 [N], optional
  ConstTensorView residual;  // shape and dtype of Y, optional
};

// Checks shapes, dtypes and devices and builds the description.
// Throws kInvalidArgument (shapes, dtypes) or kUnsupported (weight cannot compute at precision).
GemmDesc DescribeGemm(const GemmArgs& args);

struct GemmKernel {
  // <op>_<weights>_<activations>_<out>_<isa>_<tile>, e.g. "gemm_nested_f32_f32_avx512_4x64".
  std::string_view name;
  // Empty when this kernel can run `desc` on this machine, else why not. Does not depend on M.
  std::string (*supports)(const GemmDesc& desc);
  // Scratch bytes for `desc`; nullptr means none.
  int64_t (*workspace_bytes)(const GemmDesc& desc);
  void (*run)(const Context& context, const GemmDesc& desc, const GemmArgs& args);
  bool row_invariant = true;
  // Whether a later kernel that supports `desc` too is faster at its M; nullptr: never.
  bool (*yields)(const GemmDesc& desc) = nullptr;
};

// All kernels of this build, in order of preference.
std::span<const GemmKernel> GemmKernels();

// The kernel that Gemm() would run. Throws kUnsupported, with each kernel's reason, when none can,
// and kInvalidArgument when DUALFP_KERNEL names no kernel.
const GemmKernel& SelectGemmKernel(const GemmDesc& desc);

// Scratch bytes that are enough for Gemm() at `desc` and at any smaller M, whichever kernels run
// there. For GemmRows, take the larger over the precisions in use, with all rows.
int64_t GemmWorkspaceBytes(const GemmDesc& desc);

// Whether a row's result is the same, bit for bit, in every batch of up to desc.m rows.
bool GemmRowsAreIndependent(const GemmDesc& desc);

// Empty where some kernel of desc.device can run it, else why none can.
std::string GemmUnsupported(const GemmDesc& desc);

// The same choices among another list of kernels, without DUALFP_KERNEL.
const GemmKernel& SelectGemmKernel(std::span<const GemmKernel> kernels, const GemmDesc& desc);
int64_t GemmWorkspaceBytes(std::span<const GemmKernel> kernels, const GemmDesc& desc);

// Remembers its choice of kernel per thread and description, so a call costs no more than
// DescribeGemm() beside the work; the environment is consulted when a description is new.
void Gemm(const Context& context, const GemmArgs& args);

// Where a product's result goes that the next FP8 product takes quantized: codes and scales of what
// Gemm() would write, bit for bit what QuantizeActivations() makes of it.
struct QuantizedOutput {
  ActivationQuant quant = ActivationQuant::kDynamicPerToken;
  float static_scale = 0.0f;  // kStaticPerTensor
  TensorView codes;           // F8_E4M3 [M, Y's columns]
  TensorView scales;          // F32 [M]
};

// Gemm() into `output`; args.y is a view of no data that says the dtype that the result is rounded
// to before it is quantized. Wants GemmQuantizedWorkspaceBytes() of workspace.
void GemmQuantized(const Context& context, const GemmArgs& args, const QuantizedOutput& output);
int64_t GemmQuantizedWorkspaceBytes(const GemmDesc& desc);

// Rows [begin, end) of a batch that compute at one precision.
struct RowRange {
  int64_t begin = 0;
  int64_t end = 0;
  Precision precision = Precision::kExact;
};

// Gemm() over a batch whose rows want different precisions (prefill in FP8 beside decodes in
// FP16). Ranges are ascending, disjoint and cover all rows, else kInvalidArgument; args.precision
// is ignored, and args.activation_quant applies to the FP8 ranges.
void GemmRows(const Context& context, const GemmArgs& args, std::span<const RowRange> ranges);

}  // namespace dualfp
