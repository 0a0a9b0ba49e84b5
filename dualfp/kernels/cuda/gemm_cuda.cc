// The GEMM op's Hopper kernels: descriptions and tensor views on one side, raw pointers on the
// other.

#include <cuda_runtime_api.h>

#include <limits>
#include <map>
#include <mutex>
#include <tuple>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/scoped_device.h"
#include "dualfp/kernels/cuda/gemm_choice.h"
#include "dualfp/kernels/cuda/quantize.h"
#include "dualfp/kernels/cuda/sm90/gemm.h"
#include "dualfp/kernels/cuda/sm90/select/device_model.h"
#include "dualfp/kernels/cuda/stream.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cuda {
namespace {

using sm90::GemmProblem;
using sm90::OutputType;
using sm90::Plan;

GemmHardware AskHardware(int index) {
  GemmHardware hardware;
  hardware.cublaslt_missing = CublasLtMissing();
  int devices = 0;
  if (cudaGetDeviceCount(&devices) != cudaSuccess || index >= devices) {
    return hardware;
  }
  const ScopedDevice scope(index);
  int major = 0;
  CheckCuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index),
            "cudaDeviceGetAttribute");
  int minor = 0;
  CheckCuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index),
            "cudaDeviceGetAttribute");
  hardware.compute_capability = 10 * major + minor;
  hardware.model = sm90::CurrentDevice();
  hardware.tables = sm90::DefaultTables(hardware.model);
  if (hardware.cublaslt_missing.empty()) {
    PrepareCublasLt(index);
  }
  return hardware;
}

bool Aligned(const void* p, int bytes) { return reinterpret_cast<uintptr_t>(p) % bytes == 0; }

// Rows start at multiples of `bytes`.
bool RowsAligned(const ConstTensorView& view, int bytes) {
  return Aligned(view.data, bytes) &&
         (view.shape[0] <= 1 || view.strides[0] * DTypeSize(view.dtype) % bytes == 0);
}

// Elements between the rows, where there are several.
int64_t RowStride(const ConstTensorView& view) {
  return view && view.shape[0] <= 1 ? view.shape[1] : view.strides[0];
}

OutputType OutputTypeOf(DType dtype) {
  return dtype == DType::kF16    ? OutputType::kF16
         : dtype == DType::kBF16 ? OutputType::kBf16
                                 : OutputType::kF32;
}

GemmProblem MakeProblem(const GemmDesc& desc, const GemmArgs& args) {
  Check(args.weight->layout == WeightLayout::kSm90 || desc.weight_format == QuantFormat::kPlain,
        ErrorCode::kInvalidArgument,
        "gemm: the weight is laid out for another device; load it for cuda");
  Check(Aligned(args.y.data, 16) && RowsAligned(args.y, 8) && RowStride(args.y) % 4 == 0,
        ErrorCode::kInvalidArgument,
        "gemm: y must be aligned to 16 bytes and its rows to 8 bytes and 4 elements; it is ",
        Describe(args.y), " with ", RowStride(args.y), " elements from row to row");
  Check(RowsAligned(args.x, 16), ErrorCode::kInvalidArgument,
        "gemm: x and its rows must be aligned to 16 bytes");
  Check(!desc.has_residual || (RowsAligned(args.residual, 8) && RowStride(args.residual) % 4 == 0),
        ErrorCode::kInvalidArgument,
        "gemm: the residual's rows must be aligned to 8 bytes and 4 elements");
  GemmProblem p;
  p.format = Sm90Format(desc);
  p.m = static_cast<int>(desc.m);
  p.n = static_cast<int>(desc.n);
  p.k = static_cast<int>(desc.k);
  p.w = args.weight->values.data;
  p.w_lower = args.weight->lower.data;
  p.epilogue.bias = args.bias.as<float>();
  p.epilogue.residual = args.residual.data;
  p.epilogue.residual_stride = desc.has_residual ? RowStride(args.residual) : 0;
  p.epilogue.y = args.y.data;
  p.epilogue.y_stride = RowStride(args.y);
  p.epilogue.y_type = OutputTypeOf(desc.y_dtype);
  p.epilogue.silu_mul = desc.activation == Activation::kSiluMul;
  if (desc.weight_format == QuantFormat::kNested12) {
    p.epilogue.w_scale = args.weight->scales.as<float>();
    p.epilogue.w_scale_stride = 1;
    p.tiny = static_cast<const TinyWeight*>(args.weight->tiny.data);
  }
  if (desc.has_outliers) {
    const OutlierList& outliers = args.weight->outliers;
    Check(outliers.size() <= std::numeric_limits<int>::max(), ErrorCode::kUnsupported,
          "gemm: ", outliers.size(), " outliers in one weight");
    p.outliers.index = outliers.index.as<int64_t>();
    p.outliers.value = outliers.value.as<float>();
    p.outliers.count = static_cast<int>(outliers.size());
  }
  return p;
}

