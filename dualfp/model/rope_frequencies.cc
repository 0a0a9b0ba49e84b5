#include "dualfp/model/rope_frequencies.h"

#include <algorithm>
#include <cmath>
#include <numbers>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

// theta^(2i / dim) in float, as torch has it.
float Period(double theta, int64_t i, int64_t dim) {
  const float exponent = static_cast<float>(2 * i) / static_cast<float>(dim);
  return static_cast<float>(std::pow(static_cast<float>(theta), static_cast<double>(exponent)));
}

// Between the wavelengths of the two frequency factors, interpolates from scaled to unscaled.
float Llama3Frequency(const RopeConfig& rope, float inv_freq) {
  const auto original = static_cast<double>(rope.original_max_position_embeddings);
  const double wavelength = 2 * std::numbers::pi / inv_freq;
  // In this order, which counts where the factors are the wrong way round.
  if (wavelength > original / rope.low_freq_factor) {
    return static_cast<float>(inv_freq / rope.factor);
  }
  if (wavelength < original / rope.high_freq_factor) {
    return inv_freq;
  }
  const double smooth = (original / wavelength - rope.low_freq_factor) /
                        (rope.high_freq_factor - rope.low_freq_factor);
  return static_cast<float>((1 - smooth) * inv_freq / rope.factor + smooth * inv_freq);
}

// The dimension that makes `rotations` turns over the original context (YaRN, arXiv 2309.00071).
double YarnDimension(const RopeConfig& rope, double rotations) {
  return static_cast<double>(rope.rotary_dim) *
         std::log(static_cast<double>(rope.original_max_position_embeddings) /
                  (rotations * 2 * std::numbers::pi)) /
         (2 * std::log(rope.theta));
}

void YarnFrequencies(const RopeConfig& rope, std::span<float> inv_freq) {
  double low = YarnDimension(rope, rope.beta_fast);
  double high = YarnDimension(rope, rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope.rotary_dim - 1));
  if (low == high) {
    high += 0.001;
  }
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float period = Period(rope.theta, static_cast<int64_t>(i), rope.rotary_dim);
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    inv_freq[i] = static_cast<float>(ramp / (rope.factor * period) + (1 - ramp) / period);
  }
}

double YarnScale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

}  // namespace

bool RopeDependsOnLength(const RopeConfig& rope) {
  return rope.type == RopeType::kDynamic || rope.type == RopeType::kLongRope;
}

void ComputeRopeFrequencies(const RopeConfig& rope, int64_t rope_length,
                            std::span<float> inv_freq) {
  const int64_t dim = rope.rotary_dim;
  CheckInternal(static_cast<int64_t>(inv_freq.size()) == dim / 2, "room for ", inv_freq.size(),
                " frequencies, need ", dim / 2);
  if (rope.type == RopeType::kYarn) {
    YarnFrequencies(rope, inv_freq);
    return;
  }
  double theta = rope.theta;
  if (rope.type == RopeType::kDynamic && dim > 2) {
    const auto original = static_cast<double>(rope.original_max_position_embeddings);
    const double length = std::max(static_cast<double>(rope_length), original);
    theta *= std::pow(rope.factor * length / original - (rope.factor - 1),
                      static_cast<double>(dim) / static_cast<double>(dim - 2));
  }
  const std::vector<double>& stretch =
      rope_length > rope.original_max_position_embeddings ? rope.long_factor : rope.short_factor;
  for (size_t i = 0; i < inv_freq.size(); ++i) {
    const float period = Period(theta, static_cast<int64_t>(i), dim);
    switch (rope.type) {
      case RopeType::kLinear:
        inv_freq[i] = 1.0f / period / static_cast<float>(rope.factor);
        break;
      case RopeType::kLlama3:
        inv_freq[i] = Llama3Frequency(rope, 1.0f / period);
        break;
      case RopeType::kLongRope:
        inv_freq[i] = 1.0f / (static_cast<float>(stretch[i]) * period);
        break;
      default:
        inv_freq[i] = 1.0f / period;
    }
  }
}

float RopeAttentionFactor(const RopeConfig& rope) {
  if (rope.type != RopeType::kYarn && rope.type != RopeType::kLongRope) {
    return 1.0f;
  }
  if (rope.attention_factor) {
    return static_cast<float>(*rope.attention_factor);
  }
  if (rope.type == RopeType::kLongRope) {
    return rope.factor <= 1
               ? 1.0f
               : static_cast<float>(std::sqrt(
                     1 + std::log(rope.factor) /
                             std::log(static_cast<double>(rope.original_max_position_embeddings))));
  }
  if (rope.mscale && rope.mscale_all_dim) {
    return static_cast<float>(YarnScale(rope.factor, *rope.mscale) /
                              YarnScale(rope.factor, *rope.mscale_all_dim));
  }
  return static_cast<float>(YarnScale(rope.factor, 1.0));
}

int64_t MaxContextLength(const ModelConfig& config) {
  const auto scaled = [&](int64_t length) {
    return static_cast<int64_t>(static_cast<double>(length) * std::max(1.0, config.rope.factor));
  };
  switch (config.rope.type) {
    case RopeType::kLinear:
    case RopeType::kDynamic:
      return scaled(config.max_position_embeddings);
    case RopeType::kYarn:
      return std::max(config.max_position_embeddings,
                      scaled(config.rope.original_max_position_embeddings));
    default:
      return config.max_position_embeddings;
  }
}

}  // namespace dualfp
