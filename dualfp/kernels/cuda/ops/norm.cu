#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/ops/element.cuh"
#include "dualfp/kernels/cuda/ops/launch.h"
#include "dualfp/kernels/cuda/ops/ops.h"
#include "dualfp/kernels/cuda/quantize.h"

namespace dualfp::cuda {
namespace {

struct NormParams {
  const void* x;
  void* y;
  const float* weight;
  int64_t x_row;  // strides, in elements
  int64_t x_head;
  int64_t y_row;
  int64_t y_head;
  int heads;
  int width;
  float epsilon;
};

// In a fixed order; every thread gets the result. `shared` holds 32 values and is used once.
__device__ __forceinline__ float BlockSum(float v, float* shared) {
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    v += __shfl_xor_sync(0xFFFFFFFFu, v, d);
  }
  if (threadIdx.x % 32 == 0) {
    shared[threadIdx.x / 32] = v;
  }
  __syncthreads();
  v = threadIdx.x % 32 < blockDim.x / 32 ? shared[threadIdx.x % 32] : 0.0f;
#pragma unroll
  for (int d = 16; d > 0; d /= 2) {
    v += __shfl_xor_sync(0xFFFFFFFFu, v, d);
  }
  return v;
}

// A block takes one row, or one head of a row, in pieces of kVector elements. With kHeld pieces a
// thread the row is read once; with 0 it is read again, from L1 as a rule.
template <typename T, int kVector, int kHeld>
__global__ void __launch_bounds__(1024) NormRows(const __grid_constant__ NormParams p) {
  __shared__ float shared[32];
  const int64_t row = blockIdx.x / p.heads;
  const int64_t head = blockIdx.x % p.heads;
  const T* x = static_cast<const T*>(p.x) + row * p.x_row + head * p.x_head;
  T* y = static_cast<T*>(p.y) + row * p.y_row + head * p.y_head;
  const int pieces = p.width / kVector;
  constexpr int kSlots = kHeld > 0 ? kHeld : 1;
  // The weight is there before x is.
  float weight[kSlots][kVector];
#pragma unroll
  for (int i = 0; i < kHeld; ++i) {
    const int piece = i * blockDim.x + threadIdx.x;
    if (piece < pieces) {
      LoadFloats(p.weight + piece * kVector, weight[i]);
    }
  }
  GridLaunchDependents();
  GridWaitForPrevious();

  float sum = 0.0f;
  float held[kSlots][kVector];
  const auto add_squares = [&](const float(&v)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      sum = fmaf(v[i], v[i], sum);
    }
  };
  if constexpr (kHeld > 0) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int piece = i * blockDim.x + threadIdx.x;
      if (piece < pieces) {
        LoadFloats(x + piece * kVector, held[i]);
        add_squares(held[i]);
      }
    }
  } else {
    for (int piece = threadIdx.x; piece < pieces; piece += blockDim.x) {
      LoadFloats(x + piece * kVector, held[0]);
      add_squares(held[0]);
    }
  }
  const float mean = BlockSum(sum, shared) / static_cast<float>(p.width);
  const float scale = 1.0f / sqrtf(mean + p.epsilon);
  const auto finish = [&](int piece, float(&v)[kVector], const float(&w)[kVector]) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      v[i] = v[i] * scale * w[i];
    }
    StoreFloats(v, y + piece * kVector);
  };
  if constexpr (kHeld > 0) {
#pragma unroll
    for (int i = 0; i < kHeld; ++i) {
      const int piece = i * blockDim.x + threadIdx.x;
      if (piece < pieces) {
        finish(piece, held[i], weight[i]);
      }
    }
  } else {
    for (int piece = threadIdx.x; piece < pieces; piece += blockDim.x) {
      LoadFloats(x + piece * kVector, held[0]);
      LoadFloats(p.weight + piece * kVector, weight[0]);
      finish(piece, held[0], weight[0]);
    }
  }
}

int ThreadsFor(int64_t pieces) {
  return static_cast<int>(std::min<int64_t>(1024, (pieces + 31) / 32 * 32));
}

}  // namespace

void RmsNorm(const Context& context, const RmsNormArgs& args) {
  const bool by_head = args.x.rank == 3;
  const int64_t heads = by_head ? args.x.shape[1] : 1;
  const int64_t width = args.x.shape[args.x.rank - 1];
  const NormParams params{.x = args.x.data,
                          .y = args.y.data,
                          .weight = args.weight.as<float>(),
                          .x_row = args.x.strides[0],
                          .x_head = by_head ? args.x.strides[1] : 0,
                          .y_row = args.y.strides[0],
                          .y_head = by_head ? args.y.strides[1] : 0,
                          .heads = static_cast<int>(heads),
                          .width = static_cast<int>(width),
                          .epsilon = args.epsilon};
  constexpr int kVector = 8;
  const bool wide = width % kVector == 0 && RowsAligned(args.x, 16) && RowsAligned(args.y, 16) &&
                    RowsAligned(args.weight, 16);
  WithActivation(args.x.dtype, [&]<typename T>() {
    const int64_t pieces = wide ? width / kVector : width;
    const LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.x.shape[0] * heads)),
                            .threads = ThreadsFor(pieces)};
    const auto kernel = !wide            ? NormRows<T, 1, 0>
                        : pieces <= 1024 ? NormRows<T, kVector, 1>
                                         : NormRows<T, kVector, 0>;
    LaunchOp("rms_norm", context, shape, kernel, params);
  });
}

void RmsNormQuantize(const Context& context, const RmsNormQuantizeArgs& args) {
  Check(args.x.dtype != DType::kF32, ErrorCode::kUnsupported,
        "rms_norm_quantize: x in F32; a GPU takes F16 and BF16");
  Check(args.codes.is_contiguous() && args.scales.is_contiguous(), ErrorCode::kInvalidArgument,
        "rms_norm_quantize: codes and scales must be contiguous");
  const ScopedDevice scope(context.device.index);
  QuantizeArgs quantize;
  quantize.source = QuantizeSource::kRmsNorm;
  quantize.type = args.x.dtype == DType::kF16 ? QuantizeType::kF16 : QuantizeType::kBf16;
  quantize.m = args.x.shape[0];
  quantize.k = args.x.shape[1];
  quantize.x = args.x.data;
  quantize.x_stride = args.x.strides[0];
  quantize.weight = args.weight.as<float>();
  quantize.epsilon = args.epsilon;
  quantize.fixed_scale = args.quant == ActivationQuant::kStaticPerTensor ? args.static_scale : 0.0f;
  quantize.q = args.codes.data;
  quantize.scale = args.scales.as<float>();
  Quantize(quantize, StreamOf(context).get(), true);
}

}  // namespace dualfp::cuda
