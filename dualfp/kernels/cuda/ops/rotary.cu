// Angles, rotation and the cache's writes.

#include "dualfp/kernels/cuda/common/cluster.cuh"
#include "dualfp/kernels/cuda/ops/element.cuh"
#include "dualfp/kernels/cuda/ops/launch.h"
#include "dualfp/kernels/cuda/ops/ops.h"

namespace dualfp::cuda {
namespace {

constexpr int kTableThreads = 128;
constexpr int kWarps = 8;  // of a block, a head each

struct TableParams {
  const int32_t* position;
  const int32_t* row;
  const float* inv_freq;
  float* cos_sin;
  int64_t inv_freq_row;
  int64_t cos_sin_row;
  int half;
  float scale;
};

__global__ void __launch_bounds__(kTableThreads) Table(const __grid_constant__ TableParams p) {
  GridLaunchDependents();
  GridWaitForPrevious();
  const int64_t token = blockIdx.x;
  const auto position = static_cast<float>(p.position[token]);
  const float* inv_freq = p.inv_freq + p.row[token] * p.inv_freq_row;
  float* out = p.cos_sin + token * p.cos_sin_row;
  for (int i = threadIdx.x; i < p.half; i += kTableThreads) {
    const float angle = position * inv_freq[i];
    out[i] = p.scale * cosf(angle);
    out[p.half + i] = p.scale * sinf(angle);
  }
}

// One kind of head: queries, keys or values.
struct Heads {
  void* data = nullptr;
  const float* weight = nullptr;  // of the norm; nullptr: none
  void* cache = nullptr;          // where they are stored; nullptr: in place
  float cache_scale = 1.0f;
  int64_t row = 0;  // strides, in elements
  int64_t head = 0;
  int count = 0;
  bool turns = false;
};

struct RotaryParams {
  Heads kinds[3];
  const float* cos_sin;
  const int32_t* slot;
  int64_t cos_sin_row;
  int half;
  int head_dim;
  float epsilon;
  DType cache_dtype;
};

__device__ __forceinline__ float Clamp(float v, float limit) {
  return v > limit ? limit : v < -limit ? -limit : v;  // NaN stays NaN
}

template <int kVector>
__device__ __forceinline__ void StoreCached(const RotaryParams& p, void* cache, int64_t index,
                                            float scale, float (&v)[kVector]) {
  constexpr float kLargestF16 = 65504.0f;
  constexpr float kLargestBf16 = 0x1.fep127f;
  const auto map = [&](auto f) {
#pragma unroll
    for (int i = 0; i < kVector; ++i) {
      v[i] = f(v[i]);
    }
  };
  switch (p.cache_dtype) {
    case DType::kF16:
      map([](float x) { return Clamp(x, kLargestF16); });
      return StoreFloats(v, static_cast<__half*>(cache) + index);
    case DType::kBF16:
      map([](float x) { return Clamp(x, kLargestBf16); });
      return StoreFloats(v, static_cast<__nv_bfloat16*>(cache) + index);
    case DType::kF8E4M3:
      map([scale](float x) { return __fdiv_rn(x, scale); });
      return StoreFloats(v, static_cast<__nv_fp8_e4m3*>(cache) + index);
    default:
      return StoreFloats(v, static_cast<float*>(cache) + index);
  }
}

// A warp takes one head of one token; a lane an element and its partner, kVector at a time.
template <typename T, int kVector>
__global__ void __launch_bounds__(32 * kWarps) Rotate(const __grid_constant__ RotaryParams p) {
  GridLaunchDependents();
  GridWaitForPrevious();
  const int64_t token = blockIdx.x;
  const int lane = threadIdx.x % 32;
  int index = blockIdx.y * kWarps + threadIdx.x / 32;
  int kind = 0;
  while (kind < 3 && index >= p.kinds[kind].count) {
    index -= p.kinds[kind++].count;
  }
  if (kind == 3) {
    return;
  }
  const Heads& heads = p.kinds[kind];
  T* x = static_cast<T*>(heads.data) + token * heads.row + index * heads.head;
  int64_t stored_at = 0;
  if (heads.cache != nullptr) {
    const int64_t slot = p.slot[token];
    if (slot < 0) {
      return;
    }
    stored_at = ((slot / kKvBlockSize * heads.count + index) * kKvBlockSize + slot % kKvBlockSize) *
                p.head_dim;
  }
  float norm = 1.0f;
  if (heads.weight != nullptr) {
    float sum = 0.0f;
    for (int i = lane; i < p.head_dim; i += 32) {
      const float v = ToFloat(x[i]);
      sum = fmaf(v, v, sum);
    }
#pragma unroll
    for (int d = 16; d > 0; d /= 2) {
      sum += __shfl_xor_sync(0xFFFFFFFFu, sum, d);
    }
    norm = 1.0f / sqrtf(sum / static_cast<float>(p.head_dim) + p.epsilon);
  }
  // Other lanes' elements are read for the sum, so none may be written before.
  __syncwarp();
  const auto load = [&](int i, float(&v)[kVector]) {
    LoadFloats(x + i, v);
    if (heads.weight != nullptr) {
#pragma unroll
      for (int j = 0; j < kVector; ++j) {
        v[j] = v[j] * norm * heads.weight[i + j];
      }
    }
  };
  const auto store = [&](int i, float(&v)[kVector]) {
    if (heads.cache != nullptr) {
      StoreCached(p, heads.cache, stored_at + i, heads.cache_scale, v);
    } else {
      StoreFloats(v, x + i);
    }
  };
  const int half = heads.turns ? p.half : 0;
  const float* cosine = p.cos_sin + token * p.cos_sin_row;
  const float* sine = cosine + half;
  for (int i = lane * kVector; i < half; i += 32 * kVector) {
    float low[kVector], high[kVector];
    load(i, low);
    load(half + i, high);
#pragma unroll
    for (int j = 0; j < kVector; ++j) {
      const float a = low[j];
      const float b = high[j];
      low[j] = a * cosine[i + j] - b * sine[i + j];
      high[j] = b * cosine[i + j] + a * sine[i + j];
    }
    store(i, low);
    store(half + i, high);
  }
  if (heads.cache != nullptr || heads.weight != nullptr) {
    for (int i = 2 * half + lane * kVector; i < p.head_dim; i += 32 * kVector) {
      float v[kVector];
      load(i, v);
      store(i, v);
    }
  }
}

Heads HeadsOf(const ConstTensorView& view) {
  return {.data = const_cast<void*>(view.data),
          .row = view.strides[0],
          .head = view.strides[1],
          .count = static_cast<int>(view.shape[1])};
}

void Launch(const char* op, const Context& context, const ConstTensorView& first,
            RotaryParams& params) {
  params.head_dim = static_cast<int>(first.shape[2]);
  int heads = 0;
  // The most elements at a time of four, two and one that everything is a multiple of.
  int64_t bits = params.head_dim | params.half;
  for (const Heads& kind : params.kinds) {
    heads += kind.count;
    bits |= static_cast<int64_t>(reinterpret_cast<uintptr_t>(kind.data)) / DTypeSize(first.dtype) |
            kind.row | kind.head;
  }
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(first.shape[0]),
                                       static_cast<unsigned>((heads + kWarps - 1) / kWarps)),
                          .threads = 32 * kWarps};
  WithActivation(first.dtype, [&]<typename T>() {
    LaunchOp(op, context, shape,
             bits % 4 == 0   ? Rotate<T, 4>
             : bits % 2 == 0 ? Rotate<T, 2>
                             : Rotate<T, 1>,
             params);
  });
}

