#include "dualfp/kernels/cpu/gemm_parts.h"

#include <algorithm>
#include <functional>

namespace dualfp::cpu {
namespace {

constexpr int64_t kAlignment = 64;

int64_t Aligned(int64_t bytes) { return (bytes + kAlignment - 1) / kAlignment * kAlignment; }

// Rows first, first + step, ... of a weight.
struct PartRows {
  int64_t first = 0;
  int64_t count = 0;
  int64_t step = 1;
};

PartRows RowsOf(const RowParts& parts, int64_t n, int part) {
  if (parts.interleaved != 0) {
    return {part, (n - part + 1) / 2, 2};
  }
  const int64_t first = parts.first_row[part];
  const int64_t end = part + 1 < parts.count ? parts.first_row[part + 1] : n;
  return {first, end - first, 1};
}

ConstTensorView Rows(const ConstTensorView& matrix, const PartRows& rows) {
  ConstTensorView view = matrix.Rows(rows.first, rows.first + 1);
  view.shape[0] = rows.count;
  view.strides[0] *= rows.step;
  return view;
}

ConstTensorView Floats(const float* data, int64_t count) { return {data, DType::kF32, {count}}; }

// Whether parts meet in floats before the epilogue, which takes columns of several at once.
bool MeetInFloats(const GemmDesc& desc) {
  return desc.parts.interleaved != 0 || desc.activation == Activation::kSiluMul;
}

// The description of one part's product alone.
GemmDesc PartDesc(const GemmDesc& desc, int64_t rows) {
  GemmDesc part = desc;
  part.n = rows;
  part.parts = {};
  part.part_input_scales = false;
  if (MeetInFloats(desc)) {
    part.y_dtype = DType::kF32;
    part.activation = Activation::kNone;
    part.has_bias = part.has_residual = false;
  }
  return part;
}

// One part as a weight of its own. `scales` has room for a float a row, where they have to move.
Weight PartWeight(const Weight& weight, int part, const PartRows& rows, float* scales) {
  Weight one = weight;
  one.n = rows.count;
  one.parts = {};
  one.parts.scale_base[0] = weight.parts.scale_base[part];
  one.values = Rows(weight.values, rows);
  if (weight.lower) {
    one.lower = Rows(weight.lower, rows);
  }
  switch (weight.scale_granularity) {
    case ScaleGranularity::kPerChannel:
      for (int64_t i = 0; i < rows.count; ++i) {
        scales[i] = weight.scales.as<float>()[rows.first + i * rows.step];
      }
      one.scales = Floats(scales, rows.count);
      break;
    case ScaleGranularity::kGroup:
      one.scales = Rows(weight.scales, rows);
      break;
    case ScaleGranularity::kNone:  // shifts of nested12
      if (weight.scales) {
        one.scales = weight.scales.Rows(rows.first, rows.first + rows.count);
      }
      break;
    case ScaleGranularity::kPerTensor:
    case ScaleGranularity::kBlock128:
      break;
  }
  one.input_scale = Floats(weight.input_scale.as<float>() + part, 1);
  return one;
}

// Where things lie in the workspace.
struct Layout {
  Layout(const CpuGemm& kernel, const GemmDesc& desc) {
    int64_t most_rows = 0;
    for (int part = 0; part < desc.parts.count; ++part) {
      const int64_t rows = RowsOf(desc.parts, desc.n, part).count;
      most_rows = std::max(most_rows, rows);
      gemm_bytes = std::max(gemm_bytes, CpuGemmWorkspaceBytes(kernel, PartDesc(desc, rows)));
    }
    constexpr auto kFloat = static_cast<int64_t>(sizeof(float));
    scales_bytes = Aligned(most_rows * kFloat);
    sums_bytes = MeetInFloats(desc) ? Aligned(desc.m * most_rows * kFloat) : 0;
    gemm_at = scales_bytes + desc.parts.count * sums_bytes;
  }

  int64_t bytes() const { return gemm_at + gemm_bytes; }

