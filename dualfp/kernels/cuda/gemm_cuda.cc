// The GEMM op's CUDA kernels: descriptions and tensor views on one side, raw pointers on the other.

#include <cuda_runtime_api.h>

#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <tuple>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/cublaslt_gemm.h"
#include "dualfp/kernels/cuda/quantize.h"
#include "dualfp/kernels/cuda/sm90/gemm.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"
#include "dualfp/kernels/cuda/sm90/select/device_model.h"
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

// What all Hopper kernels ask of a description.
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
  return "";
}

std::string NestedUnsupported(const GemmDesc& desc) {
  if (desc.weight_format != QuantFormat::kNested || desc.precision != Precision::kFp16) {
    return "computes nested weights at fp16";
  }
  if (desc.x_dtype != DType::kF16) {
    return "X must be F16: weights are decoded to FP16, and the tensor cores take one type";
  }
  return Unsupported(desc);
}

std::string E4m3Unsupported(const GemmDesc& desc) {
  if ((desc.weight_format != QuantFormat::kNested && desc.weight_format != QuantFormat::kFp8) ||
      desc.precision != Precision::kFp8) {
    return "computes nested or fp8 weights at fp8";
  }
  if (desc.activation_quant == ActivationQuant::kNone) {
    return "activations must be quantized";
  }
  if (desc.x_dtype != DType::kF16 && desc.x_dtype != DType::kBF16) {
    return "X must be F16 or BF16";
  }
  if (desc.k > cuda::kQuantizeMaxK) {
    return StrCat("K must be at most ", cuda::kQuantizeMaxK);
  }
  if (desc.has_outliers && desc.activation_quant == ActivationQuant::kDynamicPerGroup) {
    return "outliers want one activation scale a row";
  }
  return Unsupported(desc);
}

// What plans are chosen by.
struct Selection {
  sm90::DeviceModel device = sm90::CurrentDevice();
  sm90::Tables tables = sm90::DefaultTables(device);
};
const Selection& CurrentSelection() {
  static const Selection selection;
  return selection;
}

WeightFormat PlainFormat(DType dtype) {
  return dtype == DType::kF16 ? WeightFormat::kF16 : WeightFormat::kBf16;
}

// Only the split family writes FP32, which is made for about one wave of tiles.
constexpr int64_t kMostTokensInF32 = 64;

// Where 16-bit results are wanted our kernels are level with cuBLASLt or ahead (docs/kernels.md),
// but where a tuned row says otherwise of a product alone: bias, activations and residuals cost our
// kernels next to nothing.
bool CublasLtIsFaster(const GemmDesc& desc) {
  if (desc.y_dtype == DType::kF32) {
    return desc.m > kMostTokensInF32;
  }
  const Selection& selection = CurrentSelection();
  return !desc.has_bias && !desc.has_residual && desc.activation == Activation::kNone &&
         sm90::CublasLtWins(
             sm90::DenseProblem(PlainFormat(desc.weight_dtype), static_cast<int>(desc.m),
                                static_cast<int>(desc.n), static_cast<int>(desc.k)),
             selection.device, selection.tables);
}

std::string PlainUnsupported(const GemmDesc& desc) {
  std::string why = cuda::PlainMismatch(desc);
  if (why.empty()) {
    why = Unsupported(desc);
  }
  if (why.empty() && cuda::CublasLtUnsupported(desc).empty() && CublasLtIsFaster(desc)) {
    why = "cuBLASLt is faster";
  }
  return why;
}

OutputType OutputTypeOf(DType dtype) {
  return dtype == DType::kF16    ? OutputType::kF16
         : dtype == DType::kBF16 ? OutputType::kBf16
                                 : OutputType::kF32;
}

bool Aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 16 == 0; }