void SetAngles(const ConstTensorView& cos_sin, RotaryParams* params) {
  params->cos_sin = cos_sin.as<float>();
  params->cos_sin_row = cos_sin.strides[0];
  params->half = static_cast<int>(cos_sin.shape[1] / 2);
}

// Kinds 1 and 2 are what the cache holds.
void SetCache(const ConstTensorView& key, const ConstTensorView& value, const ConstTensorView& slot,
              const PagedKv& cache, RotaryParams* params) {
  params->kinds[1] = HeadsOf(key);
  params->kinds[1].cache = cache.key.data;
  params->kinds[1].cache_scale = cache.key_scale;
  params->kinds[2] = HeadsOf(value);
  params->kinds[2].cache = cache.value.data;
  params->kinds[2].cache_scale = cache.value_scale;
  params->slot = slot.as<int32_t>();
  params->cache_dtype = cache.key.dtype;
}

}  // namespace

void RotaryTable(const Context& context, const RotaryTableArgs& args) {
  const TableParams params{.position = args.position.as<int32_t>(),
                           .row = args.row.as<int32_t>(),
                           .inv_freq = args.inv_freq.as<float>(),
                           .cos_sin = args.cos_sin.as<float>(),
                           .inv_freq_row = args.inv_freq.strides[0],
                           .cos_sin_row = args.cos_sin.strides[0],
                           .half = static_cast<int>(args.inv_freq.shape[1]),
                           .scale = args.scale};
  const LaunchShape shape{.grid = dim3(static_cast<unsigned>(args.position.shape[0])),
                          .threads = kTableThreads};
  LaunchOp("rotary_table", context, shape, Table, params);
}

void ApplyRotary(const Context& context, const ApplyRotaryArgs& args) {
  RotaryParams params{};
  params.kinds[0] = HeadsOf(args.x);
  params.kinds[0].turns = true;
  SetAngles(args.cos_sin, &params);
  Launch("apply_rotary", context, args.x, params);
}

void WriteKvCache(const Context& context, const WriteKvCacheArgs& args) {
  RotaryParams params{};
  SetCache(args.key, args.value, args.slot, args.cache, &params);
  Launch("write_kv_cache", context, args.key, params);
}

void RotateAndCache(const Context& context, const RotateAndCacheArgs& args) {
  RotaryParams params{};
  SetAngles(args.cos_sin, &params);
  params.epsilon = args.epsilon;
  SetCache(args.key, args.value, args.slot, args.cache, &params);
  params.kinds[0] = HeadsOf(args.query);
  params.kinds[0].weight = args.query_weight.as<float>();
  params.kinds[0].turns = true;
  params.kinds[1].weight = args.key_weight.as<float>();
  params.kinds[1].turns = true;
  Launch("rotate_and_cache", context, args.query, params);
}

}  // namespace dualfp::cuda
