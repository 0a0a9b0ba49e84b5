#include "dualfp/kernels/gemm_test_util.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstring>

#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/e8m0.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/numeric/nested12.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {
namespace {

constexpr double kUnitRoundoff = 0x1p-24;

double OutputRoundoff(DType dtype) {
  return dtype == DType::kF16 ? 0x1p-11 : dtype == DType::kBF16 ? 0x1p-8 : kUnitRoundoff;
}

// Half the spacing of the smallest numbers.
double OutputUnderflow(DType dtype) { return dtype == DType::kF16 ? 0x1p-25 : 0x1p-134; }

double Silu(double x) { return x / (1 + std::exp(-x)); }

}  // namespace

GuardedBuffer::GuardedBuffer(size_t size) {
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  mapping_size_ = (size + page - 1) / page * page + page;
  void* mapping =
      mmap(nullptr, mapping_size_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping == MAP_FAILED) {
    throw std::bad_alloc();
  }
  mapping_ = static_cast<char*>(mapping);
  char* guard = mapping_ + mapping_size_ - page;
  mprotect(guard, page, PROT_NONE);
  data_ = guard - size;
}

GuardedBuffer::~GuardedBuffer() {
  if (mapping_ != nullptr) {
    munmap(mapping_, mapping_size_);
  }
}

GuardedBuffer::GuardedBuffer(GuardedBuffer&& other) noexcept
    : mapping_(std::exchange(other.mapping_, nullptr)),
      mapping_size_(other.mapping_size_),
      data_(other.data_) {}

float LoadTestElement(const void* row, DType dtype, int64_t index) {
  if (dtype == DType::kF32) {
    float value;
    std::memcpy(&value, static_cast<const char*>(row) + 4 * index, 4);
    return value;
  }
  uint16_t bits;
  std::memcpy(&bits, static_cast<const char*>(row) + 2 * index, 2);
  return dtype == DType::kF16 ? Fp16ToFloat(bits) : Bf16ToFloat(bits);
}

float StoreTestElement(void* row, DType dtype, int64_t index, float value) {
  if (dtype == DType::kF32) {
    std::memcpy(static_cast<char*>(row) + 4 * index, &value, 4);
    return value;
  }
  const uint16_t bits = dtype == DType::kF16 ? FloatToFp16(value) : FloatToBf16(value);
  std::memcpy(static_cast<char*>(row) + 2 * index, &bits, 2);
  return LoadTestElement(row, dtype, index);
}