GemmProblem MakeProblem(const GemmDesc& desc, const GemmArgs& args) {
  Check(args.weight->layout == WeightLayout::kSm90 || desc.weight_format == QuantFormat::kPlain,
        ErrorCode::kInvalidArgument,
        "gemm: the weight is laid out for another device; load it for cuda");
  const int64_t row_bytes = args.y.strides[0] * DTypeSize(desc.y_dtype);
  Check(desc.m == 1 || (row_bytes % 8 == 0 && args.y.strides[0] % 4 == 0),
        ErrorCode::kInvalidArgument, "gemm: rows of y are ", row_bytes,
        " bytes apart, expected a multiple of 8 bytes and of 4 elements");
  Check(Aligned(args.y.data) && Aligned(args.x.data) &&
            args.x.strides[0] * DTypeSize(desc.x_dtype) % 16 == 0,
        ErrorCode::kInvalidArgument, "gemm: x, its rows and y must be aligned to 16 bytes");
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

// A workspace for kernels of one stream, which run one after another; kept for the life of the
// process. Null while the stream is being captured and has none yet: nothing may be allocated then.
void* StreamWorkspace(cudaStream_t stream) {
  static std::mutex mutex;
  static std::map<std::pair<int, cudaStream_t>, void*> workspaces;
  int device = 0;
  cuda::CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard lock(mutex);
  void*& workspace = workspaces[{device, stream}];
  cudaStreamCaptureStatus capture = cudaStreamCaptureStatusNone;
  if (workspace == nullptr && cudaStreamIsCapturing(stream, &capture) == cudaSuccess &&
      capture == cudaStreamCaptureStatusNone) {
    cuda::CheckCuda(cudaMalloc(&workspace, sm90::kWorkspaceBytes), "cudaMalloc");
    sm90::InitWorkspace(workspace, stream);
  }
  return workspace;
}

// Ranking all plans takes longer than a small GEMM; a model has few shapes.
Plan CachedPlan(const GemmProblem& p) {
  static std::mutex mutex;
  static std::map<std::tuple<int, int, int, int, int, bool, bool, bool>, Plan> plans;
  const bool aligned =
      p.epilogue.y_stride % 8 == 0 && reinterpret_cast<uintptr_t>(p.epilogue.y) % 16 == 0;
  const std::lock_guard lock(mutex);
  Plan& plan =
      plans[{static_cast<int>(p.format), p.m, p.n, p.k, static_cast<int>(p.epilogue.y_type),
             aligned, p.outliers.count > 0, p.workspace != nullptr}];
  if (plan.config == nullptr) {
    const Selection& selection = CurrentSelection();
    plan = sm90::Choose(p, selection.device, selection.tables).plan;
  }
  return plan;
}

// FP16 or BF16 activations as they are: nested and plain weights.
void Run16(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  GemmProblem p = MakeProblem(desc, args);
  p.format = desc.weight_format == QuantFormat::kNested ? WeightFormat::kNested
                                                        : PlainFormat(desc.weight_dtype);
  p.x = args.x.data;
  p.x_stride = args.x.strides[0];
  const auto stream = static_cast<cudaStream_t>(context.stream);
  p.workspace = StreamWorkspace(stream);
  sm90::Launch(CachedPlan(p), p, stream, true);
}

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

int64_t CodeBytes(const GemmDesc& desc) { return RoundUp(desc.m * desc.k, kAlignment); }

// Elements between the scales of neighbouring groups of K.
int64_t GroupStride(const GemmDesc& desc) { return RoundUp(desc.m, 4); }

int64_t E4m3WorkspaceBytes(const GemmDesc& desc) {
  int64_t scales = desc.m;
  if (desc.activation_quant == ActivationQuant::kDynamicPerTensor) {
    scales = cuda::kPerTensorFloats;
  } else if (desc.activation_quant == ActivationQuant::kDynamicPerGroup) {
    scales = GroupStride(desc) * RoundUp(desc.k, kActivationGroup) / kActivationGroup;
  }
  return CodeBytes(desc) + scales * static_cast<int64_t>(sizeof(float));
}

// Codes and scales of X into the workspace.
void QuantizeX(const Context& context, const GemmDesc& desc, const GemmArgs& args, uint8_t* codes,
               float* scales) {
  const auto stream = static_cast<cudaStream_t>(context.stream);
  const auto type =
      desc.x_dtype == DType::kF16 ? cuda::QuantizeType::kF16 : cuda::QuantizeType::kBf16;
  const int64_t stride = desc.m == 1 ? desc.k : args.x.strides[0];
  if (desc.activation_quant == ActivationQuant::kDynamicPerTensor) {
    cuda::QuantizePerTensor(args.x.data, stride, type, desc.m, desc.k, codes, scales, stream);
    return;
  }
  cuda::QuantizeArgs quantize;
  quantize.type = type;
  quantize.m = desc.m;
  quantize.k = desc.k;
  quantize.x = args.x.data;
  quantize.x_stride = stride;
  quantize.static_scale =
      desc.activation_quant == ActivationQuant::kStaticPerTensor ? args.weight->input_scale : 0.0f;
  quantize.group_stride =
      desc.activation_quant == ActivationQuant::kDynamicPerGroup ? GroupStride(desc) : 0;
  quantize.q = codes;
  quantize.scale = scales;
  cuda::Quantize(quantize, stream, true);
}

void RunE4m3(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  const Weight& weight = *args.weight;
  uint8_t* codes = context.workspace.as<uint8_t>();
  float* scales = reinterpret_cast<float*>(codes + CodeBytes(desc));
  QuantizeX(context, desc, args, codes, scales);

  GemmProblem p = MakeProblem(desc, args);
  const bool grouped = desc.activation_quant == ActivationQuant::kDynamicPerGroup;
  const bool blocked = desc.weight_scale == ScaleGranularity::kBlock128;
  const bool promoted = grouped || blocked || desc.accumulation == Accumulation::kPromoted;
  p.format = promoted ? WeightFormat::kE4m3Promoted : WeightFormat::kE4m3;
  p.x = codes;
  p.x_stride = desc.k;
  if (grouped) {
    p.block.x = scales;
    p.block.x_stride = static_cast<int>(GroupStride(desc));
  } else {
    p.epilogue.x_scale = scales;
    p.epilogue.x_scale_stride = desc.activation_quant == ActivationQuant::kDynamicPerTensor ? 0 : 1;
  }
  if (desc.weight_format == QuantFormat::kNested) {
    p.epilogue.alpha = kNestedScale;
    p.outliers.factor = 1.0f / kNestedScale;
  } else if (blocked) {
    p.block.w = weight.scales.as<float>();
    p.block.w_stride = static_cast<int>(RoundUp(desc.k, 128) / 128);
  } else {
    p.epilogue.w_scale = weight.scales.as<float>();
    p.epilogue.w_scale_stride = desc.weight_scale == ScaleGranularity::kPerChannel ? 1 : 0;
  }
  const auto stream = static_cast<cudaStream_t>(context.stream);
  p.workspace = StreamWorkspace(stream);
  sm90::Launch(CachedPlan(p), p, stream, true);
}

}  // namespace

std::span<const GemmKernel> CudaGemmKernels() {
  // Tiles are chosen by M, and sums over K are split differently in different tiles.
  static constexpr std::array<GemmKernel, 4> kKernels = {{
      {"gemm_nested_f16_any_sm90", NestedUnsupported, nullptr, Run16, false},
      {"gemm_e4m3_any_any_sm90", E4m3Unsupported, E4m3WorkspaceBytes, RunE4m3, false},
      {"gemm_plain_any_any_sm90", PlainUnsupported, nullptr, Run16, false},
      {"gemm_plain_any_any_cublaslt", cuda::CublasLtUnsupported, cuda::CublasLtWorkspaceBytes,
       cuda::RunCublasLt, false},
  }};
  return kKernels;
}

}  // namespace dualfp
