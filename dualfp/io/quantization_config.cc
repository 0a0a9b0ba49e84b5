#include "dualfp/io/quantization_config.h"

#include <algorithm>
#include <array>
#include <optional>
#include <utility>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr int64_t kBlock = 128;
constexpr int64_t kMaxSize = int64_t{1} << 31;
constexpr WeightScheme kMxfp8Weights{QuantFormat::kMxfp8, ScaleGranularity::kGroup};
constexpr WeightScheme kMxfp4Weights{QuantFormat::kMxfp4, ScaleGranularity::kGroup};
constexpr WeightScheme kNvfp4Weights{QuantFormat::kNvfp4, ScaleGranularity::kGroup};

std::string Lower(std::string text) {
  std::transform(text.begin(), text.end(), text.begin(),
                 [](char c) { return 'A' <= c && c <= 'Z' ? static_cast<char>(c | 0x20) : c; });
  return text;
}

// Rows and columns of a block: [128, 128], or "128x128" in older files; nothing where absent.
void CheckBlockSize(const JsonFields& fields, std::string_view key) {
  const Json* raw = fields.FindRaw(key);
  std::vector<int64_t> sizes;
  if (raw != nullptr && raw->is_string()) {
    if (fields.FindString(key) == "128x128") {
      return;
    }
  } else {
    sizes = fields.FindIntOrInts(key, 1, kMaxSize).value_or(sizes);
  }
  if (sizes != std::vector<int64_t>{kBlock, kBlock}) {
    fields.FailUnsupported(key, StrCat("blocks of ", raw == nullptr ? "null" : DescribeJson(*raw),
                                       ", expected [128, 128]"));
  }
}

// A null list and an absent one are empty.
std::vector<std::string> Strings(const JsonFields& fields, std::string_view key) {
  return fields.FindStrings(key).value_or(std::vector<std::string>{});
}

// compressed-tensors' QuantizationArgs, as far as they matter here.
struct Arguments {
  explicit Arguments(const JsonFields& fields)
      : bits(fields.FindInt("num_bits", 1, 64).value_or(8)),
        is_float(fields.FindString("type").value_or("int") == "float"),
        group_size(fields.FindInt("group_size", -1, kMaxSize).value_or(0)),
        strategy(fields.FindString("strategy").value_or("")) {
    const Json* raw = fields.FindRaw("dynamic");
    if (raw != nullptr && raw->is_string()) {
      dynamic = true;  // "local": NVFP4's scales for each 16
    } else {
      dynamic = fields.FindBool("dynamic").value_or(false);
    }
    if (strategy.empty()) {
      strategy = group_size > 0 ? "group" : group_size < 0 ? "channel" : "tensor";
    }
  }

  int64_t bits;
  bool is_float;
  int64_t group_size;
  std::string strategy;
  bool dynamic = false;
};

WeightScheme ParseWeights(const JsonFields& fields) {
  const Arguments arguments(fields);
  if (!arguments.is_float || (arguments.bits != 8 && arguments.bits != 4)) {
    fields.FailUnsupported(
        "num_bits", StrCat(arguments.is_float ? "float" : "integer", " weights of ", arguments.bits,
                           " bits, expected floats of 8 or 4"));
  }
  const std::string& strategy = arguments.strategy;
  if (arguments.bits == 4) {
    if (strategy == "tensor_group" && arguments.group_size == 16) {
      return kNvfp4Weights;
    }
    if (strategy == "group" && arguments.group_size == kMxGroup) {
      return kMxfp4Weights;
    }
  } else if (strategy == "tensor") {
    return kFp8PerTensor;
  } else if (strategy == "channel") {
    return kFp8PerChannel;
  } else if (strategy == "block") {
    CheckBlockSize(fields, "block_structure");
    return kFp8PerBlock;
  } else if (strategy == "group" && arguments.group_size == kMxGroup) {
    return kMxfp8Weights;
  }
  fields.FailUnsupported("strategy",
                         StrCat("scales of ", arguments.bits, "-bit weights by ",
                                QuoteForMessage(strategy), ", group size ", arguments.group_size));
}

ActivationQuant ParseActivations(const JsonFields& fields) {
  const Arguments arguments(fields);
  if (!arguments.is_float || arguments.bits > 8) {
    fields.FailUnsupported("num_bits",
                           StrCat(arguments.is_float ? "float" : "integer", " activations of ",
                                  arguments.bits, " bits, expected floats of at most 8"));
  }
  if (arguments.bits < 8) {
    return ActivationQuant::kNone;
  }
  const std::string& strategy = arguments.strategy;
  if (!arguments.dynamic) {
    if (strategy == "tensor") {
      return ActivationQuant::kStaticPerTensor;
    }
  } else if (strategy == "token") {
    return ActivationQuant::kDynamicPerToken;
  } else if (strategy == "tensor") {
    return ActivationQuant::kDynamicPerTensor;
  } else if (strategy == "group" && arguments.group_size == kActivationGroup) {
    return ActivationQuant::kDynamicPerGroup;
  } else if (strategy == "group" && arguments.group_size == kMxGroup) {
    return ActivationQuant::kDynamicMx;
  }
  fields.FailUnsupported("strategy",
                         StrCat(arguments.dynamic ? "dynamic" : "static", " activation scales by ",
                                QuoteForMessage(strategy), ", group size ", arguments.group_size));
}

