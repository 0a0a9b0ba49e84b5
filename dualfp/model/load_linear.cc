#include "dualfp/model/load_linear.h"

#include <algorithm>
#include <optional>
#include <string>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/model/fill_linear.h"

namespace dualfp {
namespace {

// Every part begins its own blocks of scales. As the filler quantizes, it begins a block; as a
// checkpoint stores it (`stored`), it may begin inside one.
RowParts MakeRowParts(const std::vector<LinearPart>& parts, bool stored) {
  constexpr int64_t kBlock = 128;
  RowParts result;
  result.count = static_cast<int32_t>(parts.size());
  result.interleaved = parts.front().dest_step == 2 ? 1 : 0;
  int64_t base = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (result.interleaved == 0) {
      result.first_row[i] = static_cast<int32_t>(parts[i].dest_begin);
    }
    const int64_t before = stored ? parts[i].row_begin % kBlock : 0;
    result.scale_base[i] = static_cast<int32_t>(base + before);
    base += (before + parts[i].rows + kBlock - 1) / kBlock * kBlock;
  }
  return result;
}

// "q_proj fp8_per_tensor, k_proj none": of parts that are not stored alike.
std::string DescribeParts(const std::vector<LinearPart>& parts,
                          const std::vector<LinearQuantization>& stored) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    const std::string& name = parts[i].tensor;
    text +=
        StrCat(i == 0 ? "" : ", ", name.substr(name.rfind('.') + 1), " ",
               WeightSchemeName(stored[i].scheme), " ", ActivationQuantName(stored[i].activation));
  }
  return text;
}

// How all parts can be held in one weight as they are stored; nothing where they cannot.
std::optional<LinearQuantization> Common(const std::vector<LinearQuantization>& stored) {
  LinearQuantization common = stored.front();
  const auto by_row = [](const WeightScheme& scheme) {
    return scheme == kFp8PerTensor || scheme == kFp8PerChannel;
  };
  for (const LinearQuantization& part : stored) {
    if (part.activation != common.activation) {
      return std::nullopt;
    }
    if (part.scheme != common.scheme) {
      if (!by_row(part.scheme) || !by_row(common.scheme)) {
        return std::nullopt;
      }
      common.scheme = kFp8PerChannel;
    }
  }
  return common;
}

}  // namespace

LinearLoader::LinearLoader(WeightSource& source, const LoadOptions& options, ThreadPool& threads)
    : source_(source), options_(options), threads_(threads) {
  for (const LoadOptions::Rule& rule : options.rules) {
    rules_.push_back({NamePattern(rule.pattern, "quantization"), rule.scheme});
  }
}

NestReport LinearLoader::FillAll(Linear& linear, const WeightScheme& scheme, DType dtype,
                                 int64_t max_outliers) {
  AllocateLinear(linear, scheme, dtype);
  NestReport total;
  for (const LinearPart& part : linear.parts) {
    const auto rows = Open(part);
    const NestReport report =
        FillPart(linear, part, *rows, max_outliers, ErrorCode::kInvalidFile, threads_);
    total.outliers += report.outliers;
    total.rounded += report.rounded;
    total.largest_relative_error =
        std::max(total.largest_relative_error, report.largest_relative_error);
  }
  FinishOutliers(linear);
  return total;
}

void LinearLoader::CopyAll(Linear& linear, const WeightScheme& scheme) {
  AllocateLinear(linear, scheme, DType::kF32);
  std::vector<float> input_scales;
  for (const LinearPart& part : linear.parts) {
    const StoredMatrix matrix =
        source_.OpenMatrix(part.tensor, part.tensor_rows, part.tensor_columns);
    CopyPart(linear, part, matrix, ErrorCode::kInvalidFile, threads_);
    if (matrix.input_scale.has_value()) {
      input_scales.push_back(*matrix.input_scale);
    }
  }
  if (!input_scales.empty()) {
    SetInputScales(linear, input_scales);
  }
}

std::vector<LinearQuantization> LinearLoader::StoredAs(const Linear& linear) const {
  std::vector<LinearQuantization> stored;
  for (const LinearPart& part : linear.parts) {
    stored.push_back(source_.StoredAs(part.tensor));
  }
  return stored;
}

DType LinearLoader::ValueDType(const LinearPart& part) {
  return source_.StoredAs(part.tensor).scheme != kPlainWeights ? DType::kF32 : Open(part)->dtype();
}

bool LinearLoader::IsBf16(const Linear& linear) {
  return std::all_of(linear.parts.begin(), linear.parts.end(),
                     [this](const LinearPart& part) { return ValueDType(part) == DType::kBF16; });
}