const std::vector<TestFormat>& TestFormats() {
  static const std::vector<TestFormat> formats = [] {
    using enum QuantFormat;
    using enum ScaleGranularity;
    constexpr Precision k16 = Precision::kExact;
    constexpr Precision k8 = Precision::kFp8;
    constexpr ActivationQuant kWeightOnly = ActivationQuant::kNone;
    constexpr ActivationQuant kStatic = ActivationQuant::kStaticPerTensor;
    constexpr DType kCodes = DType::kF8E4M3;
    std::vector<TestFormat> list = {
        {"plain_f16", kPlain, DType::kF16},
        {"plain_bf16", kPlain, DType::kBF16},
        {"plain_f32", kPlain, DType::kF32},
        {"nested_fp16", kNested, kCodes, kNone, k16},
        {"nested_fp16_outliers", kNested, kCodes, kNone, k16, kWeightOnly, true},
        {"nested12_exact", kNested12, kCodes, kNone, k16},
    };
    constexpr std::pair<const char*, ActivationQuant> kQuants[] = {
        {"_weight_only", kWeightOnly},
        {"_token", ActivationQuant::kDynamicPerToken},
        {"_tensor", ActivationQuant::kDynamicPerTensor},
        {"_static", kStatic},
        {"_group", ActivationQuant::kDynamicPerGroup},
        {"_mx", ActivationQuant::kDynamicMx}};
    for (const auto& [suffix, quant] : kQuants) {
      const std::string s = suffix;
      list.push_back({"nested_fp8" + s, kNested, kCodes, kNone, k8, quant});
      list.push_back({"nested_fp8_outliers" + s, kNested, kCodes, kNone, k8, quant, true});
      list.push_back({"nested12_fp8" + s, kNested12, kCodes, kNone, k8, quant});
    }
    for (const NamedScheme& named : WeightSchemes()) {
      if (!named.scheme.has_value() || named.name == "fp8") {
        continue;
      }
      const auto [format, granularity] = *named.scheme;
      const QuantFormatInfo& info = GetQuantFormatInfo(format);
      if (info.codec.bits == 0) {
        continue;
      }
      std::vector<TestParts> all_parts = {TestParts::kOne};
      if (granularity == kBlock128) {
        all_parts = {TestParts::kOne, TestParts::kBelow, TestParts::kInterleaved};
      } else if (info.scales == DType::kF8E4M3) {
        all_parts = {TestParts::kOne, TestParts::kInterleaved};
      }
      for (const TestParts parts : all_parts) {
        const std::string name = named.name + (parts == TestParts::kBelow         ? "_below"
                                               : parts == TestParts::kInterleaved ? "_interleaved"
                                                                                  : "");
        const auto add = [&](const char* suffix, Precision precision, ActivationQuant quant) {
          if (Offers(info, precision)) {
            list.push_back(
                {name + suffix, format, info.values, granularity, precision, quant, false, parts});
          }
        };
        add("_fp16", k16, kWeightOnly);
        add("_fp4", Precision::kFp4, kWeightOnly);
        for (const auto& [suffix, quant] : kQuants) {
          add(suffix, k8, quant);
        }
      }
    }
    // Parts with static activation scales of their own.
    for (const auto& [suffix, parts] : {std::pair{"_below_static", TestParts::kBelow},
                                        {"_interleaved_static", TestParts::kInterleaved}}) {
      const std::string s = suffix;
      list.push_back({"nested" + s, kNested, kCodes, kNone, k8, kStatic, false, parts, true});
      list.push_back({"nested12" + s, kNested12, kCodes, kNone, k8, kStatic, false, parts, true});
      list.push_back({"fp8_t" + s, kFp8, kCodes, kPerTensor, k8, kStatic, false, parts, true});
      list.push_back({"fp8_c" + s, kFp8, kCodes, kPerChannel, k8, kStatic, false, parts, true});
      list.push_back({"fp8_b" + s, kFp8, kCodes, kBlock128, k8, kStatic, false, parts, true});
      list.push_back({"mxfp8" + s, kMxfp8, kCodes, kGroup, k8, kStatic, false, parts, true});
    }
    return list;
  }();
  return formats;
}

int64_t KMultiple(const TestFormat& format) {
  return std::max(1, GetQuantFormatInfo(format.format).group_size);
}

TestWeight::TestWeight(const TestFormat& format, int64_t n, int64_t k, uint32_t seed) {
  weight.format = format.format;
  weight.n = n;
  weight.k = k;
  weight.shard = {0, n, 0, k};
  weight.scale_granularity = format.scale;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0f, 1.0f / std::sqrt(static_cast<float>(k)));
  std::vector<float> values(n * k);
  for (float& value : values) {
    value = std::clamp(normal(random), -1.75f, 1.75f);
    if (random() % 64 == 0) {
      value *= 1e-4f;  // subnormal codes
    }
  }
  buffers_.reserve(6);
  MakeParts(format);
  switch (format.format) {
    case QuantFormat::kPlain:
      weight.values.dtype = format.dtype;
      MakePlain(values);
      return;
    case QuantFormat::kNested:
      for (float& value : values) {
        if (format.outliers && random() % 97 == 0) {
          value = random() % 2 == 0 ? 3.1416f : -20.25f;
        }
      }
      MakeNested(values, format.outliers);
      return;
    case QuantFormat::kNested12:
      MakeNested12(values);
      return;
    default:
      MakeScaled(format, values);
      return;
  }
}

ConstTensorView TestWeight::Constants(const std::vector<float>& values) {
  buffers_.emplace_back(values.size() * sizeof(float));
  std::copy(values.begin(), values.end(), buffers_.back().as<float>());
  return {buffers_.back().as<char>(), DType::kF32, {static_cast<int64_t>(values.size())}};
}