  int64_t scales_bytes = 0;
  int64_t sums_bytes = 0;  // of each part, [M, rows]
  int64_t gemm_at = 0;
  int64_t gemm_bytes = 0;
};

// What each part summed up, in the order of the weight's rows, through the epilogue.
void FinishTogether(const CpuGemm& kernel, const Context& context, const GemmDesc& desc,
                    const GemmArgs& args, const float* const* sums) {
  int64_t width[kMaxRowParts] = {};
  for (int part = 0; part < desc.parts.count; ++part) {
    width[part] = RowsOf(desc.parts, desc.n, part).count;
  }
  const auto body = [&](int64_t begin, int64_t end, int) {
    constexpr int64_t kColumns = 256;
    for (int64_t m = begin; m < end; ++m) {
      for (int64_t column = 0; column < desc.n; column += kColumns) {
        const int64_t count = std::min(kColumns, desc.n - column);
        alignas(kAlignment) float together[kColumns];
        for (int64_t i = 0; i < count; ++i) {
          const int32_t part = desc.parts.Part(column + i);
          together[i] = sums[part][m * width[part] + desc.parts.RowInPart(column + i)];
        }
        const int64_t y_column = desc.activation == Activation::kSiluMul ? column / 2 : column;
        const int64_t offset = y_column * DTypeSize(desc.y_dtype);
        RowEpilogue epilogue;
        epilogue.bias = desc.has_bias ? args.bias.as<float>() + column : nullptr;
        epilogue.activation = desc.activation;
        epilogue.residual =
            desc.has_residual ? args.residual.Rows(m, m + 1).as<char>() + offset : nullptr;
        epilogue.y = args.y.Rows(m, m + 1).as<char>() + offset;
        epilogue.y_dtype = desc.y_dtype;
        kernel.rows->finish(together, count, epilogue);
      }
    }
  };
  context.threads->ParallelFor(desc.m, 1, std::cref(body));
}

// Columns [first, first + count) of a matrix.
template <typename View>
View Columns(View matrix, int64_t first, int64_t count) {
  matrix.data = matrix.template as<char>() + first * DTypeSize(matrix.dtype);
  matrix.shape[1] = count;
  return matrix;
}

}  // namespace

std::string_view PartsUnsupported(const GemmDesc& desc) {
  if (desc.has_outliers) {
    return "outliers want one static activation scale";
  }
  return desc.weight_format == QuantFormat::kNested12 && desc.parts.interleaved != 0
             ? "interleaved nested12 parts want one static activation scale"
             : "";
}

int64_t PartsWorkspaceBytes(const CpuGemm& kernel, const GemmDesc& desc) {
  return Layout(kernel, desc).bytes() + kAlignment;
}

void RunParts(const CpuGemm& kernel, const Context& context, const GemmDesc& desc,
              const GemmArgs& args) {
  const Layout layout(kernel, desc);
  const auto past =
      static_cast<int64_t>(reinterpret_cast<uintptr_t>(context.workspace.data) % kAlignment);
  char* base = context.workspace.as<char>() + (past == 0 ? 0 : kAlignment - past);
  auto* scales = reinterpret_cast<float*>(base);
  const bool together = MeetInFloats(desc);
  const float* sums[kMaxRowParts] = {};
  Context run = context;
  run.workspace = TensorView(base + layout.gemm_at, DType::kU8, {layout.gemm_bytes});
  for (int part = 0; part < desc.parts.count; ++part) {
    const PartRows rows = RowsOf(desc.parts, desc.n, part);
    const Weight weight = PartWeight(*args.weight, part, rows, scales);
    GemmArgs one = args;
    one.weight = &weight;
    if (together) {
      auto* to = reinterpret_cast<float*>(base + layout.scales_bytes + part * layout.sums_bytes);
      sums[part] = to;
      one.y = TensorView(to, DType::kF32, {desc.m, rows.count});
      one.activation = Activation::kNone;
      one.bias = {};
      one.residual = {};
    } else {
      one.y = Columns(args.y, rows.first, rows.count);
      if (desc.has_bias) {
        one.bias = Floats(args.bias.as<float>() + rows.first, rows.count);
      }
      if (desc.has_residual) {
        one.residual = Columns(args.residual, rows.first, rows.count);
      }
    }
    RunCpuGemm(kernel, run, PartDesc(desc, rows.count), one);
  }
  if (together) {
    FinishTogether(kernel, context, desc, args, sums);
  }
}

}  // namespace dualfp::cpu
