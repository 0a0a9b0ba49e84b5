// How a checkpoint's linear layers are quantized: quantization_config of config.json, as AutoFP8,
// transformers ("fp8"), llm-compressor ("compressed-tensors"), ModelOpt ("modelopt") and dualfp
// itself write it. docs/formats.md lists the tensors that go with each.
//
// The config says what a quantized module's scales belong to and how its input is quantized. Which
// modules are quantized at all, the weights' own dtypes decide: skip lists are kept sloppily.

#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/io/name_pattern.h"
#include "dualfp/tensor/quant_format.h"
#include "dualfp/tensor/weight_scheme.h"

namespace dualfp {

// One module's weight, and what happens to its input at FP8.
struct LinearQuantization {
  WeightScheme scheme;
  ActivationQuant activation = ActivationQuant::kNone;

  friend bool operator==(const LinearQuantization&, const LinearQuantization&) = default;
};

class QuantizationConfig {
 public:
  // Nothing is quantized.
  QuantizationConfig() = default;

  // `config` is config.json's quantization_config, null where there is none, or what
  // hf_quant_config.json holds; `origin` the file. Throws kInvalidFile for fields of a wrong type
  // and for those that contradict each other, kUnsupported for methods, types, strategies and block
  // sizes that dualfp has no code for; both name the field.
  static QuantizationConfig Parse(const Json& config, std::string_view origin);

  // "fp8", "compressed-tensors", "modelopt", "dualfp"; empty where nothing is quantized.
  const std::string& method() const { return method_; }
  bool quantized() const { return !method_.empty(); }
  // "dualfp": "nested12", ...
  const std::string& format() const { return format_; }

  // Of a module by its name in the checkpoint ("model.layers.0.mlp.up_proj"); plain where the
  // config leaves it as it is. Not to be called by two threads at a time.
  LinearQuantization Of(std::string_view module) const;

  // Whether the config says that keys and values are cached in FP8.
  bool fp8_kv_cache() const { return fp8_kv_cache_; }

 private:
  struct Group {
    std::vector<NamePattern> targets;
    bool all_linears = false;  // by a class name
    LinearQuantization quantization;
  };

  void ParseFp8(const JsonFields& fields);
  void ParseCompressedTensors(const JsonFields& fields);
  void ParseModelOpt(const JsonFields& fields);
  void ParseKvScheme(const JsonFields& fields);
  bool Ignores(std::string_view module) const;

  std::string method_;
  std::string format_;
  std::vector<Group> groups_;
  std::map<std::string, LinearQuantization, std::less<>> modules_;  // ModelOpt: one by one
  std::vector<NamePattern> ignored_;
  bool fp8_kv_cache_ = false;
};

}  // namespace dualfp
