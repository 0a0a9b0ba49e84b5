// The GEMM op's CUDA kernels: descriptions and tensor views on one side, raw pointers on the other.

#include <cuda_runtime_api.h>

#include <array>
#include <map>
#include <mutex>
#include <tuple>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/quantize.h"
#include "dualfp/kernels/cuda/sm90/choose.h"
#include "dualfp/kernels/cuda/sm90/gemm.h"
#include "dualfp/kernels/gemm_kernels.h"
#include "dualfp/numeric/nested.h"

namespace dualfp {
namespace {

using sm90::GemmProblem;
using sm90::OutputType;
using sm90::Plan;
using sm90::WeightFormat;

constexpr int64_t kAlignment = 256;  // of the parts of a workspace

bool IsHopper() {
  static const bool hopper = [] {
    int device = 0;
    int major = 0;
    return cudaGetDevice(&device) == cudaSuccess &&
           cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device) ==
               cudaSuccess &&
           major == 9;
  }();
  return hopper;
}

// What both kernels ask of a description.
std::string Unsupported(const GemmDesc& desc) {
  if (desc.device != DeviceType::kCuda) {
    return "runs on CUDA tensors";
  }
  if (!IsHopper()) {
    return "needs a GPU of compute capability 9.0";
  }
  if (desc.n % 16 != 0 || desc.k % 16 != 0) {
    return "N and K must be multiples of 16";
  }
  if (desc.x_dtype != DType::kF16) {
    return "X must be F16";
  }
  if (desc.has_outliers) {
    return "does not apply outliers";
  }
  return "";
}

std::string NestedUnsupported(const GemmDesc& desc) {
  if (desc.weight_format != QuantFormat::kNested || desc.precision != Precision::kFp16) {
    return "computes nested weights at fp16";
  }
  return Unsupported(desc);
}

std::string E4m3Unsupported(const GemmDesc& desc) {
  if ((desc.weight_format != QuantFormat::kNested && desc.weight_format != QuantFormat::kFp8) ||
      desc.precision != Precision::kFp8) {
    return "computes nested or fp8 weights at fp8";
  }
  if (desc.weight_scale == ScaleGranularity::kBlock128) {
    return "block scales are not supported";
  }
  if (desc.activation_quant == ActivationQuant::kNone) {
    return "activations must be quantized";
  }
  if (desc.k > 32768) {
    return "K must be at most 32768";
  }
  return Unsupported(desc);
}

OutputType OutputTypeOf(DType dtype) {
  return dtype == DType::kF16    ? OutputType::kF16
         : dtype == DType::kBF16 ? OutputType::kBf16
                                 : OutputType::kF32;
}

GemmProblem MakeProblem(const GemmDesc& desc, const GemmArgs& args) {
  Check(args.weight->k_permuted, ErrorCode::kInvalidArgument,
        "gemm: a weight on the GPU must be K-permuted; load it for device cuda");
  GemmProblem p;
  p.m = static_cast<int>(desc.m);
  p.n = static_cast<int>(desc.n);
  p.k = static_cast<int>(desc.k);
  p.w = args.weight->values.data;
  p.w_lower = args.weight->lower.data;
  p.epilogue.bias = args.bias.as<float>();
  p.epilogue.residual = args.residual.data;
  p.epilogue.residual_stride = args.residual.strides[0];
  p.epilogue.y = args.y.data;
  p.epilogue.y_stride = args.y.strides[0];
  p.epilogue.y_type = OutputTypeOf(desc.y_dtype);
  p.epilogue.silu = desc.activation == Activation::kSilu;
  p.epilogue.silu_mul = desc.activation == Activation::kSiluMul;
  return p;
}

// Ranking all plans takes longer than a small GEMM; a model has few shapes.
Plan CachedPlan(const GemmProblem& p) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, int, int, int, bool>, Plan> plans;
  const bool aligned =
      p.epilogue.y_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.epilogue.y) % 16 == 0;
  const std::lock_guard lock(mutex);
  Plan& plan = plans[{static_cast<int>(p.format), p.m, p.n, p.k,
                      static_cast<int>(p.epilogue.y_type), aligned}];
  if (plan.config == nullptr) {
    plan = sm90::ChoosePlan(p, sm90::DeviceModel());
  }
  return plan;
}

void RunNested(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  GemmProblem p = MakeProblem(desc, args);
  p.format = WeightFormat::kNested;
  p.x = args.x.data;
  p.x_stride = args.x.strides[0];
  sm90::Launch(CachedPlan(p), p, static_cast<cudaStream_t>(context.stream), true);
}

int64_t CodeBytes(const GemmDesc& desc) {
  return (desc.m * desc.k + kAlignment - 1) / kAlignment * kAlignment;
}

int64_t E4m3WorkspaceBytes(const GemmDesc& desc) { return CodeBytes(desc) + desc.m * 4; }

void RunE4m3(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const Weight& weight = *args.weight;
  uint8_t* codes = context.workspace.as<uint8_t>();
  float* scales = reinterpret_cast<float*>(codes + CodeBytes(desc));
  const bool per_tensor = desc.activation_quant == ActivationQuant::kDynamicPerTensor;
  if (per_tensor) {
    Check(args.x.is_contiguous(), ErrorCode::kInvalidArgument,
          "gemm: per-tensor quantization needs contiguous X");
    cuda::QuantizePerTensor(args.x.data, desc.m, desc.k, codes, scales, stream);
  } else {
    cuda::QuantizeArgs quantize;
    quantize.m = desc.m;
    quantize.k = desc.k;
    quantize.x = args.x.data;
    quantize.x_stride = args.x.strides[0];
    quantize.static_scale =
        desc.activation_quant == ActivationQuant::kStaticPerTensor ? weight.input_scale : 0.0f;
    quantize.q = codes;
    quantize.scale = scales;
    cuda::Quantize(quantize, stream, true);
  }
  GemmProblem p = MakeProblem(desc, args);
  p.format = WeightFormat::kE4m3;
  p.x = codes;
  p.x_stride = desc.k;
  p.epilogue.x_scale = scales;
  p.epilogue.x_scale_stride = per_tensor ? 0 : 1;
  if (desc.weight_format == QuantFormat::kNested) {
    p.epilogue.alpha = kNestedScale;
  } else {
    p.epilogue.w_scale = weight.scales.as<float>();
    p.epilogue.w_scale_stride = desc.weight_scale == ScaleGranularity::kPerChannel ? 1 : 0;
  }
  sm90::Launch(CachedPlan(p), p, stream, true);
}

}  // namespace

std::span<const GemmKernel> CudaGemmKernels() {
  // Tiles are chosen by M, and sums over K are split differently in different tiles.
  static constexpr std::array<GemmKernel, 2> kKernels = {{
      {"gemm_nested_f16_any_sm90", NestedUnsupported, nullptr, RunNested, false},
      {"gemm_e4m3_f16_any_sm90", E4m3Unsupported, E4m3WorkspaceBytes, RunE4m3, false},
  }};
  return kKernels;
}

}  // namespace dualfp
