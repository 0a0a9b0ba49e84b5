#include "dualfp/quant/schemes/quantization_config.h"

#include <algorithm>
#include <string_view>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr int kBlock = 128;

bool IsMx(const LinearEncoding& encoding) {
  return encoding.scheme.weights.format == QuantFormat::kMxfp8;
}

std::string_view ModelOptAlgorithm(const LinearEncoding& encoding) {
  return IsMx(encoding) ? "MXFP8" : "FP8";
}

Json ModelOptProducer() { return {{"name", "dualfp"}}; }

// The config in the words of AutoFP8 or, with blocks, of DeepSeek.
Json Fp8Config(const LinearEncoding& encoding, const std::vector<std::string>& ignored,
               bool fp8_kv_cache) {
  Json config;
  config["quant_method"] = "fp8";
  config["activation_scheme"] = encoding.scheme.static_inputs ? "static" : "dynamic";
  if (encoding.scheme.weights == kFp8PerBlock) {
    config["fmt"] = "e4m3";
    config["weight_block_size"] = {kBlock, kBlock};
    config["scale_fmt"] = encoding.ue8m0 ? "ue8m0" : "float";
    config["modules_to_not_convert"] = ignored;  // vLLM and transformers read this one
  } else {
    config["ignored_layers"] = ignored;
  }
  if (fp8_kv_cache) {
    config["kv_cache_scheme"] = "static";
  }
  return config;
}

Json Arguments(std::string_view strategy, bool dynamic) {
  return {{"num_bits", 8},
          {"type", "float"},
          {"strategy", strategy},
          {"symmetric", true},
          {"dynamic", dynamic}};
}

std::string_view CompressedFormat(const LinearEncoding& encoding) {
  return IsMx(encoding) ? "mxfp8-quantized" : "float-quantized";
}

Json CompressedGroup(const LinearEncoding& encoding, const std::vector<std::string>& targets) {
  Json weights;
  Json inputs;
  if (IsMx(encoding)) {
    weights = Arguments("group", false);
    inputs = Arguments("group", true);
    for (Json* arguments : {&weights, &inputs}) {
      (*arguments)["group_size"] = kMxGroup;
      (*arguments)["scale_dtype"] = "torch.uint8";
    }
  } else if (encoding.scheme.weights == kFp8PerBlock) {
    weights = Arguments("block", false);
    weights["block_structure"] = {kBlock, kBlock};
    inputs = Arguments("group", true);
    inputs["group_size"] = kBlock;
  } else {
    weights = Arguments(encoding.scheme.weights == kFp8PerChannel ? "channel" : "tensor", false);
    inputs = encoding.scheme.static_inputs ? Arguments("tensor", false) : Arguments("token", true);
  }
  return {{"format", CompressedFormat(encoding)},
          {"targets", targets},
          {"weights", weights},
          {"input_activations", inputs},
          {"output_activations", nullptr}};
}

Json CompressedTensorsConfig(const std::vector<QuantizedGroup>& groups,
                             const std::vector<std::string>& ignored, bool fp8_kv_cache) {
  Json config;
  config["quant_method"] = "compressed-tensors";
  std::string_view format = CompressedFormat(groups[0].encoding);
  for (size_t i = 0; i < groups.size(); ++i) {
    // A reader takes the first group that names a module before one that names its class.
    config["config_groups"][StrCat("group_", i)] =
        CompressedGroup(groups[i].encoding, groups.size() == 1 ? std::vector<std::string>{"Linear"}
                                                               : groups[i].modules);
    if (CompressedFormat(groups[i].encoding) != format) {
      format = "mixed-precision";
    }
  }
  config["format"] = format;
  config["ignore"] = ignored;
  config["kv_cache_scheme"] = fp8_kv_cache ? Arguments("tensor", false) : Json();
  config["quantization_status"] = "compressed";
  return config;
}

Json ModelOptConfig(const LinearEncoding& encoding, const std::vector<std::string>& ignored,
                    bool fp8_kv_cache) {
  Json config;
  config["quant_method"] = "modelopt";
  config["quant_algo"] = ModelOptAlgorithm(encoding);
  if (!IsMx(encoding)) {
    const Json arguments = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
    config["config_groups"]["group_0"] = {
        {"input_activations", arguments}, {"weights", arguments}, {"targets", {"Linear"}}};
  }
  config["ignore"] = ignored;
  if (fp8_kv_cache) {
    config["kv_cache_scheme"] = {{"dynamic", false}, {"num_bits", 8}, {"type", "float"}};
  }
  config["producer"] = ModelOptProducer();
  return config;
}

}  // namespace

Json QuantizationConfigJson(const std::vector<QuantizedGroup>& groups,
                            const std::vector<std::string>& ignored, bool fp8_kv_cache) {
  CheckInternal(!groups.empty(), "a quantization config of no layers");
  const LinearEncoding& encoding = groups[0].encoding;
  const bool one_method =
      std::all_of(groups.begin(), groups.end(), [&encoding](const QuantizedGroup& group) {
        return group.encoding.method == encoding.method;
      });
  Check(groups.size() == 1 || (one_method && encoding.method == QuantMethod::kCompressedTensors),
        ErrorCode::kUnsupported,
        "several schemes in one checkpoint: only compressed-tensors has a config for that");
  switch (encoding.method) {
    case QuantMethod::kFp8:
      return Fp8Config(encoding, ignored, fp8_kv_cache);
    case QuantMethod::kCompressedTensors:
      return CompressedTensorsConfig(groups, ignored, fp8_kv_cache);
    case QuantMethod::kModelOpt:
      return ModelOptConfig(encoding, ignored, fp8_kv_cache);
  }
  Fail(ErrorCode::kInternal, "an unknown method");
}

Json HfQuantConfigJson(const std::vector<QuantizedGroup>& groups,
                       const std::vector<std::string>& ignored, bool fp8_kv_cache) {
  const LinearEncoding& encoding = groups.at(0).encoding;
  if (encoding.method != QuantMethod::kModelOpt) {
    return nullptr;
  }
  Json quantization;
  quantization["quant_algo"] = ModelOptAlgorithm(encoding);
  quantization["kv_cache_quant_algo"] = fp8_kv_cache ? Json("FP8") : Json();
  if (IsMx(encoding)) {
    quantization["group_size"] = kMxGroup;
  }
  quantization["exclude_modules"] = ignored;
  return {{"producer", ModelOptProducer()}, {"quantization", quantization}};
}

}  // namespace dualfp
