// GEMM as its definition says, for every format: decode a weight row, multiply, epilogue.

#include <cmath>
#include <vector>

#include "dualfp/kernels/gemm_kernels.h"
#include "dualfp/kernels/reference/quantize_reference.h"
#include "dualfp/kernels/reference/rows.h"

namespace dualfp::reference {
namespace {

std::string Supports(const GemmDesc& desc) {
  return desc.device == DeviceType::kCpu ? "" : "runs on the CPU only";
}

// X as it enters the product, [M, K] floats, and the factor that each row of it stands for.
int64_t WorkspaceBytes(const GemmDesc& desc) {
  return desc.m * (desc.k + 1) * static_cast<int64_t>(sizeof(float));
}

void PrepareRows(const GemmArgs& args, const GemmDesc& desc, int64_t begin, int64_t end,
                 float tensor_amax, float* values, float* scales) {
  for (int64_t m = begin; m < end; ++m) {
    const ConstTensorView row = args.x.Rows(m, m + 1);
    float* out = values + m * desc.k;
    scales[m] = RowScale(row, desc.activation_quant, args.weight->input_scale, tensor_amax);
    for (int64_t k = 0; k < desc.k; ++k) {
      const float x = LoadElement(row.data, row.dtype, k);
      out[k] = desc.activation_quant == ActivationQuant::kNone ? x : QuantizeToE4m3(x, scales[m]);
    }
  }
}

float Silu(float x) { return x / (1.0f + std::exp(-x)); }

void Run(const Context& context, const GemmDesc& desc, const GemmArgs& args) {
  auto* values = static_cast<float*>(context.workspace.data);
  float* scales = values + desc.m * desc.k;
  const float tensor_amax =
      desc.activation_quant == ActivationQuant::kDynamicPerTensor ? MaxMagnitude(args.x) : 0.0f;
  context.threads->ParallelFor(desc.m, 1, [&](int64_t begin, int64_t end, int) {
    PrepareRows(args, desc, begin, end, tensor_amax, values, scales);
  });

  // A pair of weight rows makes one output with silu-mul, so threads take rows in pairs.
  const bool pairs = desc.activation == Activation::kSiluMul;
  const int64_t step = pairs ? 2 : 1;
  context.threads->ParallelFor(desc.n / step, 4, [&](int64_t begin, int64_t end, int) {
    std::vector<float> weights(step * desc.k);
    for (int64_t column = begin; column < end; ++column) {
      for (int64_t i = 0; i < step; ++i) {
        DecodeWeightRow(*args.weight, desc.precision, column * step + i,
                        weights.data() + i * desc.k);
      }
      for (int64_t m = 0; m < desc.m; ++m) {
        float result[2] = {0.0f, 0.0f};
        for (int64_t i = 0; i < step; ++i) {
          float sum = 0.0f;
          for (int64_t k = 0; k < desc.k; ++k) {
            sum += values[m * desc.k + k] * weights[i * desc.k + k];
          }
          const float bias = desc.has_bias ? args.bias.as<float>()[column * step + i] : 0.0f;
          result[i] = sum * scales[m] + bias;
        }
        float y = desc.activation == Activation::kNone ? result[0] : Silu(result[0]);
        if (pairs) {
          y *= result[1];
        }
        if (desc.has_residual) {
          y += LoadElement(args.residual.Rows(m, m + 1).data, desc.y_dtype, column);
        }
        StoreElement(args.y.Rows(m, m + 1).data, desc.y_dtype, column, y);
      }
    }
  });
}

constexpr GemmKernel kKernels[] = {{"gemm_any_any_any_reference", Supports, WorkspaceBytes, Run}};

}  // namespace
}  // namespace dualfp::reference

namespace dualfp {

std::span<const GemmKernel> ReferenceGemmKernels() { return reference::kKernels; }

}  // namespace dualfp