void TestWeight::MakeParts(const TestFormat& format) {
  const int64_t n = weight.n;
  RowParts& parts = weight.parts;
  constexpr int kFirstBase = 48;
  const int64_t unit = n >= 128 ? 16 : 1;  // GPUs want whole tiles of 16 rows
  const int64_t second = n * 5 / 8 / unit * unit;
  const int64_t third = second + std::max(unit, n / 8 / unit * unit);
  if (format.parts == TestParts::kInterleaved && n > 1) {
    parts = {.count = 2, .interleaved = 1};
    parts.scale_base[1] = static_cast<int32_t>((n / 2 + n % 2 + 127) / 128 * 128);
  } else if (format.parts == TestParts::kBelow && n >= 8) {
    parts.count = 3;
    parts.first_row[1] = static_cast<int32_t>(second);
    parts.first_row[2] = static_cast<int32_t>(third);
    parts.scale_base[0] = kFirstBase;
    parts.scale_base[1] = (kFirstBase + parts.first_row[1] + 127) / 128 * 128;
    parts.scale_base[2] =
        static_cast<int32_t>(parts.scale_base[1] + (third - second + 127) / 128 * 128);
  }
  int place[kMaxRowParts] = {};
  for (int64_t row = 0; row < n; ++row) {
    int part = 0;
    if (parts.count == 2) {
      part = static_cast<int>(row % 2);
    } else if (parts.count == 3) {
      part = row < second ? 0 : row < third ? 1 : 2;
    }
    part_of_row_.push_back(part);
    block_of_row_.push_back((parts.scale_base[part] + place[part]++) / 128);
  }
  input_scales_ = {0.01f};
  if (format.part_input_scales && parts.count > 1) {
    input_scales_ = {0.01f, 0.013f, 0.02f};
    input_scales_.resize(parts.count);
  }
  weight.input_scale = Constants(input_scales_);
}

void TestWeight::MakePlain(const std::vector<float>& values) {
  const DType dtype = weight.values.dtype;
  buffers_.emplace_back(values.size() * DTypeSize(dtype));
  char* stored = buffers_.back().as<char>();
  for (size_t i = 0; i < values.size(); ++i) {
    values_fp16_.push_back(StoreTestElement(stored, dtype, static_cast<int64_t>(i), values[i]));
  }
  weight.values = ConstTensorView(stored, dtype, {weight.n, weight.k});
}

void TestWeight::MakeNested(const std::vector<float>& values, bool outliers) {
  buffers_.emplace_back(values.size());
  auto* upper = buffers_.back().as<uint8_t>();
  buffers_.emplace_back(values.size());
  auto* lower = buffers_.back().as<uint8_t>();
  std::vector<int64_t> index;
  std::vector<float> remainder;
  for (size_t i = 0; i < values.size(); ++i) {
    const float exact = Fp16ToFloat(FloatToFp16(values[i]));
    const float clamped = std::clamp(exact, -kNestedMax, kNestedMax);
    const NestedBytes bytes = NestedSplit(FloatToFp16(clamped));
    upper[i] = bytes.upper;
    lower[i] = bytes.lower;
    if (exact != clamped) {
      index.push_back(static_cast<int64_t>(i));
      remainder.push_back(exact - clamped);
    }
    values_fp16_.push_back(exact);
    values_fp8_.push_back(static_cast<double>(E4m3ToFloat(bytes.upper)) / 256 +
                          (static_cast<double>(exact) - clamped));
  }
  weight.values = ConstTensorView(upper, DType::kF8E4M3, {weight.n, weight.k});
  weight.lower = ConstTensorView(lower, DType::kU8, {weight.n, weight.k});
  if (outliers) {
    AddOutliers(index, remainder);
  }
}

void TestWeight::AddOutliers(const std::vector<int64_t>& index,
                             const std::vector<float>& remainder) {
  if (index.empty()) {
    return;
  }
  buffers_.emplace_back(index.size() * sizeof(int64_t));
  std::copy(index.begin(), index.end(), buffers_.back().as<int64_t>());
  const auto count = static_cast<int64_t>(index.size());
  weight.outliers.index = ConstTensorView(buffers_.back().as<char>(), DType::kI64, {count});
  weight.outliers.value = Constants(remainder);
}

