#include "dualfp/kernels/quantize.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "dualfp/base/check.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cpu/row_inner.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

constexpr int64_t kBlock = 128;

int64_t Blocks(int64_t size) { return (size + kBlock - 1) / kBlock; }

// Columns [begin, end) of a matrix.
ConstTensorView Columns(ConstTensorView matrix, int64_t begin, int64_t end) {
  matrix.data = matrix.as<char>() + begin * DTypeSize(matrix.dtype);
  matrix.shape[1] = end - begin;
  return matrix;
}

// Smaller pieces are not worth waking a thread for.
constexpr int64_t kMinParallelElements = int64_t{1} << 15;

const cpu::RowInner& Rows() { return *BestBackend(DeviceType::kCpu).rows; }

}  // namespace

std::string_view ActivationQuantName(ActivationQuant quant) {
  switch (quant) {
    case ActivationQuant::kNone:
      return "weight-only";
    case ActivationQuant::kDynamicPerToken:
      return "per-token";
    case ActivationQuant::kDynamicPerTensor:
      return "per-tensor";
    case ActivationQuant::kStaticPerTensor:
      return "static";
    case ActivationQuant::kDynamicPerGroup:
      return "per-group";
  }
  return "unknown";
}

float ActivationScale(float amax) {
  const float scale = amax / kE4m3Max;
  return scale == 0.0f ? 1.0f : scale;
}

void QuantizeActivations(const Context& context, const ConstTensorView& x, ActivationQuant quant,
                         float static_scale, const TensorView& codes, const TensorView& scales) {
  const bool rows = x.rank == 2 && (x.shape[1] <= 1 || x.strides[1] == 1);
  Check(rows && (x.dtype == DType::kF32 || x.dtype == DType::kF16 || x.dtype == DType::kBF16),
        ErrorCode::kInvalidArgument, "quantize: x must be F32, F16 or BF16 [M, K]");
  Check(codes.rank == 2 && codes.dtype == DType::kF8E4M3 && codes.shape == x.shape &&
            (x.shape[1] <= 1 || codes.strides[1] == 1),
        ErrorCode::kInvalidArgument, "quantize: codes must be F8_E4M3, of x's shape");
  Check(scales.rank == 1 && scales.dtype == DType::kF32 && scales.shape[0] == x.shape[0] &&
            scales.is_contiguous(),
        ErrorCode::kInvalidArgument, "quantize: scales must be F32, one per row of x");
  Check(quant != ActivationQuant::kNone && quant != ActivationQuant::kDynamicPerGroup,
        ErrorCode::kInvalidArgument, "quantize: ", ActivationQuantName(quant),
        " has no scale per row");
  Check(quant != ActivationQuant::kStaticPerTensor ||
            (static_scale > 0 && std::isfinite(static_scale)),
        ErrorCode::kInvalidArgument, "quantize: the static scale must be positive and finite");
  Check(x.device.type == DeviceType::kCpu && codes.device == x.device && scales.device == x.device,
        ErrorCode::kUnsupported, "quantize: x, codes and scales must be on the CPU");
  Check(context.threads != nullptr, ErrorCode::kInvalidArgument, "quantize: no thread pool");

  const cpu::RowInner& inner = Rows();
  const int64_t rows_at_a_time =
      std::max<int64_t>(1, kMinParallelElements / std::max<int64_t>(1, x.shape[1]));
  auto* scale = scales.as<float>();
  const auto measure = [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      scale[m] = inner.max_magnitude(x.Rows(m, m + 1).data, x.dtype, x.shape[1]);
    }
  };
  const auto encode = [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      inner.encode(x.Rows(m, m + 1).data, x.dtype, x.shape[1], scale[m],
                   codes.Rows(m, m + 1).as<uint8_t>());
    }
  };
  if (quant == ActivationQuant::kStaticPerTensor) {
    std::fill_n(scale, x.shape[0], static_scale);
  } else {
    context.threads->ParallelFor(x.shape[0], rows_at_a_time, std::cref(measure));
    if (quant == ActivationQuant::kDynamicPerTensor && x.shape[0] > 0) {
      std::fill_n(scale, x.shape[0], *std::max_element(scale, scale + x.shape[0]));
    }
    std::transform(scale, scale + x.shape[0], scale, ActivationScale);
  }
  context.threads->ParallelFor(x.shape[0], rows_at_a_time, std::cref(encode));
}