// Ranking all plans takes longer than a small GEMM; a model has few shapes. By what ChoosePlan()
// looks at.
Plan CachedPlan(const GemmDesc& desc, bool aligned_rows) {
  static std::mutex mutex;
  static std::map<
      std::tuple<int, int, int64_t, int64_t, int64_t, DType, Activation, bool, bool, bool, bool>,
      Plan>
      plans;
  const std::lock_guard lock(mutex);
  Plan& plan = plans[{desc.device.index, static_cast<int>(Sm90Format(desc)), desc.m, desc.n, desc.k,
                      desc.y_dtype, desc.activation, desc.has_residual, desc.has_outliers,
                      aligned_rows, sm90::PartsAligned(desc.parts, 128)}];
  if (plan.config == nullptr) {
    plan = ChoosePlan(desc, aligned_rows, HardwareOf(desc.device.index));
  }
  return plan;
}

void Launch(const GemmDesc& desc, const CudaStream& stream, GemmProblem& p) {
  p.workspace = stream.sm90_workspace();
  CheckInternal(p.workspace != nullptr, "a GEMM on a stream for copies");
  sm90::Launch(CachedPlan(desc, p.epilogue.y_stride % 8 == 0), p, stream.get(), true);
}

// Codes and scales of X into the workspace.
void QuantizeX(const GemmDesc& desc, const GemmArgs& args, const E4m3Workspace& layout,
               uint8_t* codes, float* scales, cudaStream_t stream) {
  const auto type = desc.x_dtype == DType::kF16 ? QuantizeType::kF16 : QuantizeType::kBf16;
  if (desc.activation_quant == ActivationQuant::kDynamicPerTensor) {
    QuantizePerTensor(args.x.data, RowStride(args.x), type, desc.m, desc.k, codes, scales, stream);
    return;
  }
  QuantizeArgs quantize;
  quantize.type = type;
  quantize.m = desc.m;
  quantize.k = desc.k;
  quantize.x = args.x.data;
  quantize.x_stride = RowStride(args.x);
  quantize.static_scale = desc.activation_quant == ActivationQuant::kStaticPerTensor
                              ? args.weight->input_scale.as<float>()
                              : nullptr;
  quantize.group_stride =
      desc.activation_quant == ActivationQuant::kDynamicPerGroup ? layout.group_stride : 0;
  quantize.q = codes;
  quantize.scale = scales;
  Quantize(quantize, stream, true);
}

}  // namespace

const GemmHardware& HardwareOf(int index) {
  static std::mutex mutex;
  static std::map<int, GemmHardware> known;
  const std::lock_guard lock(mutex);
  const auto found = known.find(index);
  return found != known.end() ? found->second
                              : known.emplace(index, AskHardware(index)).first->second;
}

// FP16 or BF16 activations as they are.
void RunNestedOrPlain(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  const CudaStream& stream = StreamOf(context);
  const ScopedDevice scope(context.device.index);
  GemmProblem p = MakeProblem(desc, args);
  p.x = args.x.data;
  p.x_stride = RowStride(args.x);
  Launch(desc, stream, p);
}

void RunE4m3(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  const CudaStream& stream = StreamOf(context);
  const ScopedDevice scope(context.device.index);
  GemmProblem p = MakeProblem(desc, args);
  const Weight& weight = *args.weight;
  const E4m3Workspace layout(desc);
  const bool grouped = desc.activation_quant == ActivationQuant::kDynamicPerGroup;
  const float* scales = nullptr;
  if (desc.x_dtype == DType::kF8E4M3) {
    p.x = args.x.data;
    p.x_stride = RowStride(args.x);
    scales = args.x_scales.as<float>();
    p.epilogue.x_scale_stride = 1;
    p.block.x_stride = grouped ? static_cast<int>(args.x_scales.strides[0]) : 0;
    Check(!grouped || (Aligned(scales, 8) && p.block.x_stride % 2 == 0),
          ErrorCode::kInvalidArgument, "gemm: groups' scales must be aligned to 8 bytes");
  } else {
    uint8_t* codes = context.workspace.as<uint8_t>();
    auto* made = reinterpret_cast<float*>(codes + layout.scales_offset);
    QuantizeX(desc, args, layout, codes, made, stream.get());
    p.x = codes;
    p.x_stride = desc.k;
    scales = made;
    p.epilogue.x_scale_stride = desc.activation_quant == ActivationQuant::kDynamicPerTensor ? 0 : 1;
    p.block.x_stride = grouped ? static_cast<int>(layout.group_stride) : 0;
  }
  (grouped ? p.block.x : p.epilogue.x_scale) = scales;
  if (desc.weight_format == QuantFormat::kNested) {
    p.epilogue.alpha = kNestedScale;
    p.outliers.factor = 1.0f / kNestedScale;
  } else if (desc.weight_format == QuantFormat::kNested12) {
    p.epilogue.alpha = 1.0f / kNested12Units;
  } else if (desc.weight_scale == ScaleGranularity::kBlock128) {
    p.block.w = weight.scales.as<float>();
    p.block.w_stride = static_cast<int>((desc.k + 127) / 128);
    p.block.parts = weight.parts;
  } else {
    p.epilogue.w_scale = weight.scales.as<float>();
    p.epilogue.w_scale_stride = desc.weight_scale == ScaleGranularity::kPerChannel ? 1 : 0;
  }
  Launch(desc, stream, p);
}

}  // namespace dualfp::cuda
