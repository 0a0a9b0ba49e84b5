// Rows of tables of every format, gathered rows, tokens and blocks.

#include <limits>

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/kernels/cuda/ops/element.cuh"
#include "dualfp/kernels/cuda/ops/launch.h"
#include "dualfp/kernels/cuda/ops/ops.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/numeric/nested12.h"

namespace dualfp::cuda {
namespace {

constexpr int kThreads = 256;

struct TableParams {
  const void* values;
  const uint8_t* lower;
  const void* scales;  // kNested12: F32 as Hopper's planes have it, I8 row-major
  const int64_t* outlier_index;
  const float* outlier_value;
  int64_t outliers;
  const TinyWeight* tiny;
  const int32_t* token;
  void* y;
  int64_t y_row;
  int64_t n;
  int64_t k;
  DType dtype;  // of kPlain
};

// Where logical element `k` of a row lies in Hopper's planes (planes.h).
__device__ __forceinline__ int64_t Permuted(int64_t k) {
  const int64_t in = k % 16;
  return k - in + in % 8 / 2 * 4 + in / 8 * 2 + in % 2;
}

// A format as its rows' elements in the order of the table, without outliers.
struct Plain {
  __device__ static float Element(const TableParams& p, int64_t row, int64_t k) {
    const int64_t at = row * p.k + k;
    switch (p.dtype) {
      case DType::kF16:
        return ToFloat(static_cast<const __half*>(p.values)[at]);
      case DType::kBF16:
        return ToFloat(static_cast<const __nv_bfloat16*>(p.values)[at]);
      default:
        return static_cast<const float*>(p.values)[at];
    }
  }
};

template <bool kPermuted>
struct Nested {
  __device__ static float Element(const TableParams& p, int64_t row, int64_t k) {
    const int64_t at = row * p.k + (kPermuted ? Permuted(k) : k);
    const uint8_t upper = static_cast<const uint8_t*>(p.values)[at];
    const auto lower =
        static_cast<uint8_t>(kPermuted ? NestedDeviceLower(upper, p.lower[at]) : p.lower[at]);
    return __half2float(__ushort_as_half(NestedMerge(upper, lower)));
  }
};

template <bool kPermuted>
struct Nested12 {
  __device__ static float Scale(const TableParams& p, int64_t row) {
    return kPermuted ? static_cast<const float*>(p.scales)[row]
                     : ScaleByPowerOfTwo(1.0f, -static_cast<const int8_t*>(p.scales)[row]);
  }
  __device__ static float Element(const TableParams& p, int64_t row, int64_t k) {
    const int64_t at = row * p.k + (kPermuted ? Permuted(k) : k);
    const uint8_t upper = static_cast<const uint8_t*>(p.values)[at];
    const int64_t in = k % 16;
    const uint8_t pair = kPermuted ? p.lower[(k / kNibbleBlock * p.n + row) * (kNibbleBlock / 2) +
                                             k % kNibbleBlock / 32 * 16 + Permuted(in)]
                                   : p.lower[row * ((p.k + 1) / 2) + k / 2];
    const bool high = kPermuted ? k % 32 >= 16 : k % 2 != 0;
    const auto nibble = static_cast<uint8_t>(high ? pair >> 4 : pair & 15);
    const uint16_t bits = Nested12ToFp16({upper, nibble}, k % 2 != 0);
    return __half2float(__ushort_as_half(bits)) * Scale(p, row);
  }
};

// A block takes a token.
template <typename Format, typename T>
__global__ void __launch_bounds__(kThreads) Lookup(const __grid_constant__ TableParams p) {
  GridLaunchDependents();
  GridWaitForPrevious();
  const int64_t row = p.token[blockIdx.x];
  T* y = static_cast<T*>(p.y) + blockIdx.x * p.y_row;
  for (int64_t k = threadIdx.x; k < p.k; k += kThreads) {
    y[k] = FromFloat<T>(Format::Element(p, row, k));
  }
  if (p.outliers > 0) {
    __syncthreads();
    // The first of the row, by every thread alike.
    int64_t begin = 0;
    for (int64_t end = p.outliers; begin < end;) {
      const int64_t middle = (begin + end) / 2;
      (p.outlier_index[middle] < row * p.k ? begin : end) =
          p.outlier_index[middle] < row * p.k ? middle + 1 : middle;
    }
    for (int64_t i = begin + threadIdx.x; i < p.outliers && p.outlier_index[i] < (row + 1) * p.k;
         i += kThreads) {
      const int64_t k = p.outlier_index[i] - row * p.k;
      y[k] = FromFloat<T>(Format::Element(p, row, k) + p.outlier_value[i]);
    }
  }
  if (p.tiny != nullptr) {
    __syncthreads();
    for (auto batch = static_cast<uint32_t>(row / kTinyRows); batch != kNoTinyWeight;) {
      const TinyWeight* places = p.tiny + int64_t{batch} * kTinyBatch;
      if (threadIdx.x < kTinyBatch - 1) {
        const TinyWeight place = places[threadIdx.x];
        if (place.k < p.k && place.row == row % kTinyRows) {
          const float remainder = __uint_as_float(uint32_t{place.bf16} << 16);
          y[place.k] = FromFloat<T>(Format::Element(p, row, place.k) +
                                    remainder * Nested12<true>::Scale(p, row));
        }
      }
      batch = places[kTinyBatch - 1].k;
    }
  }
}

struct GatherParams {
  const char* x;
  const int32_t* row;
  char* y;
  int64_t x_bytes;  // from row to row
  int64_t y_bytes;
  int64_t pieces;  // of a row, of the kernel's type
};

template <typename Piece>
__global__ void __launch_bounds__(kThreads) Gather(const __grid_constant__ GatherParams p) {
  GridLaunchDependents();
  GridWaitForPrevious();
  const auto* from = reinterpret_cast<const Piece*>(p.x + p.row[blockIdx.x] * p.x_bytes);
  auto* to = reinterpret_cast<Piece*>(p.y + blockIdx.x * p.y_bytes);
  for (int64_t i = threadIdx.x; i < p.pieces; i += kThreads) {
    to[i] = from[i];
  }
}

__global__ void __launch_bounds__(kThreads)
    Resolve(const int32_t* source, const int32_t* previous, int32_t* token, int64_t count) {
  GridLaunchDependents();
  GridWaitForPrevious();
  const int64_t i = blockIdx.x * int64_t{kThreads} + threadIdx.x;
  if (i < count && source[i] >= 0) {
    token[i] = max(previous[source[i]], 0);
  }
}

// Does not let the next kernel start early: attention reads old blocks before it waits.
template <typename Piece>
__global__ void __launch_bounds__(kThreads)
    CopyBlocks(const int32_t* copies, char* planes, int64_t plane_bytes, int64_t block_bytes) {
  GridWaitForPrevious();
  char* plane = planes + blockIdx.y * plane_bytes;
  const auto* from = reinterpret_cast<const Piece*>(plane + copies[2 * blockIdx.x] * block_bytes);
  auto* to = reinterpret_cast<Piece*>(plane + copies[2 * blockIdx.x + 1] * block_bytes);
  for (int64_t i = threadIdx.x; i < block_bytes / static_cast<int64_t>(sizeof(Piece));
       i += kThreads) {
    to[i] = from[i];
  }
}

}  // namespace

void Embedding(const Context& context, const EmbeddingArgs& args) {
  const Weight& weight = *args.weight;
  const bool permuted = weight.layout == WeightLayout::kSm90;
  const bool tiny = weight.format == QuantFormat::kNested12 && permuted && weight.tiny;
  const TableParams params{
      .values = weight.values.data,
      .lower = weight.lower.as<uint8_t>(),
      .scales = weight.scales.data,
      .outlier_index = weight.outliers.index.as<int64_t>(),
      .outlier_value = weight.outliers.value.as<float>(),
      .outliers = tiny ? 0 : weight.outliers.size(),
      .tiny = tiny ? static_cast<const TinyWeight*>(weight.tiny.data) : nullptr,
      .token = args.token.as<int32_t>(),
      .y = args.y.data,
      .y_row = args.y.strides[0],
      .n = weight.n,
      .k = weight.k,
      .dtype = weight.values.dtype};
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.token.shape[0])),
                          .threads = kThreads};
  WithActivation(args.y.dtype, [&]<typename T>() {
    const auto kernel = weight.format == QuantFormat::kPlain ? Lookup<Plain, T>
                        : weight.format == QuantFormat::kNested
                            ? (permuted ? Lookup<Nested<true>, T> : Lookup<Nested<false>, T>)
                            : (permuted ? Lookup<Nested12<true>, T> : Lookup<Nested12<false>, T>);
    LaunchOp("embedding", context, shape, kernel, params);
  });
}