std::optional<WeightScheme> LinearLoader::Wanted(const Linear& linear) const {
  const auto of = [this](const LinearPart& part) {
    const auto rule = std::find_if(rules_.begin(), rules_.end(), [&part](const Rule& candidate) {
      return candidate.pattern.Matches(part.tensor);
    });
    return rule == rules_.end() ? options_.scheme : rule->scheme;
  };
  const LinearPart& first = linear.parts.front();
  const std::optional<WeightScheme> wanted = of(first);
  for (const LinearPart& part : linear.parts) {
    Check(of(part) == wanted, ErrorCode::kInvalidArgument, "quantization: ", first.tensor, " and ",
          part.tensor, " are held in one weight, but patterns tell them apart");
  }
  return wanted;
}

WeightScheme LinearLoader::LayerScheme(const Linear& linear) {
  if (const auto wanted = Wanted(linear)) {
    return *wanted;
  }
  // What a quantized checkpoint leaves as it is computes exactly.
  if (source_.quantized()) {
    return kPlainWeights;
  }
  return IsBf16(linear) ? kNested12Weights : kNestedWeights;
}

WeightScheme LinearLoader::HeadScheme(const Linear& linear) {
  if (options_.nest_lm_head) {
    return LayerScheme(linear);
  }
  const bool may = options_.scheme.value_or(kNested12Weights) == kNested12Weights;
  return may && IsBf16(linear) ? kNested12Weights : kPlainWeights;
}

LinearReport LinearLoader::Load(Linear& linear, const WeightScheme& scheme) {
  LinearReport report{.name = linear.name,
                      .in_layer = linear.name.starts_with("model.layers."),
                      .n = linear.weight.n,
                      .k = linear.weight.k};
  const std::vector<LinearQuantization> stored = StoredAs(linear);
  const std::optional<LinearQuantization> common = Common(stored);
  // Parts of different types meet in F32, which holds the values of all.
  DType plain_dtype = ValueDType(linear.parts.front());
  report.source_dtype = stored.front().scheme != kPlainWeights ? DType::kF8E4M3 : plain_dtype;
  for (const LinearPart& part : linear.parts) {
    if (report.tensors.empty() || report.tensors.back() != part.tensor + ".weight") {
      report.tensors.push_back(part.tensor + ".weight");
    }
    if (ValueDType(part) != plain_dtype) {
      plain_dtype = DType::kF32;
    }
  }
  const std::optional<WeightScheme> wanted = Wanted(linear);
  const bool quantized = common.has_value() && common->scheme != kPlainWeights;
  linear.weight.parts = MakeRowParts(linear.parts, quantized);
  if (quantized && wanted.value_or(common->scheme) == common->scheme) {
    CopyAll(linear, common->scheme);
    linear.activation_quant = common->activation;
  } else if (!common.has_value() && !wanted.has_value()) {
    report.exception =
        StrCat("its projections are not stored alike: ", DescribeParts(linear.parts, stored));
    LogInfo(StrCat(linear.name, " is held plain and computes exactly only: ", report.exception));
    FillValues(linear, kPlainWeights, plain_dtype, report);
  } else {
    linear.weight.parts = MakeRowParts(linear.parts, false);
    FillValues(linear, scheme, plain_dtype, report);
    linear.activation_quant = DefaultActivationQuant(linear.scheme);
  }
  report.scheme = linear.scheme;
  report.scale_granularity = linear.weight.scale_granularity;
  report.activation_quant = linear.activation_quant;
  report.stored_dtype = linear.weight.values.dtype;
  report.num_bytes = linear.weight.BytesRead(Precision::kExact);
  return report;
}

void LinearLoader::FillValues(Linear& linear, const WeightScheme& scheme, DType plain_dtype,
                              LinearReport& report) {
  const int64_t elements = linear.weight.n * linear.weight.k;
  const bool is_nested12 = scheme.format == QuantFormat::kNested12;
  const double max_share = is_nested12 ? kMaxRemainderShare : options_.max_outlier_share;
  const auto max_outliers = static_cast<int64_t>(max_share * static_cast<double>(elements));
  const NestReport filled = FillAll(linear, scheme, plain_dtype, max_outliers);
  report.outliers = filled.outliers;
  if (filled.outliers > max_outliers) {
    report.exception = StrCat(filled.outliers, " of ", elements, " weights ",
                              is_nested12 ? "leave a remainder" : "exceed 1.75",
                              ", more than a share of ", max_share);
    LogInfo(StrCat(linear.name, " stays plain and computes exactly only: ", report.exception));
    FillAll(linear, kPlainWeights, plain_dtype, 0);
  } else {
    report.rounded = filled.rounded;
    report.largest_relative_rounding = filled.largest_relative_error;
  }
}

std::unique_ptr<TensorRows> LinearLoader::Open(const LinearPart& part) {
  return Dequantize(source_.OpenMatrix(part.tensor, part.tensor_rows, part.tensor_columns));
}

}  // namespace dualfp
