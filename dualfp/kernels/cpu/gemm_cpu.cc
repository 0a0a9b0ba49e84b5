#include "dualfp/kernels/cpu/gemm_cpu.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "dualfp/kernels/cpu/outliers.h"

namespace dualfp::cpu {
namespace {

constexpr int64_t kCacheLine = 64;
// Few enough rows for one direct loop; from here on, decoding into a panel pays.
constexpr int kDirectRows = 8;
// Columns of W whose sums over all of K are kept for a block of rows, while panels pass.
constexpr int kStripColumns = 2 * kUnitColumns;
// Smaller preparations are not worth waking a thread for.
constexpr int64_t kMinParallelElements = 1 << 15;
// Pieces of work for each thread: enough to even out threads that are held up.
constexpr int64_t kPiecesPerThread = 16;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Rows that begin 4 KiB apart would compete for the same sets of the L1 cache, hence the extra
// line.
int64_t InputStride(const GemmInner& inner, int64_t k) {
  return RoundUp(k, inner.k_align) * inner.x_element_bytes + kCacheLine;
}

// One call's worth of arguments, as the loops want them.
struct Problem {
  const CpuGemm& kernel;
  const GemmInner& inner;
  const RowInner& rows;
  const GemmDesc& desc;
  const GemmArgs& args;
  WeightRows weights;
  Outliers outliers;
  float unit;  // a decoded weight times this is the weight, but for scales
  InputRows x = {};
  const float* x_scales = nullptr;  // [M], or null where activations are not quantized

  const uint8_t* XRow(int64_t m) const { return x.data + m * x.stride; }
};

float RowScale(const Problem& problem, const void* row, float tensor_scale) {
  if (problem.desc.activation_quant == ActivationQuant::kDynamicPerToken) {
    return ActivationScale(problem.rows.max_magnitude(row, problem.desc.x_dtype, problem.desc.k));
  }
  return tensor_scale;
}

// Converts one row of X, or quantizes it by `scale`, in pieces that stay in the L1 cache.
void PrepareRow(const Problem& problem, const void* row, float scale, uint8_t* out) {
  constexpr int64_t kPiece = 1024;
  const GemmInner& inner = problem.inner;
  const bool quantize = problem.desc.activation_quant != ActivationQuant::kNone;
  alignas(kCacheLine) float piece[kPiece];
  for (int64_t k = 0; k < problem.desc.k; k += kPiece) {
    const int64_t size = std::min(kPiece, problem.desc.k - k);
    const int64_t padded = RoundUp(size, inner.k_align);
    const void* source = static_cast<const char*>(row) + k * DTypeSize(problem.desc.x_dtype);
    if (quantize) {
      problem.rows.quantize(source, problem.desc.x_dtype, size, scale, piece);
    } else {
      problem.rows.to_float(source, problem.desc.x_dtype, size, piece);
    }
    std::fill(piece + size, piece + padded, 0.0f);
    inner.arrange(piece, padded, out + k * inner.x_element_bytes);
  }
}

template <typename Body>
void ParallelFor(const Context& context, int64_t count, int64_t grain, const Body& body) {
  context.threads->ParallelFor(count, grain, std::cref(body));
}

// The largest dynamic scale of all rows; `row_maxima` is scratch for M floats.
float TensorScale(const Context& context, const Problem& problem, float* row_maxima) {
  const GemmDesc& desc = problem.desc;
  const int64_t grain = std::max<int64_t>(1, kMinParallelElements / desc.k);
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      row_maxima[m] =
          problem.rows.max_magnitude(problem.args.x.Rows(m, m + 1).data, desc.x_dtype, desc.k);
    }
  };
  ParallelFor(context, desc.m, grain, body);
  return ActivationScale(*std::max_element(row_maxima, row_maxima + desc.m));
}

void PrepareInput(const Context& context, Problem& problem) {
  const GemmDesc& desc = problem.desc;
  const ConstTensorView& x = problem.args.x;
  const int64_t x_stride = x.strides[0] * DTypeSize(x.dtype);
  if (problem.inner.keeps_order && desc.x_dtype == DType::kF32 &&
      desc.activation_quant == ActivationQuant::kNone && desc.k % problem.inner.k_align == 0 &&
      reinterpret_cast<uintptr_t>(x.data) % kCacheLine == 0 && x_stride % kCacheLine == 0 &&
      desc.m <= kDirectRows) {
    problem.x = {x.as<uint8_t>(), x_stride};
    return;
  }
  auto base = reinterpret_cast<uintptr_t>(context.workspace.data);
  base = (base + kCacheLine - 1) / kCacheLine * kCacheLine;
  auto* rows = reinterpret_cast<uint8_t*>(base);
  const int64_t stride = InputStride(problem.inner, desc.k);
  auto* scales = reinterpret_cast<float*>(rows + desc.m * stride);
  float tensor_scale = problem.args.weight->input_scale;
  if (desc.activation_quant == ActivationQuant::kDynamicPerTensor) {
    tensor_scale = TensorScale(context, problem, scales);
  }
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      const void* row = x.Rows(m, m + 1).data;
      scales[m] = RowScale(problem, row, tensor_scale);
      PrepareRow(problem, row, scales[m], rows + m * stride);
    }
  };
  ParallelFor(context, desc.m, std::max<int64_t>(1, kMinParallelElements / desc.k), body);
  problem.x = {rows, stride};
  problem.x_scales = desc.activation_quant == ActivationQuant::kNone ? nullptr : scales;
}