// Rows of very different sizes, so that shifts differ.
void TestWeight::MakeNested12(const std::vector<float>& values) {
  const int64_t n = weight.n;
  const int64_t k = weight.k;
  const int64_t nibble_bytes = (k + 1) / 2;
  buffers_.emplace_back(n * k);
  auto* upper = buffers_.back().as<uint8_t>();
  buffers_.emplace_back(n * nibble_bytes);
  auto* nibbles = buffers_.back().as<uint8_t>();
  std::memset(nibbles, 0, n * nibble_bytes);
  buffers_.emplace_back(n);
  auto* shifts = buffers_.back().as<int8_t>();
  std::vector<int64_t> index;
  std::vector<float> remainder;
  for (int64_t row = 0; row < n; ++row) {
    std::vector<uint16_t> bf16(k);
    uint16_t largest = 0;
    for (int64_t i = 0; i < k; ++i) {
      bf16[i] = FloatToBf16(std::ldexp(values[row * k + i], static_cast<int>(row % 5) - 2));
      largest = std::max<uint16_t>(largest, bf16[i] & 0x7fff);
    }
    const int shift = Nested12RowShift(largest);
    shifts[row] = static_cast<int8_t>(shift);
    for (int64_t i = 0; i < k; ++i) {
      const Nested12Weight split = Nested12Split(bf16[i], shift, i % 2 != 0);
      upper[row * k + i] = split.bits.upper;
      uint8_t& pair = nibbles[row * nibble_bytes + i / 2];
      pair = static_cast<uint8_t>(pair | split.bits.nibble << (i % 2 == 0 ? 0 : 4));
      if (split.remainder != 0.0f) {
        index.push_back(row * k + i);
        remainder.push_back(split.remainder);
      }
      values_fp16_.push_back(Bf16ToFloat(bf16[i]));
      values_fp8_.push_back(
          std::ldexp(static_cast<double>(E4m3ToFloat(split.bits.upper)), -8 - shift));
    }
  }
  weight.values = ConstTensorView(upper, DType::kF8E4M3, {n, k});
  weight.lower = ConstTensorView(nibbles, DType::kU8, {n, nibble_bytes});
  weight.scales = ConstTensorView(shifts, DType::kI8, {n});
  AddOutliers(index, remainder);
}

// Random codes and random scales: the values need not be a good approximation of anything.
void TestWeight::MakeScaled(const TestFormat& format, const std::vector<float>& values) {
  const QuantFormatInfo& info = GetQuantFormatInfo(format.format);
  const int64_t n = weight.n;
  const int64_t k = weight.k;
  std::mt19937 random(static_cast<uint32_t>(n * 31 + k));
  int64_t rows = 1;
  int64_t columns = 1;
  if (format.scale == ScaleGranularity::kPerChannel) {
    rows = n;
  } else if (format.scale == ScaleGranularity::kBlock128) {
    rows = *std::max_element(block_of_row_.begin(), block_of_row_.end()) + 1;
    columns = (k + 127) / 128;
  } else if (format.scale == ScaleGranularity::kGroup) {
    rows = n;
    columns = k / info.group_size;
  }
  std::vector<float> globals;
  if (info.scales == DType::kF8E4M3) {
    globals = {0.003f, 0.0047f};
    globals.resize(weight.parts.count);
    weight.global_scale = Constants(globals);
  }
  buffers_.emplace_back(n * k * info.codec.bits / 8);
  auto* codes = buffers_.back().as<uint8_t>();
  buffers_.emplace_back(rows * columns * DTypeSize(info.scales));
  char* stored = buffers_.back().as<char>();
  std::vector<double> scales(rows * columns);
  for (size_t i = 0; i < scales.size(); ++i) {
    if (info.scales == DType::kF32) {
      const float scale = 0.001f + 0.0001f * static_cast<float>(random() % 100);
      reinterpret_cast<float*>(stored)[i] = scale;
      scales[i] = scale;
    } else if (info.scales == DType::kF8E4M3) {
      const auto code = static_cast<uint8_t>(1 + random() % 0x7e);
      stored[i] = static_cast<char>(code);
      scales[i] = E4m3ToFloat(code);
    } else {
      const auto code = static_cast<uint8_t>(108 + random() % 8);
      stored[i] = static_cast<char>(code);
      scales[i] = E8m0ToFloat(code);
    }
  }
  values_fp16_.resize(n * k);
  for (int64_t i = 0; i < n * k; ++i) {
    const int64_t row = i / k;
    const int64_t column = i % k;
    double value = 0;
    if (info.codec.bits == 4) {
      const auto code = static_cast<uint8_t>(random() % 16);
      codes[i / 2] = static_cast<uint8_t>(i % 2 == 0 ? code : codes[i / 2] | code << 4);
      value = info.codec.decode(code);
    } else {
      codes[i] = info.codec.encode(values[i] * 1000);
      value = info.codec.decode(codes[i]);
    }
    int64_t scale = 0;
    switch (format.scale) {
      case ScaleGranularity::kPerChannel:
        scale = row;
        break;
      case ScaleGranularity::kBlock128:
        scale = block_of_row_[row] * columns + column / 128;
        break;
      case ScaleGranularity::kGroup:
        scale = row * columns + column / info.group_size;
        break;
      default:
        break;
    }
    values_fp16_[i] = value * scales[scale] * (globals.empty() ? 1 : globals[part_of_row_[row]]);
  }
  weight.values = ConstTensorView(codes, info.values, {n, k * info.codec.bits / 8});
  weight.scales = ConstTensorView(stored, info.scales, {rows, columns});
}

