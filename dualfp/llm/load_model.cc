#include "dualfp/llm/load_model.h"

#include <fmt/core.h>

#include <algorithm>
#include <iterator>
#include <optional>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/model/kv_cache.h"
#include "dualfp/model/weights.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {
namespace {

WeightScheme SchemeNamed(const std::string& name) {
  const NamedScheme* scheme = FindWeightScheme(name);
  Check(scheme != nullptr && scheme->scheme.has_value(), ErrorCode::kInvalidArgument,
        "quantization of a layer: ", QuoteForMessage(name), ", expected one of ",
        WeightSchemeNames(), " but auto");
  return *scheme->scheme;
}

// What stays as it is comes first.
std::vector<LoadOptions::Rule> Rules(const ModelOptions& options) {
  std::vector<LoadOptions::Rule> rules;
  for (const std::string& pattern : options.quantization_ignore) {
    rules.push_back({pattern, kPlainWeights});
  }
  for (const std::string& layer : options.quantization_layers) {
    const size_t equals = layer.rfind('=');
    Check(equals != std::string::npos, ErrorCode::kInvalidArgument,
          "quantization of a layer: ", QuoteForMessage(layer), ", expected PATTERN=SCHEME");
    rules.push_back({layer.substr(0, equals), SchemeNamed(layer.substr(equals + 1))});
  }
  return rules;
}

}  // namespace

Model LoadModel(const ModelOptions& options, const ModelConfig& config, ThreadPool& threads,
                LoadProgress progress) {
  const auto* scheme = FindWeightScheme(options.quantization);
  Check(scheme != nullptr, ErrorCode::kInvalidArgument, "quantization ",
        QuoteForMessage(options.quantization), ": expected one of ", WeightSchemeNames());
  LoadOptions load;
  load.scheme = scheme->scheme;
  load.rules = Rules(options);
  load.nest_lm_head = options.quantize_lm_head;
  load.progress = std::move(progress);
  if (options.load_format == "dummy") {
    const DType dtype = config.dtype.value_or(DType::kF16);
    DummySource source(0, dtype == DType::kBF16 ? dtype : DType::kF16);
    return LoadModel(config, source, load, threads);
  }
  Check(options.load_format == "auto", ErrorCode::kInvalidArgument, "load_format ",
        QuoteForMessage(options.load_format), " is neither \"auto\" nor \"dummy\"");
  CheckpointSource source(Checkpoint::Open(options.model),
                          QuantizationConfig::Parse(config.quantization_config, "config.json"));
  return LoadModel(config, source, load, threads);
}

int64_t DrawableTokens(const Tokenizer& tokenizer, const ModelConfig& config) {
  const int64_t limit = tokenizer.id_limit();
  if (limit > config.vocab_size) {
    LogWarning(StrCat("tokenizer.json has token ids up to ", limit - 1,
                      ", the model (vocab_size in config.json) up to ", config.vocab_size - 1,
                      ": a prompt cannot have those beyond"));
  }
  return std::min(limit, config.vocab_size);
}

void CheckTokens(std::span<const int32_t> tokens, const ModelConfig& config,
                 std::string_view what) {
  for (const int32_t token : tokens) {
    Check(0 <= token && token < config.vocab_size, ErrorCode::kInvalidArgument, what, ": token ",
          token, " is outside the model's vocabulary of ", config.vocab_size);
  }
}

std::vector<int32_t> EndTokenIds(const ModelConfig& config, const GenerationConfig& generation,
                                 std::optional<int32_t> tokenizer_end) {
  std::vector<int32_t> ids;
  const auto add = [&](int32_t id) {
    // Some published models name ids that they do not have, which never occur.
    if (id < config.vocab_size && std::find(ids.begin(), ids.end(), id) == ids.end()) {
      ids.push_back(id);
    }
  };
  for (const std::vector<int32_t>& given : {config.eos_token_ids, generation.eos_token_ids}) {
    std::for_each(given.begin(), given.end(), add);
  }
  if (tokenizer_end) {
    add(*tokenizer_end);
  }
  return ids;
}

DType KvCacheDType(const std::string& name, const ModelConfig& config) {
  if (name == "auto") {
    const bool fp8 =
        QuantizationConfig::Parse(config.quantization_config, "config.json").fp8_kv_cache();
    return fp8 ? DType::kF8E4M3 : DType::kF32;
  }
  const std::optional<DType> dtype = ParseKvCacheDType(name);
  Check(dtype.has_value(), ErrorCode::kInvalidArgument, "kv_cache_dtype ", QuoteForMessage(name),
        " does not exist");
  return *dtype;
}

std::string HumanBytes(int64_t bytes) {
  constexpr const char* kUnits[] = {"B", "kB", "MB", "GB", "TB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 999.5 && unit + 1 < std::size(kUnits)) {
    value /= 1000;
    ++unit;
  }
  return fmt::format("{:.3g} {}", value, kUnits[unit]);
}

std::string DescribeLoad(const ModelOptions& options, const Model& model) {
  const LoadReport& report = model.report;
  const double gigabytes = static_cast<double>(report.weight_bytes) / 1e9;
  const bool fp8_alone = report.NestedLayerLinears() == 0 && report.Fp8LayerLinears() > 0;
  return fmt::format("Loaded {}: {} in {:.2f} s ({:.2f} GB/s), {} of {} linear layers {}",
                     options.model, HumanBytes(report.weight_bytes), report.seconds,
                     gigabytes / std::max(1e-9, report.seconds), report.Fp8LayerLinears(),
                     report.LayerLinears(), fp8_alone ? "fp8" : "nested");
}

namespace {

std::string DescribeExceptions(const Model& model) {
  int64_t count = 0;
  const LinearReport* first = nullptr;
  for (const LinearReport& linear : model.report.linears) {
    if (!linear.exception.empty() && count++ == 0) {
      first = &linear;
    }
  }
  return count == 0 ? ""
                    : fmt::format(
                          "{} of {} linear layers stay plain and compute in FP16 only; the "
                          "first is {}: {}",
                          count, model.report.LayerLinears(), first->name, first->exception);
}

std::string DescribeRounding(const Model& model) {
  int64_t rounded = 0;
  int64_t weights = 0;
  double largest = 0;
  const LinearReport* first = nullptr;
  for (const LinearReport& linear : model.report.linears) {
    weights += linear.n * linear.k;
    rounded += linear.rounded;
    largest = std::max(largest, linear.largest_relative_rounding);
    if (linear.rounded > 0 && first == nullptr) {
      first = &linear;
    }
  }
  return rounded == 0
             ? ""
             : fmt::format(
                   "{} of {} weights are rounded, by at most {:.2g} %: {} does not hold all of {}",
                   rounded, weights, 100 * largest, WeightSchemeName(first->scheme),
                   DTypeName(first->source_dtype));
}

}  // namespace

std::vector<std::string> LoadWarnings(const Model& model) {
  std::vector<std::string> warnings = {DescribeExceptions(model), DescribeRounding(model)};
  std::erase(warnings, "");
  return warnings;
}

void CheckComputesAtFp8(const Model& model) {
  const std::string exceptions = DescribeExceptions(model);
  Check(model.report.Fp8LayerLinears() > 0, ErrorCode::kUnsupported,
        "no linear layer can compute at fp8: ",
        exceptions.empty() ? "load the model with --quantization nested" : exceptions);
}

}  // namespace dualfp
