// RMSNorm and RoPE for one vector type. Tails of less than a vector go
// through padded stack copies, so that every element takes the same path.

#pragma once

#include <cmath>
#include <cstring>

#include "dualfp/kernels/cpu/row_inner.h"
#include "dualfp/kernels/cpu/simd.h"
#include "dualfp/kernels/op_table.h"
#include "dualfp/kernels/parallel.h"

namespace dualfp::cpu {

// The first `count` < kLanes floats, the rest `fill`.
template <typename V>
DUALFP_INLINE V LoadTail(const float* p, int64_t count, float fill) {
  float lanes[V::kLanes];
  V::Broadcast(fill).Store(lanes);
  std::memcpy(lanes, p, sizeof(float) * count);
  return V::Load(lanes);
}

template <typename V>
DUALFP_INLINE void StoreTail(V v, float* p, int64_t count) {
  float lanes[V::kLanes];
  v.Store(lanes);
  std::memcpy(p, lanes, sizeof(float) * count);
}

// y[i] = f(x[i]...) for one to three inputs of the same length.
template <typename V, typename F, typename... Inputs>
DUALFP_INLINE void Map(int64_t width, float* y, const F& f, const Inputs*... inputs) {
  int64_t i = 0;
  for (; i + V::kLanes <= width; i += V::kLanes) {
    f(V::Load(inputs + i)...).Store(y + i);
  }
  if (i < width) {
    StoreTail<V>(f(LoadTail<V>(inputs + i, width - i, 0.0f)...), y + i, width - i);
  }
}

template <typename V>
float SumOfSquares(const float* x, int64_t width) {
  V sums[4] = {V::Zero(), V::Zero(), V::Zero(), V::Zero()};
  int64_t i = 0;
  for (; i + 4 * V::kLanes <= width; i += 4 * V::kLanes) {
    for (int part = 0; part < 4; ++part) {
      const V v = V::Load(x + i + part * V::kLanes);
      sums[part] = v.MulAdd(v, sums[part]);
    }
  }
  for (; i + V::kLanes <= width; i += V::kLanes) {
    const V v = V::Load(x + i);
    sums[0] = v.MulAdd(v, sums[0]);
  }
  if (i < width) {
    const V v = LoadTail<V>(x + i, width - i, 0.0f);
    sums[0] = v.MulAdd(v, sums[0]);
  }
  return ((sums[0] + sums[1]) + (sums[2] + sums[3])).Sum();
}

template <typename V>
void RmsNorm(const Context& context, const RmsNormArgs& args) {
  const int64_t heads = args.x.rank == 3 ? args.x.shape[1] : 1;
  const int64_t width = args.x.shape[args.x.rank - 1];
  const int64_t x_head = args.x.rank == 3 ? args.x.strides[1] : 0;
  const int64_t y_head = args.y.rank == 3 ? args.y.strides[1] : 0;
  ParallelRows(context, args.x.shape[0], heads * width, 1 << 15, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t head = 0; head < heads; ++head) {
        const float* x = args.x.as<float>() + row * args.x.strides[0] + head * x_head;
        float* y = args.y.as<float>() + row * args.y.strides[0] + head * y_head;
        const float mean = SumOfSquares<V>(x, width) / static_cast<float>(width);
        const V scale = V::Broadcast(1 / std::sqrt(mean + args.epsilon));
        Map<V>(
            width, y, [scale](V v, V weight) { return v * scale * weight; }, x,
            args.weight.as<float>());
      }
    }
  });
}

// The normed row is made twice, a piece at a time: for its maximum, and for its codes.
template <typename V, const RowInner& kRows>
void RmsNormQuantize(const Context& context, const RmsNormQuantizeArgs& args) {
  constexpr int64_t kPiece = 1024;  // a multiple of a vector, so that elements take one path
  const int64_t width = args.x.shape[1];
  const float* weight = args.weight.as<float>();
  ParallelRows(context, args.x.shape[0], width, 1 << 15, [&](int64_t begin, int64_t end) {
    alignas(64) float y[kPiece];
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x.as<float>() + row * args.x.strides[0];
      const float mean = SumOfSquares<V>(x, width) / static_cast<float>(width);
      const V norm = V::Broadcast(1 / std::sqrt(mean + args.epsilon));
      const auto make = [&](int64_t from) {
        const int64_t size = width - from < kPiece ? width - from : kPiece;
        Map<V>(
            size, y, [norm](V v, V w) { return v * norm * w; }, x + from, weight + from);
        return size;
      };
      float scale = args.static_scale;
      if (args.quant != ActivationQuant::kStaticPerTensor) {
        float amax = 0;
        for (int64_t from = 0; from < width; from += kPiece) {
          const float largest = kRows.max_magnitude(y, DType::kF32, make(from));
          amax = largest > amax ? largest : amax;
        }
        scale = ActivationScale(amax);
      }
      args.scales.as<float>()[row] = scale;
      uint8_t* codes = args.codes.as<uint8_t>() + row * args.codes.strides[0];
      for (int64_t from = 0; from < width; from += kPiece) {
        kRows.encode(y, DType::kF32, make(from), scale, codes + from);
      }
    }
  });
}

template <typename V>
void ApplyRotary(const Context& context, const ApplyRotaryArgs& args) {
  const int64_t heads = args.x.shape[1];
  const int64_t half = args.cos_sin.shape[1] / 2;
  ParallelRows(context, args.x.shape[0], heads * half, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const float* cos = args.cos_sin.as<float>() + token * args.cos_sin.strides[0];
      const float* sin = cos + half;
      for (int64_t head = 0; head < heads; ++head) {
        float* low = args.x.as<float>() + token * args.x.strides[0] + head * args.x.strides[1];
        float* high = low + half;
        int64_t i = 0;
        for (; i + V::kLanes <= half; i += V::kLanes) {
          const V c = V::Load(cos + i);
          const V s = V::Load(sin + i);
          const V a = V::Load(low + i);
          const V b = V::Load(high + i);
          b.NegMulAdd(s, a * c).Store(low + i);
          a.MulAdd(s, b * c).Store(high + i);
        }
        if (i < half) {
          const int64_t rest = half - i;
          const V c = LoadTail<V>(cos + i, rest, 0.0f);
          const V s = LoadTail<V>(sin + i, rest, 0.0f);
          const V a = LoadTail<V>(low + i, rest, 0.0f);
          const V b = LoadTail<V>(high + i, rest, 0.0f);
          StoreTail<V>(b.NegMulAdd(s, a * c), low + i, rest);
          StoreTail<V>(a.MulAdd(s, b * c), high + i, rest);
        }
      }
    }
  });
}

}  // namespace dualfp::cpu