std::vector<double> TestWeight::Values(Precision precision) const {
  return precision == Precision::kFp8 && !values_fp8_.empty() ? values_fp8_ : values_fp16_;
}

TestProblem::TestProblem(const TestFormat& format, const TestWeight& weight, int64_t m_in,
                         DType x_dtype, DType y_dtype, const TestEpilogue& epilogue, uint32_t seed,
                         int64_t gap)
    : m(m_in), weight_(weight) {
  const int64_t n = weight.weight.n;
  const int64_t k = weight.weight.k;
  y_columns = epilogue.activation == Activation::kSiluMul ? n / 2 : n;
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  const auto fill = [&](std::vector<float>& values, int64_t count) {
    values.resize(count);
    for (float& value : values) {
      value = normal(random);
    }
  };
  buffers_.reserve(4);
  // The last row ends at the guard.
  const auto strided = [&](DType dtype, int64_t columns) {
    buffers_.emplace_back(((m - 1) * (columns + gap) + columns) * DTypeSize(dtype));
    TensorView view(buffers_.back().as<char>(), dtype, {m, columns});
    view.strides[0] = columns + gap;
    return view;
  };
  const auto store = [&](const TensorView& view, std::vector<float>& values) {
    for (int64_t i = 0; i < static_cast<int64_t>(values.size()); ++i) {
      values[i] = StoreTestElement(view.Rows(i / view.shape[1], i / view.shape[1] + 1).data,
                                   view.dtype, i % view.shape[1], values[i]);
    }
  };

  const TensorView x = strided(x_dtype, k);
  fill(x_values, m * k);
  store(x, x_values);
  args.x = x;
  args.weight = &weight.weight;
  args.precision = format.precision;
  args.activation_quant = format.quant;
  args.activation = epilogue.activation;
  args.y = strided(y_dtype, y_columns);
  if (epilogue.bias) {
    fill(bias_, n);
    buffers_.emplace_back(n * sizeof(float));
    std::copy(bias_.begin(), bias_.end(), buffers_.back().as<float>());
    args.bias = ConstTensorView(buffers_.back().as<char>(), DType::kF32, {n});
  }
  if (epilogue.residual) {
    const TensorView residual = strided(y_dtype, y_columns);
    fill(residual_, m * y_columns);
    store(residual, residual_);
    args.residual = residual;
  }
  desc = DescribeGemm(args);
}

std::vector<float> TestProblem::Run(const GemmKernel& kernel, int threads) {
  ThreadPool pool(threads);
  Context context;
  context.threads = &pool;
  const int64_t bytes = kernel.workspace_bytes == nullptr ? 0 : kernel.workspace_bytes(desc);
  const GuardedBuffer workspace(bytes);
  context.workspace = TensorView(workspace.as<char>(), DType::kU8, {bytes});
  // Poison: everything must be written, and scratch may hold anything.
  std::memset(workspace.as<char>(), 0xff, bytes);
  std::vector<float> y(m * y_columns);
  for (int64_t row = 0; row < m; ++row) {
    std::memset(args.y.Rows(row, row + 1).data, 0xff, y_columns * DTypeSize(args.y.dtype));
  }
  kernel.run(context, desc, args);
  for (int64_t i = 0; i < m * y_columns; ++i) {
    y[i] = LoadTestElement(args.y.Rows(i / y_columns, i / y_columns + 1).data, args.y.dtype,
                           i % y_columns);
  }
  return y;
}

