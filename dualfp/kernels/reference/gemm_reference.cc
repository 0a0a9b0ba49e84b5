// GEMM for every format: decode a weight row, multiply, epilogue.

#include "dualfp/kernels/reference/gemm_reference.h"

#include <algorithm>
#include <vector>

#include "dualfp/kernels/reference/rows.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp::reference {
namespace {

std::string Supports(const GemmDesc& desc) {
  return desc.device.type == DeviceType::kCpu ? "" : "runs on the CPU only";
}

// Ways in which X enters the product: one for each part that has an input scale of its own.
int64_t Inputs(const GemmDesc& desc) { return desc.part_input_scales ? desc.parts.count : 1; }

// X as it enters the product, [inputs, M, K] floats, and the factor that each row of it stands for.
int64_t WorkspaceBytes(const GemmDesc& desc) {
  return desc.m * (Inputs(desc) * desc.k + 1) * static_cast<int64_t>(sizeof(float));
}

const void* XRow(const GemmArgs& args, int64_t m) { return args.x.Rows(m, m + 1).data; }

float RowScale(const GemmDesc& desc, const GemmArgs& args, int64_t m, float tensor_amax) {
  if (desc.x_dtype == DType::kF8E4M3) {
    return HasGroupScales(desc.activation_quant) ? 1.0f : args.x_scales.as<float>()[m];
  }
  switch (desc.activation_quant) {
    case ActivationQuant::kNone:
      return 1.0f;
    case ActivationQuant::kDynamicPerToken:
      return ActivationScale(kRowInner.max_magnitude(XRow(args, m), desc.x_dtype, desc.k));
    case ActivationQuant::kDynamicPerTensor:
      return ActivationScale(tensor_amax);
    case ActivationQuant::kStaticPerTensor:
      return desc.part_input_scales ? 1.0f : *args.weight->input_scale.as<float>();
    case ActivationQuant::kDynamicPerGroup:
    case ActivationQuant::kDynamicMx:
      return 1.0f;  // QuantizeGroups multiplies by each group's
  }
  return 1.0f;
}

void QuantizeGroups(const GemmDesc& desc, const GemmArgs& args, int64_t m, float* out) {
  const int64_t group = ActivationGroupSize(desc.activation_quant, desc.k);
  for (int64_t k = 0; k < desc.k; k += group) {
    const int64_t count = std::min(group, desc.k - k);
    const void* x = static_cast<const char*>(XRow(args, m)) + k * DTypeSize(desc.x_dtype);
    const float scale = GroupActivationScale(desc.activation_quant,
                                             kRowInner.max_magnitude(x, desc.x_dtype, count));
    kRowInner.quantize(x, desc.x_dtype, count, scale, out + k);
    std::transform(out + k, out + k + count, out + k, [&](float q) { return q * scale; });
  }
}

// Row m of X where it comes as codes; groups times their scales.
void DecodeRow(const GemmDesc& desc, const GemmArgs& args, int64_t m, float* out) {
  const auto* codes = static_cast<const uint8_t*>(XRow(args, m));
  std::transform(codes, codes + desc.k, out, E4m3ToFloat);
  if (HasGroupScales(desc.activation_quant)) {
    const int64_t group = ActivationGroupSize(desc.activation_quant, desc.k);
    for (int64_t k = 0; k < desc.k; ++k) {
      out[k] *= args.x_scales.as<float>()[k / group * args.x_scales.strides[0] + m];
    }
  }
}

void PrepareRows(const GemmDesc& desc, const GemmArgs& args, float* values, float* scales) {
  const bool codes = desc.x_dtype == DType::kF8E4M3;
  float tensor_amax = 0.0f;
  for (int64_t m = 0; m < desc.m && !codes; ++m) {
    tensor_amax =
        std::max(tensor_amax, kRowInner.max_magnitude(XRow(args, m), desc.x_dtype, desc.k));
  }
  for (int64_t m = 0; m < desc.m; ++m) {
    float* out = values + m * desc.k;
    scales[m] = RowScale(desc, args, m, tensor_amax);
    if (codes) {
      DecodeRow(desc, args, m, out);
    } else if (desc.activation_quant == ActivationQuant::kNone) {
      kRowInner.to_float(XRow(args, m), desc.x_dtype, desc.k, out);
    } else if (HasGroupScales(desc.activation_quant)) {
      QuantizeGroups(desc, args, m, out);
    } else if (desc.part_input_scales) {
      for (int part = 0; part < desc.parts.count; ++part) {
        const float scale = args.weight->input_scale.as<float>()[part];
        float* row = out + part * desc.m * desc.k;
        kRowInner.quantize(XRow(args, m), desc.x_dtype, desc.k, scale, row);
        std::transform(row, row + desc.k, row, [scale](float q) { return q * scale; });
      }
    } else {
      kRowInner.quantize(XRow(args, m), desc.x_dtype, desc.k, scales[m], out);
    }
  }
}

// Columns [column, column + count) of W, which make y columns from y_column on.
void RunColumns(const GemmDesc& desc, const GemmArgs& args, const float* values,
                const float* scales, int64_t column, int64_t count, int64_t y_column) {
  std::vector<float> weights(count * desc.k);
  for (int64_t c = 0; c < count; ++c) {
    DecodeWeightRow(*args.weight, desc.precision, column + c, weights.data() + c * desc.k);
  }
  std::vector<float> sums(count);
  for (int64_t m = 0; m < desc.m; ++m) {
    for (int64_t c = 0; c < count; ++c) {
      const int64_t input = desc.part_input_scales ? desc.parts.Part(column + c) : 0;
      const float* x = values + (input * desc.m + m) * desc.k;
      float sum = 0.0f;
      for (int64_t k = 0; k < desc.k; ++k) {
        sum += x[k] * weights[c * desc.k + k];
      }
      sums[c] = sum;
    }
    const int64_t offset = y_column * DTypeSize(desc.y_dtype);
    cpu::RowEpilogue epilogue;
    epilogue.x_scale = scales[m];
    epilogue.bias = desc.has_bias ? args.bias.as<float>() + column : nullptr;
    epilogue.activation = desc.activation;
    epilogue.residual =
        desc.has_residual ? args.residual.Rows(m, m + 1).as<char>() + offset : nullptr;
    epilogue.y = args.y.Rows(m, m + 1).as<char>() + offset;
    epilogue.y_dtype = desc.y_dtype;
    kRowInner.finish(sums.data(), count, epilogue);
  }
}

void Run(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  auto* values = static_cast<float*>(context.workspace.data);
  float* scales = values + Inputs(desc) * desc.m * desc.k;
  PrepareRows(desc, args, values, scales);
  // A pair of weight rows makes one output with silu-mul, so threads take rows in pairs.
  const int64_t pair = desc.activation == Activation::kSiluMul ? 2 : 1;
  context.threads->ParallelFor(desc.n / pair, 4, [&](int64_t begin, int64_t end, int) {
    RunColumns(desc, args, values, scales, begin * pair, (end - begin) * pair, begin);
  });
}

constexpr GemmKernel kKernels[] = {{"gemm_any_any_any_reference", Supports, WorkspaceBytes, Run}};

}  // namespace

std::span<const GemmKernel> GemmKernels() { return kKernels; }

}  // namespace dualfp::reference
