#include "dualfp/quant/conversion/encode_linear.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>

#include "dualfp/base/check.h"
#include "dualfp/kernels/quantize_weight.h"
#include "dualfp/model/weight_source.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/e8m0.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp {
namespace {

constexpr int64_t kBlock = 128;
// Of source rows between two calls of the sink.
constexpr int64_t kChunkBytes = int64_t{4} << 20;
// AutoFP8 takes no largest magnitude below this.
constexpr float kAutoFp8MinAmax = 1e-12f;
// Scales that the search tries: amax / 448 times 2^(i / kSearchSteps). E4M3 looks alike at every
// power of two but for its ends, so an octave or so around amax has all there is to gain.
constexpr int kSearchFirst = -8;
constexpr int kSearchLast = 16;
constexpr float kSearchSteps = 16.0f;

float RoundTo(DType dtype, float value) {
  switch (dtype) {
    case DType::kF16:
      return Fp16ToFloat(FloatToFp16(value));
    case DType::kBF16:
      return Bf16ToFloat(FloatToBf16(value));
    default:
      return value;
  }
}

float Epsilon(DType dtype) {
  return dtype == DType::kBF16 ? 0x1p-7f : dtype == DType::kF16 ? 0x1p-10f : 0x1p-23f;
}

struct TileScale {
  float stored = 1.0f;
  E4m3Quotient quotient;
};

class Encoder {
 public:
  Encoder(const LinearEncoding& encoding, const std::string& name, const ConstTensorView& weight);

  std::vector<std::byte> Run(const CodeSink& sink);

 private:
  // The scale of a tile of largest magnitude `amax`.
  TileScale ScaleFor(float amax) const;
  // The scale of this tile, by the search that was asked for.
  TileScale Choose(const ConstTensorView& tile);
  double SquaredError(const ConstTensorView& tile, const TileScale& scale);
  void Store(float scale);
  // Codes of all tiles of these rows.
  void EncodeRows(int64_t begin, int64_t rows, const TileScale& tensor_scale, uint8_t* codes);
  [[noreturn]] void FailNotFinite(const ConstTensorView& rows) const;