// Y[m, column...) from the finished sums of `count` columns.
void FinishRow(const Problem& problem, int64_t m, int64_t column, int64_t count, float* sums) {
  const GemmDesc& desc = problem.desc;
  const GemmArgs& args = problem.args;
  if (!problem.kernel.patches_outliers) {
    problem.outliers.ForEach(column, count, 0, desc.k, [&](int64_t n, int64_t k, float value) {
      sums[n - column] += value / problem.unit * problem.inner.arranged(problem.XRow(m), k);
    });
  }
  RowEpilogue epilogue;
  epilogue.x_scale = problem.x_scales == nullptr ? 1.0f : problem.x_scales[m];
  epilogue.w_scale = problem.unit;
  if (desc.weight_scale == ScaleGranularity::kPerTensor) {
    epilogue.w_scale *= *args.weight->scales.as<float>();
  } else if (desc.weight_scale == ScaleGranularity::kPerChannel) {
    epilogue.w_scales = args.weight->scales.as<float>() + column;
  }
  epilogue.bias = desc.has_bias ? args.bias.as<float>() + column : nullptr;
  epilogue.activation = desc.activation;
  epilogue.y_dtype = desc.y_dtype;
  const int64_t y_offset =
      (desc.activation == Activation::kSiluMul ? column / 2 : column) * DTypeSize(desc.y_dtype);
  epilogue.y = args.y.Rows(m, m + 1).as<char>() + y_offset;
  if (desc.has_residual) {
    epilogue.residual = args.residual.Rows(m, m + 1).as<char>() + y_offset;
  }
  problem.rows.finish(sums, count, epilogue);
}

// The smallest loop for so many rows, or the largest there is.
template <typename Loops>
const auto& LoopFor(const Loops& loops, int64_t num_rows) {
  for (const auto& loop : loops) {
    if (loop.rows >= num_rows) {
      return loop;
    }
  }
  return std::end(loops)[-1];
}

// Rows [m, m + num_rows), columns [column, column + count) of Y, straight from the weights.
void RunDirect(const Problem& problem, int64_t m, int64_t num_rows, int64_t column, int64_t count) {
  alignas(kCacheLine) float sums[kDirectRows][kUnitColumns];
  const auto& loop = LoopFor(problem.inner.direct, num_rows);
  const InputRows x = {problem.XRow(m), problem.x.stride};
  for (int64_t c = 0; c < count; c += loop.columns) {
    alignas(kCacheLine) float tile[kMaxTile];
    loop.run(x, num_rows, problem.weights, column + c, tile);
    const int64_t columns = std::min<int64_t>(loop.columns, count - c);
    for (int64_t r = 0; r < num_rows; ++r) {
      std::copy_n(tile + r * loop.columns, columns, sums[r] + c);
    }
  }
  for (int64_t r = 0; r < num_rows; ++r) {
    FinishRow(problem, m + r, column, count, sums[r]);
  }
}

// Decodes `columns` columns of one block of K, outliers included.
void DecodeBlock(const Problem& problem, int64_t column, int columns, int64_t k, int64_t size,
                 void* panel) {
  problem.inner.decode(problem.weights, column, k, size, panel);
  if (!problem.kernel.patches_outliers) {
    return;
  }
  const int64_t rows = std::min<int64_t>(columns, problem.desc.n - column);
  problem.outliers.ForEach(column, rows, k, size, [&](int64_t n, int64_t at, float value) {
    const int64_t position = problem.inner.panel_position(at - k, static_cast<int>(n - column));
    static_cast<float*>(panel)[position] += value / problem.unit;
  });
}