std::vector<double> TestProblem::QuantizedX(float static_scale) const {
  std::vector<double> x(x_values.begin(), x_values.end());
  const int64_t k = desc.k;
  float tensor_amax = 0;
  for (const float value : x_values) {
    tensor_amax = std::max(tensor_amax, std::fabs(value));
  }
  for (int64_t row = 0; row < m; ++row) {
    float amax = 0;
    for (int64_t i = 0; i < k; ++i) {
      amax = std::max(amax, std::fabs(x_values[row * k + i]));
    }
    float scale = 1.0f;
    switch (desc.activation_quant) {
      case ActivationQuant::kNone:
        return x;
      case ActivationQuant::kDynamicPerToken:
        scale = amax / 448.0f;
        break;
      case ActivationQuant::kDynamicPerTensor:
        scale = tensor_amax / 448.0f;
        break;
      case ActivationQuant::kStaticPerTensor:
        scale = static_scale;
        break;
      case ActivationQuant::kDynamicPerGroup:
      case ActivationQuant::kDynamicMx:
        break;
    }
    for (int64_t i = 0; i < k; ++i) {
      const bool mx = desc.activation_quant == ActivationQuant::kDynamicMx;
      const bool grouped = mx || desc.activation_quant == ActivationQuant::kDynamicPerGroup;
      const int64_t group = mx ? 32 : 128;
      if (grouped && i % group == 0) {
        amax = 0;
        for (int64_t j = i; j < std::min(k, i + group); ++j) {
          amax = std::max(amax, std::fabs(x_values[row * k + j]));
        }
        scale = mx ? std::exp2(std::ceil(std::log2(amax / 448.0f))) : amax / 448.0f;
      }
      x[row * k + i] =
          static_cast<double>(E4m3ToFloat(FloatToE4m3(x_values[row * k + i] / scale))) * scale;
    }
  }
  return x;
}

double TestProblem::ExpectNear(const std::vector<float>& y, const TestTolerance& more) const {
  const int64_t n = desc.n;
  const int64_t k = desc.k;
  std::vector<std::vector<double>> inputs;
  for (const float scale : weight_.input_scales_) {
    inputs.push_back(QuantizedX(scale));
  }
  const std::vector<double> w = weight_.Values(desc.precision);
  // K additions or fused multiply-adds, and a few roundings of scales and of q * scale.
  const double sum_roundoff = static_cast<double>(k + 8) * kUnitRoundoff + more.sum;
  double difference_norm = 0;
  double expected_norm = 0;
  for (int64_t row = 0; row < m; ++row) {
    std::vector<double> sum(n);
    std::vector<double> error(n);
    for (int64_t column = 0; column < n; ++column) {
      const std::vector<double>& x = inputs[inputs.size() == 1 ? 0 : weight_.part_of_row_[column]];
      double magnitude = 0;
      for (int64_t i = 0; i < k; ++i) {
        const double product = x[row * k + i] * w[column * k + i];
        sum[column] += product;
        magnitude += std::fabs(product);
      }
      const double bias = desc.has_bias ? bias_[column] : 0.0;
      sum[column] += bias;
      error[column] =
          sum_roundoff * magnitude + (kUnitRoundoff + more.stored) * std::fabs(sum[column]);
    }
    for (int64_t column = 0; column < y_columns; ++column) {
      double expected = sum[column];
      double tolerance = error[column];
      // |silu'| < 1.1; 16 units for the exponential, the division and the product.
      const auto silu = [&](int64_t at) {
        return 1.1 * error[at] + 16 * kUnitRoundoff * std::fabs(Silu(sum[at]));
      };
      if (desc.activation == Activation::kSiluMul) {
        const double gate = Silu(sum[2 * column]);
        const double up = sum[2 * column + 1];
        expected = gate * up;
        tolerance = silu(2 * column) * (std::fabs(up) + error[2 * column + 1]) +
                    std::fabs(gate) * error[2 * column + 1] + kUnitRoundoff * std::fabs(expected);
      }
      if (desc.has_residual) {
        expected += residual_[row * y_columns + column];
        tolerance += kUnitRoundoff * std::fabs(expected);
      }
      tolerance += OutputRoundoff(desc.y_dtype) * (std::fabs(expected) + tolerance) +
                   OutputUnderflow(desc.y_dtype);
      const double difference = std::fabs(y[row * y_columns + column] - expected);
      difference_norm += difference * difference;
      expected_norm += expected * expected;
      if (!(difference <= tolerance)) {
        ADD_FAILURE() << Describe(desc) << ": y[" << row << ", " << column
                      << "] = " << y[row * y_columns + column] << ", expected " << expected
                      << " +- " << tolerance;
        return INFINITY;
      }
    }
  }
  return std::sqrt(difference_norm / expected_norm);
}

}  // namespace dualfp