  const LinearEncoding& encoding_;
  const std::string& name_;
  const ConstTensorView& weight_;
  const bool rounded_;
  const bool per_tensor_;
  const DType scale_dtype_;
  int64_t strip_rows_ = 1;
  int64_t tile_columns_ = 0;
  std::vector<std::byte> scales_;
  std::vector<uint8_t> trial_;  // codes of a row, while searching
};

Encoder::Encoder(const LinearEncoding& encoding, const std::string& name,
                 const ConstTensorView& weight)
    : encoding_(encoding),
      name_(name),
      weight_(weight),
      rounded_(encoding.division == Division::kProducer),
      per_tensor_(encoding.scheme.weights.granularity == ScaleGranularity::kPerTensor),
      scale_dtype_(WeightScaleDType(encoding, weight.dtype)) {
  const bool blocks = encoding.scheme.weights.granularity == ScaleGranularity::kBlock128;
  const int64_t group = GetQuantFormatInfo(encoding.scheme.weights.format).group_size;
  strip_rows_ = blocks ? kBlock : 1;
  tile_columns_ = blocks ? kBlock : group > 0 ? group : weight.shape[1];
  const auto [rows, columns] =
      ScaleShape(encoding.scheme.weights, weight.shape[0], weight.shape[1]);
  scales_.reserve(rows * columns * DTypeSize(scale_dtype_));
}

TileScale Encoder::ScaleFor(float amax) const {
  TileScale scale;
  if (encoding_.scheme.weights.format == QuantFormat::kMxfp8) {
    scale.stored = E8m0ToFloat(FloatToE8m0Ceil(amax / kE4m3Max));
    scale.quotient = {scale.stored, false, false};
    return scale;
  }
  if (encoding_.method == QuantMethod::kCompressedTensors) {
    scale.stored = RoundTo(weight_.dtype, amax / kE4m3Max);
    scale.stored = scale.stored == 0 ? Epsilon(weight_.dtype) : scale.stored;
    scale.quotient = {scale.stored, false, rounded_};
    return scale;
  }
  const bool by_float = encoding_.division == Division::kFloat && !encoding_.ue8m0;
  if (encoding_.method == QuantMethod::kModelOpt || by_float) {
    scale.stored = amax / kE4m3Max;
    scale.stored = scale.stored == 0 ? 1.0f : scale.stored;
    scale.quotient = {scale.stored, false, rounded_};
    return scale;
  }
  if (encoding_.scheme.weights == kFp8PerBlock) {
    const float factor = amax > 0 ? 1.0f / amax * kE4m3Max : 1.0f;
    // Magnitudes so small that their reciprocal overflows are as good as none.
    scale.quotient = {std::isfinite(factor) ? factor : 1.0f, true, false};
    scale.stored = 1.0f / scale.quotient.factor;
    if (encoding_.ue8m0) {
      scale.stored = E8m0ToFloat(FloatToE8m0Ceil(scale.stored));
      scale.quotient.factor = 1.0f / scale.stored;
    }
    return scale;
  }
  const float least = std::max(amax, RoundTo(weight_.dtype, kAutoFp8MinAmax));
  const float factor = RoundTo(weight_.dtype, RoundTo(weight_.dtype, 1.0f / least) * kE4m3Max);
  // FP16 ends at 65504, and with it the producer's arithmetic.
  const bool in_range = std::isfinite(factor);
  scale.quotient = {in_range ? factor : kE4m3Max / std::max(amax, kAutoFp8MinAmax), true, in_range};
  scale.stored = 1.0f / scale.quotient.factor;
  return scale;
}

double Encoder::SquaredError(const ConstTensorView& tile, const TileScale& scale) {
  static const auto values = [] {
    std::array<float, 256> table{};
    for (int code = 0; code < 256; ++code) {
      table[code] = E4m3ToFloat(static_cast<uint8_t>(code));
    }
    return table;
  }();
  trial_.resize(tile.shape[1]);
  double error = 0;
  for (int64_t row = 0; row < tile.shape[0]; ++row) {
    const void* source = tile.Rows(row, row + 1).data;
    EncodeE4m3(source, tile.dtype, tile.shape[1], scale.quotient, trial_.data());
    float sum = 0;
    for (int64_t i = 0; i < tile.shape[1]; ++i) {
      const float d = LoadFloat(source, tile.dtype, i) - values[trial_[i]] * scale.stored;
      sum += d * d;
    }
    error += sum;
  }
  return error;
}

TileScale Encoder::Choose(const ConstTensorView& tile) {
  const float amax = WeightMaxMagnitude(tile);
  if (!std::isfinite(amax)) {
    FailNotFinite(tile);
  }
  TileScale best = ScaleFor(amax);
  if (encoding_.search == ScaleSearch::kAmax || amax == 0) {
    return best;
  }
  double least = SquaredError(tile, best);
  float last = 0;
  for (int i = kSearchFirst; i <= kSearchLast; ++i) {
    const TileScale trial = ScaleFor(amax * std::exp2(static_cast<float>(i) / kSearchSteps));
    if (trial.stored == last || !std::isfinite(trial.stored)) {
      continue;
    }
    last = trial.stored;
    const double error = SquaredError(tile, trial);
    if (error < least) {
      least = error;
      best = trial;
    }
  }
  return best;
}

void Encoder::Store(float scale) {
  uint32_t bits = 0;
  switch (scale_dtype_) {
    case DType::kF16:
      bits = FloatToFp16(scale);
      break;
    case DType::kBF16:
      bits = FloatToBf16(scale);
      break;
    case DType::kU8:
    case DType::kF8E8M0:
      bits = FloatToE8m0Floor(scale);
      break;
    default:
      bits = std::bit_cast<uint32_t>(scale);
  }
  for (int64_t i = 0; i < DTypeSize(scale_dtype_); ++i) {
    scales_.push_back(static_cast<std::byte>(bits >> (8 * i) & 0xff));
  }
}

void Encoder::EncodeRows(int64_t begin, int64_t rows, const TileScale& tensor_scale,
                         uint8_t* codes) {
  const int64_t k = weight_.shape[1];
  for (int64_t row = 0; row < rows; row += strip_rows_) {
    const int64_t height = std::min(strip_rows_, rows - row);
    for (int64_t column = 0; column < k; column += tile_columns_) {
      ConstTensorView tile = weight_.Rows(begin + row, begin + row + height);
      tile.data = tile.as<char>() + column * DTypeSize(tile.dtype);
      tile.shape[1] = std::min(tile_columns_, k - column);
      TileScale scale = tensor_scale;
      if (!per_tensor_) {
        scale = Choose(tile);
        Store(scale.stored);
      }
      for (int64_t i = 0; i < height; ++i) {
        EncodeE4m3(tile.Rows(i, i + 1).data, tile.dtype, tile.shape[1], scale.quotient,
                   codes + (row + i) * k + column);
      }
    }
  }
}

void Encoder::FailNotFinite(const ConstTensorView& rows) const {
  for (int64_t row = 0; row < rows.shape[0]; ++row) {
    const auto* source = rows.Rows(row, row + 1).as<char>();
    for (int64_t i = 0; i < rows.shape[1]; ++i) {
      const float value = LoadFloat(source, rows.dtype, i);
      if (!std::isfinite(value)) {
        const int64_t index = (source - weight_.as<char>()) / DTypeSize(rows.dtype) + i;
        Fail(ErrorCode::kInvalidFile, name_, ": element [", index / weight_.shape[1], ", ",
             index % weight_.shape[1], "] is ", std::isnan(value) ? "NaN" : "infinite");
      }
    }
  }
  Fail(ErrorCode::kInternal, name_, ": an infinity that is not there");
}

std::vector<std::byte> Encoder::Run(const CodeSink& sink) {
  const int64_t n = weight_.shape[0];
  const int64_t k = weight_.shape[1];
  TileScale tensor_scale;
  if (per_tensor_) {
    tensor_scale = Choose(weight_);
    Store(tensor_scale.stored);
  }
  const int64_t block_bytes = k * DTypeSize(weight_.dtype) * kBlock;
  const int64_t chunk_rows = std::min(n, std::max<int64_t>(1, kChunkBytes / block_bytes) * kBlock);
  std::vector<uint8_t> codes(chunk_rows * k);
  for (int64_t begin = 0; begin < n; begin += chunk_rows) {
    const int64_t rows = std::min(chunk_rows, n - begin);
    EncodeRows(begin, rows, tensor_scale, codes.data());
    // E4M3 saturates, so its NaN codes come from NaN weights alone.
    const auto size = static_cast<size_t>(rows * k);
    if (std::memchr(codes.data(), 0x7f, size) != nullptr ||
        std::memchr(codes.data(), 0xff, size) != nullptr) {
      FailNotFinite(weight_.Rows(begin, begin + rows));
    }
    sink(codes.data(), rows * k, begin + rows);
  }
  return std::move(scales_);
}

}  // namespace

std::vector<std::byte> EncodeLinear(const LinearEncoding& encoding, const std::string& name,
                                    const ConstTensorView& weight, const CodeSink& sink) {
  const int64_t group = GetQuantFormatInfo(encoding.scheme.weights.format).group_size;
  Check(group == 0 || weight.shape[1] % group == 0, ErrorCode::kUnsupported, name, ": ",
        encoding.scheme.name, " scales ", group,
        " elements together, which do not divide K = ", weight.shape[1],
        "; leave the layer out with --ignore");
  return Encoder(encoding, name, weight).Run(sink);
}

}  // namespace dualfp