void GatherRows(const Context& context, const GatherRowsArgs& args) {
  const int64_t size = DTypeSize(args.x.dtype);
  const int64_t bytes = args.x.shape[1] * size;
  GatherParams params{.x = args.x.as<char>(),
                      .row = args.row.as<int32_t>(),
                      .y = args.y.as<char>(),
                      .x_bytes = args.x.strides[0] * size,
                      .y_bytes = args.y.strides[0] * size,
                      .pieces = bytes / 2};
  const bool wide = bytes % 16 == 0 && RowsAligned(args.x, 16) && RowsAligned(args.y, 16);
  if (wide) {
    params.pieces = bytes / 16;
  }
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.row.shape[0])),
                          .threads = kThreads};
  LaunchOp("gather_rows", context, shape, wide ? Gather<uint4> : Gather<uint16_t>, params);
}

void ResolveTokens(const Context& context, const ResolveTokensArgs& args) {
  const int64_t count = args.token.shape[0];
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>((count + kThreads - 1) / kThreads)),
                          .threads = kThreads};
  LaunchOp("resolve_tokens", context, shape, Resolve, args.source.as<int32_t>(),
           args.previous.as<int32_t>(), args.token.as<int32_t>(), count);
}

void CopyKvBlocks(const Context& context, const CopyKvBlocksArgs& args) {
  const int64_t bytes = args.planes.shape[2];
  const bool wide = bytes % 16 == 0 && reinterpret_cast<uintptr_t>(args.planes.data) % 16 == 0;
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.copies.shape[0]),
                                       static_cast<unsigned>(args.planes.shape[0])),
                          .threads = kThreads};
  LaunchOp("copy_kv_blocks", context, shape, wide ? CopyBlocks<uint4> : CopyBlocks<uint8_t>,
           args.copies.as<int32_t>(), args.planes.as<char>(), args.planes.strides[0], bytes);
}

}  // namespace dualfp::cuda
