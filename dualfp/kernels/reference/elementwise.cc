#include <algorithm>
#include <cmath>
#include <cstring>

#include "dualfp/kernels/parallel.h"
#include "dualfp/kernels/reference/ops.h"
#include "dualfp/kernels/reference/rows.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp::reference {

void RmsNorm(const Context& context, const RmsNormArgs& args) {
  const int64_t heads = args.x.rank == 3 ? args.x.shape[1] : 1;
  const int64_t width = args.x.shape[args.x.rank - 1];
  const int64_t x_head = args.x.rank == 3 ? args.x.strides[1] : 0;
  const int64_t y_head = args.y.rank == 3 ? args.y.strides[1] : 0;
  const float* weight = args.weight.as<float>();
  ParallelRows(context, args.x.shape[0], heads * width, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      for (int64_t head = 0; head < heads; ++head) {
        const float* x = args.x.as<float>() + row * args.x.strides[0] + head * x_head;
        float* y = args.y.as<float>() + row * args.y.strides[0] + head * y_head;
        float sum = 0;
        for (int64_t i = 0; i < width; ++i) {
          sum += x[i] * x[i];
        }
        const float scale = 1 / std::sqrt(sum / static_cast<float>(width) + args.epsilon);
        for (int64_t i = 0; i < width; ++i) {
          y[i] = x[i] * scale * weight[i];
        }
      }
    }
  });
}

void RmsNormQuantize(const Context& context, const RmsNormQuantizeArgs& args) {
  const int64_t width = args.x.shape[1];
  const float* weight = args.weight.as<float>();
  ParallelRows(context, args.x.shape[0], width, 1 << 14, [&](int64_t begin, int64_t end) {
    for (int64_t row = begin; row < end; ++row) {
      const float* x = args.x.as<float>() + row * args.x.strides[0];
      float sum = 0;
      for (int64_t i = 0; i < width; ++i) {
        sum += x[i] * x[i];
      }
      const float norm = 1 / std::sqrt(sum / static_cast<float>(width) + args.epsilon);
      float amax = 0;
      for (int64_t i = 0; i < width; ++i) {
        const float y = std::fabs(x[i] * norm * weight[i]);
        amax = y > amax ? y : amax;
      }
      const float scale = args.quant == ActivationQuant::kStaticPerTensor ? args.static_scale
                                                                          : ActivationScale(amax);
      args.scales.as<float>()[row] = scale;
      uint8_t* codes = args.codes.as<uint8_t>() + row * args.codes.strides[0];
      for (int64_t i = 0; i < width; ++i) {
        codes[i] = FloatToE4m3(x[i] * norm * weight[i] / scale);
      }
    }
  });
}

void RotaryTable(const Context& context, const RotaryTableArgs& args) {
  const int64_t half = args.inv_freq.shape[1];
  ParallelRows(context, args.position.shape[0], half, 1 << 10, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const auto position = static_cast<float>(args.position.as<int32_t>()[token]);
      const float* inv_freq =
          args.inv_freq.as<float>() + args.row.as<int32_t>()[token] * args.inv_freq.strides[0];
      float* out = args.cos_sin.as<float>() + token * args.cos_sin.strides[0];
      for (int64_t i = 0; i < half; ++i) {
        const float angle = position * inv_freq[i];
        out[i] = args.scale * std::cos(angle);
        out[half + i] = args.scale * std::sin(angle);
      }
    }
  });
}

void ApplyRotary(const Context& context, const ApplyRotaryArgs& args) {
  const int64_t heads = args.x.shape[1];
  const int64_t half = args.cos_sin.shape[1] / 2;
  ParallelRows(context, args.x.shape[0], heads * half, 1 << 13, [&](int64_t begin, int64_t end) {
    for (int64_t token = begin; token < end; ++token) {
      const float* cos = args.cos_sin.as<float>() + token * args.cos_sin.strides[0];
      const float* sin = cos + half;
      for (int64_t head = 0; head < heads; ++head) {
        float* x = args.x.as<float>() + token * args.x.strides[0] + head * args.x.strides[1];
        for (int64_t i = 0; i < half; ++i) {
          const float low = x[i];
          const float high = x[half + i];
          x[i] = low * cos[i] - high * sin[i];
          x[half + i] = high * cos[i] + low * sin[i];
        }
      }
    }
  });
}

void Embedding(const Context& context, const EmbeddingArgs& args) {
  const Weight& weight = *args.weight;
  ParallelRows(context, args.token.shape[0], weight.k, 1 << 13, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      DecodeWeightRow(weight, Precision::kExact, args.token.as<int32_t>()[t],
                      args.y.as<float>() + t * args.y.strides[0]);
    }
  });
}

void GatherRows(const Context&, const GatherRowsArgs& args) {
  for (int64_t i = 0; i < args.row.shape[0]; ++i) {
    std::memcpy(args.y.as<float>() + i * args.y.strides[0],
                args.x.as<float>() + args.row.as<int32_t>()[i] * args.x.strides[0],
                sizeof(float) * args.x.shape[1]);
  }
}

void ResolveTokens(const Context&, const ResolveTokensArgs& args) {
  for (int64_t t = 0; t < args.token.shape[0]; ++t) {
    if (const int32_t source = args.source.as<int32_t>()[t]; source >= 0) {
      args.token.as<int32_t>()[t] = std::max(args.previous.as<int32_t>()[source], 0);
    }
  }
}

}  // namespace dualfp::reference