// The same through decoded panels, for up to kBlockRows rows and kStripColumns columns.
void RunPanels(const Problem& problem, int64_t m, int64_t num_rows, int64_t column, int64_t count) {
  const GemmInner& inner = problem.inner;
  const auto& whole = std::end(inner.tile)[-1];
  const int64_t row_tiles = (num_rows + whole.rows - 1) / whole.rows;
  const int64_t column_tiles = (count + whole.columns - 1) / whole.columns;
  const int64_t tile_size = TileSize(whole.rows, whole.columns);
  // Sums keep the tiles' layout until all of K is in.
  alignas(kCacheLine) float tiles[kBlockRows * kStripColumns * kMaxTileOverhead];
  alignas(kCacheLine) uint8_t panel[kMaxPanelBytes];
  std::fill_n(tiles, row_tiles * column_tiles * tile_size, 0.0f);
  for (int64_t k = 0; k < problem.desc.k; k += inner.block_k) {
    const int64_t size = std::min<int64_t>(inner.block_k, problem.desc.k - k);
    for (int64_t c = 0; c < column_tiles; ++c) {
      DecodeBlock(problem, column + c * whole.columns, whole.columns, k, size, panel);
      for (int64_t r = 0; r < row_tiles; ++r) {
        const int64_t rows = std::min<int64_t>(whole.rows, num_rows - r * whole.rows);
        const InputRows x = {problem.XRow(m + r * whole.rows) + k * inner.x_element_bytes,
                             problem.x.stride};
        LoopFor(inner.tile, rows)
            .run(x, rows, panel, size, tiles + (r * column_tiles + c) * tile_size);
      }
    }
  }
  for (int64_t row = 0; row < num_rows; ++row) {
    alignas(kCacheLine) float sums[kStripColumns];
    for (int64_t c = 0; c < column_tiles; ++c) {
      const int64_t first = c * whole.columns;
      const float* tile = tiles + (row / whole.rows * column_tiles + c) * tile_size;
      std::copy_n(tile + row % whole.rows * whole.columns,
                  std::min<int64_t>(whole.columns, count - first), sums + first);
    }
    FinishRow(problem, m + row, column, count, sums);
  }
}

void Multiply(const Context& context, const Problem& problem) {
  const GemmDesc& desc = problem.desc;
  if (desc.m <= kDirectRows) {
    const auto body = [&](int64_t begin, int64_t end, int) {
      for (int64_t unit = begin; unit < end; ++unit) {
        const int64_t column = unit * kUnitColumns;
        const int64_t count = std::min<int64_t>(kUnitColumns, desc.n - column);
        if (problem.kernel.patches_outliers && problem.outliers.AnyInRows(column, count)) {
          RunPanels(problem, 0, desc.m, column, count);
        } else {
          RunDirect(problem, 0, desc.m, column, count);
        }
      }
    };
    const int64_t units = (desc.n + kUnitColumns - 1) / kUnitColumns;
    ParallelFor(context, units, units / (context.threads->num_threads() * kPiecesPerThread), body);
    return;
  }
  // Row blocks of one strip follow each other, while its weights are in a cache.
  const int64_t strips = (desc.n + kStripColumns - 1) / kStripColumns;
  const int64_t blocks = (desc.m + kBlockRows - 1) / kBlockRows;
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t column = task / blocks * kStripColumns;
      const int64_t m = task % blocks * kBlockRows;
      RunPanels(problem, m, std::min<int64_t>(kBlockRows, desc.m - m), column,
                std::min<int64_t>(kStripColumns, desc.n - column));
    }
  };
  ParallelFor(context, strips * blocks, 1, body);
}

}  // namespace

int64_t CpuGemmWorkspaceBytes(const CpuGemm& kernel, const GemmDesc& desc) {
  return desc.m * (InputStride(*kernel.inner, desc.k) + static_cast<int64_t>(sizeof(float))) +
         kCacheLine;
}

void RunCpuGemm(const CpuGemm& kernel, const Context& context, const GemmDesc& desc,
                const GemmArgs& args) {
  const Weight& weight = *args.weight;
  Problem problem{
      .kernel = kernel,
      .inner = *kernel.inner,
      .rows = *kernel.rows,
      .desc = desc,
      .args = args,
      .weights = {.values = weight.values.as<uint8_t>(),
                  .lower = weight.lower.as<uint8_t>(),
                  .row_bytes = desc.k * DTypeSize(desc.weight_dtype),
                  .n = desc.n,
                  .k = desc.k},
      .outliers = Outliers(weight),
      .unit = kernel.inner->value_scale * kernel.unit,
  };
  if (desc.weight_scale == ScaleGranularity::kBlock128) {
    problem.weights.block_scales = weight.scales.as<float>();
    problem.weights.blocks_per_row = weight.scales.shape[1];
  }
  PrepareInput(context, problem);
  Multiply(context, problem);
}

}  // namespace dualfp::cpu
