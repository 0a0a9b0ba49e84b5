#include "dualfp/kernels/cuda/gemm_choice.h"

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/quantize.h"

namespace dualfp::cuda {
namespace {

using sm90::GemmProblem;
using sm90::WeightFormat;

constexpr int64_t kAlignment = 256;  // of the parts of a workspace

// Only the split family writes FP32, which is made for about one wave of tiles.
constexpr int64_t kMostTokensInF32 = 64;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// What all Hopper kernels ask of a description.
std::string HopperUnsupported(const GemmDesc& desc, const GemmHardware& hardware) {
  if (desc.device.type != DeviceType::kCuda) {
    return "runs on CUDA tensors";
  }
  if (hardware.compute_capability / 10 != 9) {
    return "needs a GPU of compute capability 9.0";
  }
  if (desc.n % 16 != 0 || desc.k % 16 != 0) {
    return "N and K must be multiples of 16";
  }
  return "";
}

// What every kernel asks of plain weights.
std::string PlainMismatch(const GemmDesc& desc) {
  if (desc.weight_format != QuantFormat::kPlain || desc.precision != Precision::kExact) {
    return "computes plain weights at fp16";
  }
  if (desc.device.type != DeviceType::kCuda) {
    return "runs on CUDA tensors";
  }
  if (desc.weight_dtype != DType::kF16 && desc.weight_dtype != DType::kBF16) {
    return "weights must be F16 or BF16";
  }
  if (desc.x_dtype != desc.weight_dtype) {
    return "X must have the weight's dtype";
  }
  return "";
}

sm90::OutputType OutputTypeOf(DType dtype) {
  return dtype == DType::kF16    ? sm90::OutputType::kF16
         : dtype == DType::kBF16 ? sm90::OutputType::kBf16
                                 : sm90::OutputType::kF32;
}

}  // namespace

std::string NestedUnsupported(const GemmDesc& desc, const GemmHardware& hardware) {
  const bool nested12 = desc.weight_format == QuantFormat::kNested12;
  if ((desc.weight_format != QuantFormat::kNested && !nested12) ||
      desc.precision != Precision::kExact) {
    return "computes nested weights at fp16";
  }
  if (nested12 && desc.x_dtype != DType::kF16 && desc.x_dtype != DType::kBF16) {
    return "X must be F16 or BF16, to which the weights are decoded";
  }
  if (!nested12 && desc.x_dtype != DType::kF16) {
    return "X must be F16: weights are decoded to FP16, and the tensor cores take one type";
  }
  return HopperUnsupported(desc, hardware);
}

std::string E4m3Unsupported(const GemmDesc& desc, const GemmHardware& hardware) {
  const bool has_codes = desc.weight_format == QuantFormat::kNested ||
                         desc.weight_format == QuantFormat::kNested12 ||
                         desc.weight_format == QuantFormat::kFp8;
  if (!has_codes || desc.precision != Precision::kFp8) {
    return "computes nested or fp8 weights at fp8";
  }
  if (desc.activation_quant == ActivationQuant::kNone) {
    return "activations must be quantized";
  }
  if (desc.activation_quant == ActivationQuant::kDynamicMx) {
    return "has no activation scales for each 32 elements";
  }
  const bool codes = desc.x_dtype == DType::kF8E4M3;
  if (!codes && desc.x_dtype != DType::kF16 && desc.x_dtype != DType::kBF16) {
    return "X must be F16, BF16 or F8_E4M3";
  }
  if (!codes && desc.k > kQuantizeMaxK) {
    return StrCat("K must be at most ", kQuantizeMaxK);
  }
  if (desc.has_outliers && desc.activation_quant == ActivationQuant::kDynamicPerGroup) {
    return "outliers want one activation scale a row";
  }
  if (desc.part_input_scales) {
    return "has one static activation scale";
  }
  if (desc.weight_scale == ScaleGranularity::kBlock128 && !sm90::PartsAligned(desc.parts, 16)) {
    return "parts with block scales must begin at multiples of 16 rows";
  }
  return HopperUnsupported(desc, hardware);
}

std::string PlainUnsupported(const GemmDesc& desc, const GemmHardware& hardware) {
  std::string why = PlainMismatch(desc);
  return why.empty() ? HopperUnsupported(desc, hardware) : why;
}

std::string CublasLtUnsupported(const GemmDesc& desc, const GemmHardware& hardware) {
  std::string why = PlainMismatch(desc);
  return why.empty() ? hardware.cublaslt_missing : why;
}

// Where 16-bit results are wanted our kernels are level with cuBLASLt or ahead
// (docs/kernels_notebook.md), but where a tuned row says otherwise of a product alone: bias,
// activations and residuals cost our kernels next to nothing.
bool PlainYields(const GemmDesc& desc, const GemmHardware& hardware) {
  if (!CublasLtUnsupported(desc, hardware).empty()) {
    return false;
  }
  if (desc.y_dtype == DType::kF32) {
    return desc.m > kMostTokensInF32;
  }
  return !desc.has_bias && !desc.has_residual && desc.activation == Activation::kNone &&
         sm90::CublasLtWins(sm90::DenseProblem(Sm90Format(desc), static_cast<int>(desc.m),
                                               static_cast<int>(desc.n), static_cast<int>(desc.k)),
                            hardware.model, hardware.tables);
}

E4m3Workspace::E4m3Workspace(const GemmDesc& desc)
    : scales_offset(RoundUp(desc.m * desc.k, kAlignment)), group_stride(RoundUp(desc.m, 4)) {
  if (desc.x_dtype == DType::kF8E4M3) {
    bytes = 0;
    return;
  }
  int64_t scales = desc.m;
  if (desc.activation_quant == ActivationQuant::kDynamicPerTensor) {
    scales = kPerTensorFloats;
  } else if (desc.activation_quant == ActivationQuant::kDynamicPerGroup) {
    scales = group_stride * RoundUp(desc.k, kActivationGroup) / kActivationGroup;
  }
  bytes = scales_offset + scales * static_cast<int64_t>(sizeof(float));
}

int64_t E4m3WorkspaceBytes(const GemmDesc& desc) { return E4m3Workspace(desc).bytes; }

WeightFormat Sm90Format(const GemmDesc& desc) {
  if (desc.precision == Precision::kFp8) {
    const bool promoted = desc.activation_quant == ActivationQuant::kDynamicPerGroup ||
                          desc.weight_scale == ScaleGranularity::kBlock128 ||
                          desc.accumulation == Accumulation::kPromoted;
    return promoted ? WeightFormat::kE4m3Promoted : WeightFormat::kE4m3;
  }
  if (desc.weight_format == QuantFormat::kNested) {
    return WeightFormat::kNested;
  }
  if (desc.weight_format == QuantFormat::kNested12) {
    return desc.x_dtype == DType::kBF16 ? WeightFormat::kNested12Bf16 : WeightFormat::kNested12F16;
  }
  return desc.weight_dtype == DType::kF16 ? WeightFormat::kF16 : WeightFormat::kBf16;
}

sm90::Plan ChoosePlan(const GemmDesc& desc, bool aligned_rows, const GemmHardware& hardware) {
  // The choice asks of pointers only whether they are there.
  alignas(16) static const char some_operand[16] = {};
  GemmProblem p = sm90::DenseProblem(Sm90Format(desc), static_cast<int>(desc.m),
                                     static_cast<int>(desc.n), static_cast<int>(desc.k));
  p.epilogue.y_type = OutputTypeOf(desc.y_dtype);
  p.epilogue.silu_mul = desc.activation == Activation::kSiluMul;
  p.epilogue.y_stride = (p.epilogue.silu_mul ? desc.n / 2 : desc.n) + (aligned_rows ? 0 : 4);
  p.epilogue.residual = desc.has_residual ? some_operand : nullptr;
  p.epilogue.residual_stride = desc.has_residual ? p.epilogue.y_stride : 0;
  p.outliers.count = desc.has_outliers ? 1 : 0;
  if (desc.weight_scale == ScaleGranularity::kBlock128) {
    p.block.w = reinterpret_cast<const float*>(some_operand);
    p.block.parts = desc.parts;
  }
  return sm90::Choose(p, hardware.model, hardware.tables).plan;
}

}  // namespace dualfp::cuda