// ModelOpt's names, in whatever case.
std::optional<LinearQuantization> FindAlgorithm(const std::string& name) {
  struct Row {
    std::string_view name;
    LinearQuantization quantization;
  };
  static constexpr std::array kAlgorithms = {
      Row{"fp8", {kFp8PerTensor, ActivationQuant::kStaticPerTensor}},
      Row{"fp8_per_channel_per_token", {kFp8PerChannel, ActivationQuant::kDynamicPerToken}},
      Row{"fp8_pb_wo", {kFp8PerBlock, ActivationQuant::kNone}},
      Row{"mxfp8", {kMxfp8Weights, ActivationQuant::kDynamicMx}},
      Row{"nvfp4", {kNvfp4Weights, ActivationQuant::kNone}},
      Row{"nvfp4_awq", {kNvfp4Weights, ActivationQuant::kNone}},
      Row{"w4a16_nvfp4", {kNvfp4Weights, ActivationQuant::kNone}},
      Row{"mxfp4", {kMxfp4Weights, ActivationQuant::kNone}},
      Row{"w4a8_mxfp4_fp8", {kMxfp4Weights, ActivationQuant::kNone}},
  };
  const std::string lower = Lower(name);
  const auto* row = std::find_if(kAlgorithms.begin(), kAlgorithms.end(),
                                 [&](const Row& candidate) { return candidate.name == lower; });
  return row == kAlgorithms.end() ? std::nullopt : std::optional(row->quantization);
}

LinearQuantization Algorithm(const JsonFields& fields) {
  const std::string name = fields.GetString("quant_algo");
  const std::optional<LinearQuantization> found = FindAlgorithm(name);
  if (!found.has_value()) {
    fields.FailUnsupported("quant_algo", StrCat("unsupported algorithm ", QuoteForMessage(name)));
  }
  return *found;
}

// Class names, which stand for every module of the class, have no dots and begin with a capital.
bool IsClassName(std::string_view target) {
  return !target.empty() && 'A' <= target[0] && target[0] <= 'Z' &&
         target.find('.') == std::string_view::npos;
}

}  // namespace

void QuantizationConfig::ParseKvScheme(const JsonFields& fields) {
  const Json* raw = fields.FindRaw("kv_cache_scheme");
  if (raw == nullptr || raw->is_null()) {
    return;
  }
  if (raw->is_string()) {
    if (fields.FindString("kv_cache_scheme") != "static") {
      fields.FailUnsupported("kv_cache_scheme",
                             StrCat(DescribeJson(*raw), ", expected \"static\""));
    }
  } else {
    const JsonFields scheme = fields.GetObject("kv_cache_scheme");
    const Arguments arguments(scheme);
    if (!arguments.is_float || arguments.bits != 8) {
      fields.FailUnsupported("kv_cache_scheme", "expected floats of 8 bits");
    }
  }
  fp8_kv_cache_ = true;
}

void QuantizationConfig::ParseFp8(const JsonFields& fields) {
  const std::string scheme = fields.FindString("activation_scheme").value_or("dynamic");
  if (scheme != "static" && scheme != "dynamic") {
    fields.FailExpected("activation_scheme", "\"static\" or \"dynamic\"");
  }
  const bool is_static = scheme == "static";
  Group group;
  group.all_linears = true;
  const bool is_mx =
      fields.Has("weight_block_size") &&
      fields.FindIntOrInts("weight_block_size", 1, kMaxSize) == std::vector<int64_t>{1, kMxGroup};
  if (is_mx) {
    group.quantization = {kMxfp8Weights, ActivationQuant::kDynamicMx};
  } else if (fields.Has("weight_block_size")) {
    CheckBlockSize(fields, "weight_block_size");
    if (is_static) {
      fields.FailField("activation_scheme", "static, which weight_block_size does not go with");
    }
    group.quantization = {kFp8PerBlock, ActivationQuant::kDynamicPerGroup};
  } else {
    group.quantization = {kFp8PerTensor, is_static ? ActivationQuant::kStaticPerTensor
                                                   : ActivationQuant::kDynamicPerTensor};
  }
  groups_.push_back(std::move(group));
  for (const std::string_view key : {"ignored_layers", "modules_to_not_convert"}) {
    std::vector<NamePattern> ignored = ParseNamePatterns(Strings(fields, key), fields.origin());
    std::move(ignored.begin(), ignored.end(), std::back_inserter(ignored_));
  }
  ParseKvScheme(fields);
}

