#include "dualfp/kernels/cpu/gemm_cpu.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <functional>

#include "dualfp/kernels/cpu/gemm_parts.h"
#include "dualfp/kernels/cpu/outliers.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cpu {
namespace {

constexpr int64_t kCacheLine = 64;
// Smaller preparations are not worth waking a thread for.
constexpr int64_t kMinParallelElements = 1 << 15;

int64_t RoundUp(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// Where prepared activations lie. Direct loops read whole rows, or, where they want them
// interleaved, one tile of them. Panels read tiles, block of K by block of K, in just this order:
// [block][tile][vector of K][row of the tile][element].
class InputLayout {
 public:
  InputLayout(const GemmInner& inner, bool tiled, int64_t m, int64_t k)
      : inner_(inner),
        k_(RoundUp(k, inner.k_align)),
        tile_rows_(tiled                    ? std::end(inner.tile)[-1].rows
                   : inner.interleaves_rows ? m
                                            : 1),
        rows_(RoundUp(m, tile_rows_)) {}

  // Rows to fill: a last tile of fewer rows is filled up with zeros.
  int64_t rows() const { return rows_; }
  // Rows that began 4 KiB apart would compete for the same sets of the L1 cache, hence the line.
  int64_t row_bytes() const { return k_ * inner_.x_element_bytes + kCacheLine; }
  int64_t bytes() const { return rows_ * row_bytes(); }
  // Elements from one vector of a row to the next.
  int64_t vector_stride() const { return tile_rows_ * inner_.vector_elements; }

  // The first vector of row m in the block that begins at k; of a whole tile where m is its first.
  int64_t Offset(int64_t m, int64_t k) const {
    if (tile_rows_ == 1) {
      return m * row_bytes() + k * inner_.x_element_bytes;
    }
    const int64_t block_size = std::min<int64_t>(inner_.block_k, k_ - k);
    return (rows_ * k + m / tile_rows_ * tile_rows_ * block_size +
            m % tile_rows_ * inner_.vector_elements) *
           inner_.x_element_bytes;
  }

 private:
  const GemmInner& inner_;
  int64_t k_;
  int64_t tile_rows_;
  int64_t rows_;
};

const GemmInner& FewRows(const CpuGemm& kernel) {
  return kernel.few_rows == nullptr ? *kernel.inner : *kernel.few_rows;
}

// One call's worth of arguments, as the loops want them.
struct Problem {
  const CpuGemm& kernel;
  const GemmInner& inner;   // of panels
  const GemmInner& direct;  // of direct loops
  const RowInner& rows;
  const GemmDesc& desc;
  const GemmArgs& args;
  WeightRows weights;
  Outliers outliers;
  float unit;  // a decoded weight times this is the weight, but for scales
  // Prepared activations, as whole rows for direct loops and as tiles for panels; null where
  // that way is not taken.
  const uint8_t* rows_x = nullptr;
  int64_t rows_x_bytes = 0;
  const uint8_t* tiles_x = nullptr;
  const float* x_scales = nullptr;  // [M], or null where activations are not quantized

  InputLayout RowLayout() const { return {direct, false, desc.m, desc.k}; }
  InputLayout TileLayout() const { return {inner, true, desc.m, desc.k}; }

  // Element k of row m.
  float InputAt(int64_t m, int64_t k) const {
    const InputLayout layout = tiles_x == nullptr ? RowLayout() : TileLayout();
    const uint8_t* x = tiles_x == nullptr ? rows_x : tiles_x;
    const int64_t block = k / inner.block_k * inner.block_k;
    const auto arranged = tiles_x == nullptr ? direct.arranged : inner.arranged;
    return arranged(x + layout.Offset(m, block), k - block, layout.vector_stride());
  }
};

bool UsesDirect(const CpuGemm& kernel, const GemmDesc& desc) {
  return desc.m <= kernel.direct_rows;
}

// Few rows still meet panels where outliers have to be patched in.
bool UsesPanels(const CpuGemm& kernel, const GemmDesc& desc) {
  return !UsesDirect(kernel, desc) || (kernel.patches_outliers && desc.has_outliers);
}

// Values of E4M3 codes.
void DecodeRow(const uint8_t* codes, int64_t size, float* values) {
  static constexpr auto kValues = [] {
    std::array<float, 256> table{};
    for (int code = 0; code < 256; ++code) {
      table[code] = E4m3ToFloat(static_cast<uint8_t>(code));
    }
    return table;
  }();
  for (int64_t i = 0; i < size; ++i) {
    values[i] = kValues[codes[i]];
  }
}

// Elements [k, k + size) of row m of X, quantized in groups: codes times their scales. k begins a
// group.
void QuantizeGroups(const Problem& problem, int64_t m, int64_t k, int64_t size, float* values) {
  const GemmDesc& desc = problem.desc;
  const int64_t group = ActivationGroupSize(desc.activation_quant, desc.k);
  const auto* row = problem.args.x.Rows(m, m + 1).as<char>();
  for (int64_t begin = 0; begin < size; begin += group) {
    const int64_t count = std::min(group, size - begin);
    const char* source = row + (k + begin) * DTypeSize(desc.x_dtype);
    float scale;
    if (desc.x_dtype == DType::kF8E4M3) {
      const ConstTensorView& scales = problem.args.x_scales;
      scale = scales.as<float>()[(k + begin) / group * scales.strides[0] + m];
      DecodeRow(reinterpret_cast<const uint8_t*>(source), count, values + begin);
    } else {
      scale = GroupActivationScale(desc.activation_quant,
                                   problem.rows.max_magnitude(source, desc.x_dtype, count));
      problem.rows.quantize(source, desc.x_dtype, count, scale, values + begin);
    }
    std::transform(values + begin, values + begin + count, values + begin,
                   [scale](float q) { return q * scale; });
  }
}

float RowScale(const Problem& problem, int64_t m, float tensor_scale) {
  if (HasGroupScales(problem.desc.activation_quant)) {
    return 1.0f;
  }
  if (problem.desc.x_dtype == DType::kF8E4M3) {
    return problem.args.x_scales.as<float>()[m];
  }
  if (problem.desc.activation_quant == ActivationQuant::kDynamicPerToken) {
    return ActivationScale(problem.rows.max_magnitude(problem.args.x.Rows(m, m + 1).data,
                                                      problem.desc.x_dtype, problem.desc.k));
  }
  return tensor_scale;
}

// Converts row m of X, or quantizes it by `scale`, block by block of K, to where the layouts want
// it; either output may be null. Rows from M on are zeros.
void PrepareRow(const Problem& problem, int64_t m, float scale, uint8_t* rows_x, uint8_t* tiles_x) {
  const GemmInner& inner = problem.inner;
  const GemmDesc& desc = problem.desc;
  const InputLayout row_layout = problem.RowLayout();
  const InputLayout tile_layout = problem.TileLayout();
  alignas(kCacheLine) float block[kMaxBlockK];
  for (int64_t k = 0; k < desc.k; k += inner.block_k) {
    const int64_t size = std::min<int64_t>(inner.block_k, desc.k - k);
    const int64_t padded = RoundUp(size, inner.k_align);
    std::fill_n(block, padded, 0.0f);
    if (m < desc.m) {
      const auto* source = problem.args.x.Rows(m, m + 1).as<char>() + k * DTypeSize(desc.x_dtype);
      if (HasGroupScales(desc.activation_quant)) {
        QuantizeGroups(problem, m, k, size, block);
      } else if (desc.x_dtype == DType::kF8E4M3) {
        DecodeRow(reinterpret_cast<const uint8_t*>(source), size, block);
      } else if (desc.activation_quant == ActivationQuant::kNone) {
        problem.rows.to_float(source, desc.x_dtype, size, block);
      } else {
        problem.rows.quantize(source, desc.x_dtype, size, scale, block);
      }
    }
    if (rows_x != nullptr && m < desc.m) {
      problem.direct.arrange(block, padded, row_layout.vector_stride(),
                             rows_x + row_layout.Offset(m, k));
    }
    if (tiles_x != nullptr) {
      inner.arrange(block, padded, tile_layout.vector_stride(), tiles_x + tile_layout.Offset(m, k));
    }
  }
}

template <typename Body>
void ParallelFor(const Context& context, int64_t count, int64_t grain, const Body& body) {
  context.threads->ParallelFor(count, grain, std::cref(body));
}

// Calls body(i) for i in [0, count). Every thread goes through a contiguous part of its own, which
// is how weights stream best, and then helps with the parts of threads that were held up.
template <typename Body>
void StreamFor(const Context& context, int64_t count, const Body& body) {
  constexpr int kMaxParts = 64;
  struct alignas(kCacheLine) Part {
    std::atomic<int64_t> next;
    int64_t end;
  };
  Part parts[kMaxParts];
  const int num_parts = std::min(context.threads->num_threads(), kMaxParts);
  for (int part = 0; part < num_parts; ++part) {
    parts[part].next.store(count * part / num_parts, std::memory_order_relaxed);
    parts[part].end = count * (part + 1) / num_parts;
  }
  const auto run = [&](int thread) {
    for (int i = 0; i < num_parts; ++i) {
      Part& part = parts[(thread + i) % num_parts];
      for (;;) {
        const int64_t item = part.next.fetch_add(1, std::memory_order_relaxed);
        if (item >= part.end) {
          break;
        }
        body(item);
      }
    }
  };
  context.threads->RunOnAll(std::cref(run));
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

// Whether X can be multiplied where it lies.
bool IsReady(const Problem& problem) {
  const GemmDesc& desc = problem.desc;
  const ConstTensorView& x = problem.args.x;
  return problem.direct.keeps_order && desc.x_dtype == DType::kF32 &&
         desc.activation_quant == ActivationQuant::kNone && desc.k % problem.direct.k_align == 0 &&
         reinterpret_cast<uintptr_t>(x.data) % kCacheLine == 0 &&
         x.strides[0] * int64_t{sizeof(float)} % kCacheLine == 0;
}

void PrepareInput(const Context& context, Problem& problem) {
  const GemmDesc& desc = problem.desc;
  const ConstTensorView& x = problem.args.x;
  const bool tiled = UsesPanels(problem.kernel, desc);
  if (!tiled && IsReady(problem)) {
    problem.rows_x = x.as<uint8_t>();
    problem.rows_x_bytes = x.strides[0] * int64_t{sizeof(float)};
    return;
  }
  const auto past_line = reinterpret_cast<uintptr_t>(context.workspace.data) % kCacheLine;
  auto* next =
      static_cast<uint8_t*>(context.workspace.data) + (past_line == 0 ? 0 : kCacheLine - past_line);
  uint8_t* rows_x = nullptr;
  uint8_t* tiles_x = nullptr;
  if (UsesDirect(problem.kernel, desc)) {
    rows_x = next;
    next += problem.RowLayout().bytes();
  }
  if (tiled) {
    tiles_x = next;
    next += problem.TileLayout().bytes();
  }
  auto* scales = reinterpret_cast<float*>(next);
  float tensor_scale = 1.0f;
  const bool codes = desc.x_dtype == DType::kF8E4M3;
  if (desc.activation_quant == ActivationQuant::kStaticPerTensor && !codes) {
    tensor_scale = *problem.args.weight->input_scale.as<float>();
  }
  if (desc.activation_quant == ActivationQuant::kDynamicPerTensor && !codes) {
    tensor_scale = TensorScale(context, problem, scales);
  }
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t m = begin; m < end; ++m) {
      float scale = 1.0f;
      if (m < desc.m) {
        scale = RowScale(problem, m, tensor_scale);
        scales[m] = scale;
      }
      PrepareRow(problem, m, scale, rows_x, tiles_x);
    }
  };
  const int64_t rows = tiled ? problem.TileLayout().rows() : desc.m;
  ParallelFor(context, rows, std::max<int64_t>(1, kMinParallelElements / desc.k), body);
  problem.rows_x = rows_x;
  problem.rows_x_bytes = problem.RowLayout().row_bytes();
  problem.tiles_x = tiles_x;
  problem.x_scales = desc.activation_quant == ActivationQuant::kNone ? nullptr : scales;
}

float LoadFloat(const ConstTensorView& x, int64_t row, int64_t column) {
  const int64_t i = row * x.strides[0] + column;
  switch (x.dtype) {
    case DType::kF16:
      return Fp16ToFloat(x.as<uint16_t>()[i]);
    case DType::kBF16:
      return Bf16ToFloat(x.as<uint16_t>()[i]);
    default:
      return x.as<float>()[i];
  }
}

// Adds the products of remainders to the sums of `count` columns, which are in units of their row's
// 2^-shift.
void AddRemainders(const Problem& problem, int64_t m, int64_t column, int64_t count, float* sums) {
  const auto* shifts = problem.args.weight->scales.as<int8_t>();
  const ConstTensorView& x = problem.args.x;
  problem.outliers.ForEachInRows(column, count, [&](int64_t n, int64_t k, float value) {
    sums[n - column] += ScaleByPowerOfTwo(value, shifts[n]) * LoadFloat(x, m, k);
  });
}

// Y[m, column...) from the finished sums of `count` columns.
void FinishRow(const Problem& problem, int64_t m, int64_t column, int64_t count, float* sums) {
  const GemmDesc& desc = problem.desc;
  const GemmArgs& args = problem.args;
  float row_scales[kStripColumns];
  if (desc.weight_format == QuantFormat::kNested12) {
    for (int64_t i = 0; i < count; ++i) {
      row_scales[i] = Nested12RowScale(args.weight->scales.as<int8_t>()[column + i]);
    }
    AddRemainders(problem, m, column, count, sums);
  } else if (!problem.kernel.patches_outliers) {
    problem.outliers.ForEachInRows(column, count, [&](int64_t n, int64_t k, float value) {
      sums[n - column] += value / problem.unit * problem.InputAt(m, k);
    });
  }
  RowEpilogue epilogue;
  epilogue.x_scale = problem.x_scales == nullptr ? 1.0f : problem.x_scales[m];
  epilogue.w_scale = problem.unit;
  if (desc.weight_scale == ScaleGranularity::kPerTensor) {
    epilogue.w_scale *= *args.weight->scales.as<float>();
  } else if (desc.weight_scale == ScaleGranularity::kPerChannel) {
    epilogue.w_scales = args.weight->scales.as<float>() + column;
  } else if (desc.weight_format == QuantFormat::kNested12) {
    epilogue.w_scales = row_scales;
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

// All rows, columns [column, column + count) of Y, straight from the weights.
void RunDirect(const Problem& problem, int64_t column, int64_t count) {
  alignas(kCacheLine) float sums[kMaxDirectRows][kUnitColumns];
  const int64_t rows = problem.desc.m;
  const auto& loop = LoopFor(problem.direct.direct, rows);
  const InputRows x = {problem.rows_x, problem.rows_x_bytes};
  for (int64_t c = 0; c < count; c += loop.columns) {
    alignas(kCacheLine) float tile[kMaxDirectRows * kUnitColumns];
    loop.run(x, rows, problem.weights, column + c, tile);
    const int64_t columns = std::min<int64_t>(loop.columns, count - c);
    for (int64_t r = 0; r < rows; ++r) {
      std::copy_n(tile + r * loop.columns, columns, sums[r] + c);
    }
  }
  for (int64_t r = 0; r < rows; ++r) {
    FinishRow(problem, r, column, count, sums[r]);
  }
}

// Adds the outliers among `columns` columns of one block of K to its decoded panel.
void PatchOutliers(const Problem& problem, PanelRange range, int columns, int64_t size,
                   void* panel) {
  const int64_t rows = std::min<int64_t>(columns, problem.desc.n - range.column);
  const auto patch = [&](int64_t n, int64_t k, float value) {
    const auto column = static_cast<int>(n - range.column);
    static_cast<float*>(panel)[problem.inner.panel_position(k - range.k, column)] +=
        value / problem.unit;
  };
  problem.outliers.ForEach(range.column, rows, range.k, size, patch);
}

// Rows [m, m + num_rows), up to a block of them from a multiple of a tile's, and up to
// kStripColumns columns, through decoded panels.
void RunPanels(const Problem& problem, int64_t m, int64_t num_rows, int64_t column, int64_t count) {
  const GemmInner& inner = problem.inner;
  const auto& whole = std::end(inner.tile)[-1];
  const int64_t row_tiles = (num_rows + whole.rows - 1) / whole.rows;
  const int64_t column_tiles = (count + whole.columns - 1) / whole.columns;
  const int64_t tile_size = TileSize(whole.rows, whole.columns);
  const InputLayout layout = problem.TileLayout();
  // Sums keep the tiles' layout until all of K is in.
  constexpr int kMaxSums = std::max(kBlockRows * kMaxTileOverhead, kMaxBlockRows) * kStripColumns;
  alignas(kCacheLine) float tiles[kMaxSums];
  alignas(kCacheLine) uint8_t panel[kMaxPanelBytes];
  std::fill_n(tiles, row_tiles * column_tiles * tile_size, 0.0f);
  if (inner.begin != nullptr) {
    inner.begin();
  }
  for (int64_t k = 0; k < problem.desc.k; k += inner.block_k) {
    const int64_t size = std::min<int64_t>(inner.block_k, problem.desc.k - k);
    for (int64_t c = 0; c < column_tiles; ++c) {
      const PanelRange range = {column + c * whole.columns, k};
      const PanelRange next = c + 1 < column_tiles ? PanelRange{range.column + whole.columns, k}
                                                   : PanelRange{column, k + inner.block_k};
      inner.decode(problem.weights, range, next, size, panel);
      if (problem.kernel.patches_outliers) {
        PatchOutliers(problem, range, whole.columns, size, panel);
      }
      for (int64_t r = 0; r < row_tiles; ++r) {
        const int64_t row = r * whole.rows;
        const auto& loop = LoopFor(inner.tile, std::min<int64_t>(whole.rows, num_rows - row));
        loop.run(problem.tiles_x + layout.Offset(m + row, k), panel, size,
                 tiles + (r * column_tiles + c) * tile_size);
      }
    }
  }
  if (inner.end != nullptr) {
    inner.end();
  }
  if (inner.order != nullptr) {
    for (int64_t tile = 0; tile < row_tiles * column_tiles; ++tile) {
      inner.order(tiles + tile * tile_size);
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

// As many rows as pay for decoding panels, but fewer where threads would go without work.
int64_t BlockRows(const GemmInner& inner, int64_t m, int64_t strips, int threads) {
  constexpr int kTasksOfAThread = 4;
  int64_t rows = inner.block_rows;
  while (rows > kBlockRows && strips * ((m + rows - 1) / rows) < kTasksOfAThread * threads) {
    rows /= 2;
  }
  return rows;
}

void Multiply(const Context& context, const Problem& problem) {
  const GemmDesc& desc = problem.desc;
  if (UsesDirect(problem.kernel, desc)) {
    StreamFor(context, (desc.n + kUnitColumns - 1) / kUnitColumns, [&](int64_t unit) {
      const int64_t column = unit * kUnitColumns;
      const int64_t count = std::min<int64_t>(kUnitColumns, desc.n - column);
      if (problem.kernel.patches_outliers && problem.outliers.AnyInRows(column, count)) {
        RunPanels(problem, 0, desc.m, column, count);
      } else {
        RunDirect(problem, column, count);
      }
    });
    return;
  }
  // Row blocks of one strip follow each other, while its weights are in a cache.
  const int64_t strips = (desc.n + kStripColumns - 1) / kStripColumns;
  const int64_t block_rows =
      BlockRows(problem.inner, desc.m, strips, context.threads->num_threads());
  const int64_t blocks = (desc.m + block_rows - 1) / block_rows;
  StreamFor(context, strips * blocks, [&](int64_t task) {
    const int64_t column = task / blocks * kStripColumns;
    const int64_t m = task % blocks * block_rows;
    RunPanels(problem, m, std::min<int64_t>(block_rows, desc.m - m), column,
              std::min<int64_t>(kStripColumns, desc.n - column));
  });
}

int64_t PreparedBytes(const CpuGemm& kernel, const GemmDesc& desc) {
  int64_t bytes = kCacheLine + desc.m * static_cast<int64_t>(sizeof(float));
  if (UsesDirect(kernel, desc)) {
    bytes += InputLayout(FewRows(kernel), false, desc.m, desc.k).bytes();
  }
  if (UsesPanels(kernel, desc)) {
    bytes += InputLayout(*kernel.inner, true, desc.m, desc.k).bytes();
  }
  return bytes;
}

}  // namespace

int64_t CpuGemmWorkspaceBytes(const CpuGemm& kernel, const GemmDesc& desc) {
  if (desc.part_input_scales) {
    return PartsWorkspaceBytes(kernel, desc);
  }
  // Few rows with outliers to patch take both layouts, more than a few more rows would; but a
  // workspace for M rows serves fewer as well.
  if (!UsesDirect(kernel, desc)) {
    GemmDesc few = desc;
    few.m = kernel.direct_rows;
    return std::max(PreparedBytes(kernel, desc), PreparedBytes(kernel, few));
  }
  return PreparedBytes(kernel, desc);
}

void RunCpuGemm(const CpuGemm& kernel, const Context& context, const GemmDesc& desc,
                const GemmArgs& args) {
  if (desc.part_input_scales) {
    RunParts(kernel, context, desc, args);
    return;
  }
  const Weight& weight = *args.weight;
  Problem problem{
      .kernel = kernel,
      .inner = *kernel.inner,
      .direct = FewRows(kernel),
      .rows = *kernel.rows,
      .desc = desc,
      .args = args,
      .weights = {.values = weight.values.as<uint8_t>(),
                  .lower = weight.lower.as<uint8_t>(),
                  .row_bytes = weight.values.strides[0] * DTypeSize(desc.weight_dtype),
                  .n = desc.n,
                  .k = desc.k},
      .outliers = desc.has_outliers ? Outliers(weight) : Outliers(),
      .unit = kernel.inner->value_scale * kernel.unit,
  };
  if (desc.weight_scale == ScaleGranularity::kBlock128) {
    problem.weights.block_scales = weight.scales.as<float>();
    problem.weights.blocks_per_row = weight.scales.shape[1];
    problem.weights.parts = weight.parts;
  } else if (desc.weight_scale == ScaleGranularity::kGroup) {
    problem.weights.group_scales = weight.scales.as<uint8_t>();
    problem.weights.group_stride = weight.scales.strides[0];
  }
  PrepareInput(context, problem);
  Multiply(context, problem);
}

}  // namespace dualfp::cpu