int64_t Fp8WeightScales(ScaleGranularity granularity, int64_t n, int64_t k) {
  switch (granularity) {
    case ScaleGranularity::kPerTensor:
      return 1;
    case ScaleGranularity::kPerChannel:
      return n;
    case ScaleGranularity::kBlock128:
      return Blocks(n) * Blocks(k);
    case ScaleGranularity::kNone:
    case ScaleGranularity::kGroup:
      break;
  }
  Fail(ErrorCode::kInvalidArgument,
       "quantize: fp8 weights have per-tensor, per-channel or 128x128 block scales");
}

void QuantizeWeight(const Context& context, const ConstTensorView& weight,
                    ScaleGranularity granularity, const TensorView& codes,
                    const TensorView& scales) {
  const bool rows = weight.rank == 2 && (weight.shape[1] <= 1 || weight.strides[1] == 1);
  Check(rows && (weight.dtype == DType::kF32 || weight.dtype == DType::kF16 ||
                 weight.dtype == DType::kBF16),
        ErrorCode::kInvalidArgument, "quantize: the weight must be F32, F16 or BF16 [N, K]");
  const int64_t n = weight.shape[0];
  const int64_t k = weight.shape[1];
  Check(codes.rank == 2 && codes.dtype == DType::kF8E4M3 && codes.shape == weight.shape &&
            codes.is_contiguous(),
        ErrorCode::kInvalidArgument, "quantize: codes must be contiguous F8_E4M3[", n, ", ", k,
        "]");
  const int64_t num_scales = Fp8WeightScales(granularity, n, k);
  Check(
      scales.dtype == DType::kF32 && scales.num_elements() == num_scales && scales.is_contiguous(),
      ErrorCode::kInvalidArgument, "quantize: scales must be contiguous F32 with ", num_scales,
      " elements");
  Check(weight.device.type == DeviceType::kCpu && codes.device == weight.device &&
            scales.device == weight.device,
        ErrorCode::kUnsupported, "quantize: weight, codes and scales must be on the CPU");
  Check(context.threads != nullptr, ErrorCode::kInvalidArgument, "quantize: no thread pool");

  auto* scale = scales.as<float>();
  const cpu::RowInner& inner = Rows();
  const auto max_magnitude = [&inner](const ConstTensorView& tile) {
    float amax = 0.0f;
    for (int64_t row = 0; row < tile.shape[0]; ++row) {
      amax = std::max(amax,
                      inner.max_magnitude(tile.Rows(row, row + 1).data, tile.dtype, tile.shape[1]));
    }
    return amax;
  };
  if (granularity == ScaleGranularity::kPerTensor) {
    *scale = ActivationScale(max_magnitude(weight));
  }
  // Threads take whole rows of tiles: of blocks, or of single rows.
  const bool blocked = granularity == ScaleGranularity::kBlock128;
  const int64_t tile_rows = blocked ? kBlock : 1;
  const int64_t tile_columns = blocked ? kBlock : k;
  const int64_t tiles = blocked ? Blocks(k) : 1;
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      const ConstTensorView strip = weight.Rows(i * tile_rows, std::min(n, (i + 1) * tile_rows));
      for (int64_t j = 0; j < tiles; ++j) {
        const int64_t column = j * tile_columns;
        const ConstTensorView tile = Columns(strip, column, std::min(k, column + tile_columns));
        float* tile_scale = scale;
        if (granularity != ScaleGranularity::kPerTensor) {
          tile_scale += i * tiles + j;
          *tile_scale = ActivationScale(max_magnitude(tile));
        }
        for (int64_t row = 0; row < tile.shape[0]; ++row) {
          inner.encode(tile.Rows(row, row + 1).data, tile.dtype, tile.shape[1], *tile_scale,
                       codes.as<uint8_t>() + (i * tile_rows + row) * k + column);
        }
      }
    }
  };
  context.threads->ParallelFor((n + tile_rows - 1) / tile_rows, 1, body);
}

}  // namespace dualfp