void QuantizationConfig::ParseCompressedTensors(const JsonFields& fields) {
  for (const std::string_view key : {"sparsity_config", "transform_config"}) {
    const Json* raw = fields.FindRaw(key);
    const bool dense = raw == nullptr || raw->is_null() || raw->empty() ||
                       (raw->is_object() && raw->value("format", Json()) == "dense");
    if (!dense) {
      fields.FailUnsupported(key, "sparse and transformed weights cannot be read");
    }
  }
  const JsonFields groups = fields.GetObject("config_groups");
  for (const auto& [name, value] : groups.json().items()) {
    const JsonFields entry = groups.GetObject(name);
    Group group;
    std::vector<std::string> names;
    for (const std::string& target : entry.GetStrings("targets")) {
      if (IsClassName(target)) {
        group.all_linears = group.all_linears || target == "Linear";
      } else {
        names.push_back(target);
      }
    }
    group.targets = ParseNamePatterns(names, fields.origin());
    group.quantization.scheme = ParseWeights(entry.GetObject("weights"));
    if (const auto activations = entry.FindObject("input_activations")) {
      group.quantization.activation = ParseActivations(*activations);
    }
    groups_.push_back(std::move(group));
  }
  ignored_ = ParseNamePatterns(Strings(fields, "ignore"), fields.origin());
  ParseKvScheme(fields);
}

void QuantizationConfig::ParseModelOpt(const JsonFields& fields) {
  // hf_quant_config.json has the same one level down, under other names.
  const JsonFields config = fields.Has("quantization") ? fields.GetObject("quantization") : fields;
  if (Lower(config.FindString("quant_algo").value_or("")) == "mixed_precision") {
    const JsonFields layers = config.GetObject("quantized_layers");
    for (const auto& [name, value] : layers.json().items()) {
      modules_[name] = Algorithm(layers.GetObject(name));
    }
  } else {
    Group group;
    group.all_linears = true;
    group.quantization = Algorithm(config);
    groups_.push_back(std::move(group));
  }
  for (const std::string_view key : {"ignore", "exclude_modules"}) {
    std::vector<NamePattern> ignored = ParseNamePatterns(Strings(config, key), fields.origin());
    std::move(ignored.begin(), ignored.end(), std::back_inserter(ignored_));
  }
  const std::string kv = Lower(config.FindString("kv_cache_quant_algo").value_or(""));
  if (!kv.empty() && kv != "fp8" && kv != "none") {
    config.FailUnsupported("kv_cache_quant_algo",
                           StrCat("unsupported algorithm ", QuoteForMessage(kv)));
  }
  fp8_kv_cache_ = kv == "fp8";
  ParseKvScheme(config);
}

QuantizationConfig QuantizationConfig::Parse(const Json& config, std::string_view origin) {
  QuantizationConfig result;
  if (config.is_null()) {
    return result;
  }
  const JsonFields fields(config, origin, "quantization_config");
  // hf_quant_config.json names no method.
  std::string method =
      fields.FindString("quant_method").value_or(fields.Has("quantization") ? "modelopt" : "");
  if (method == "dualfp") {
    result.format_ = fields.GetString("format");
    if (result.format_ != "nested12" || fields.FindInt("version", 0, kMaxSize).value_or(1) != 1) {
      fields.FailUnsupported(
          "format", StrCat(QuoteForMessage(result.format_), ", expected \"nested12\", version 1"));
    }
  } else if (method == "fp8") {
    result.ParseFp8(fields);
  } else if (method == "compressed-tensors") {
    result.ParseCompressedTensors(fields);
  } else if (method == "modelopt" || method == "modelopt_fp4" || method == "modelopt_mixed") {
    result.ParseModelOpt(fields);
  } else {
    fields.FailUnsupported("quant_method",
                           StrCat("this checkpoint is quantized by ", QuoteForMessage(method),
                                  ", expected fp8, compressed-tensors, modelopt or dualfp"));
  }
  result.method_ = std::move(method);
  return result;
}

bool QuantizationConfig::Ignores(std::string_view module) const {
  return std::any_of(ignored_.begin(), ignored_.end(), [module](const NamePattern& pattern) {
    const std::string& name = pattern.text();
    // A name covers what lies inside the module, too.
    const bool inside = pattern.is_name() && module.starts_with(name) &&
                        module.size() > name.size() && module[name.size()] == '.';
    return inside || pattern.Matches(module);
  });
}

LinearQuantization QuantizationConfig::Of(std::string_view module) const {
  if (const auto it = modules_.find(module); it != modules_.end()) {
    return it->second;
  }
  if (Ignores(module)) {
    return {};
  }
  // A module's own name counts before an expression, and that before its class.
  const auto match = [&](auto matches) {
    return std::find_if(groups_.begin(), groups_.end(), matches);
  };
  auto it = match([&](const Group& group) {
    return std::any_of(group.targets.begin(), group.targets.end(),
                       [&](const NamePattern& target) { return target.text() == module; });
  });
  if (it == groups_.end()) {
    it = match([&](const Group& group) { return MatchesAny(group.targets, module); });
  }
  if (it == groups_.end()) {
    it = match([](const Group& group) { return group.all_linears; });
  }
  return it == groups_.end() ? LinearQuantization{} : it->quantization;
}

}  // namespace dualfp
