#include <algorithm>
#include <array>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/io/hf_config.h"
#include "dualfp/io/rope_config_internal.h"

namespace dualfp {
namespace {

constexpr double kMaxTheta = 1e18;
constexpr double kMaxFactor = 1e6;
constexpr double kTiny = 1e-6;  // lower bound of what must be positive
constexpr int64_t kMaxPositions = int64_t{1} << 27;
constexpr int64_t kPhi3OriginalPositions = 4096;

constexpr std::array kRopeTypes = {
    std::pair{RopeType::kDefault, std::string_view("default")},
    std::pair{RopeType::kLinear, std::string_view("linear")},
    std::pair{RopeType::kDynamic, std::string_view("dynamic")},
    std::pair{RopeType::kLlama3, std::string_view("llama3")},
    std::pair{RopeType::kYarn, std::string_view("yarn")},
    std::pair{RopeType::kLongRope, std::string_view("longrope")},
};

// `finetuned` is found in early YaRN models and has no effect on inference.
constexpr std::array<std::string_view, 17> kKnownKeys = {
    "rope_type", "type",         "rope_theta",       "partial_rotary_factor",
    "factor",    "beta_fast",    "beta_slow",        "original_max_position_embeddings",
    "mscale",    "short_factor", "low_freq_factor",  "mscale_all_dim",
    "truncate",  "long_factor",  "high_freq_factor", "attention_factor",
    "finetuned",
};

// The object that describes RoPE: rope_scaling (the hub's) before rope_parameters (transformers
// 5's) where a file has both, and neither when they are absent, null or empty.
std::pair<std::string_view, std::optional<JsonFields>> FindParameters(const JsonFields& fields) {
  for (const std::string_view key : {"rope_scaling", "rope_parameters"}) {
    const std::optional<JsonFields> parameters = fields.FindObject(key);
    if (parameters && !parameters->json().empty()) {
      return {key, parameters};
    }
  }
  return {"rope_parameters", std::nullopt};
}

// Keys that no type knows change nothing, as in transformers; parameters of some layers only do.
void CheckKeys(const JsonFields& parameters) {
  std::string unknown;
  for (const auto& [key, value] : parameters.json().get_ref<const Json::object_t&>()) {
    if (key.ends_with("_attention") && value.is_object()) {
      parameters.FailUnsupported(key, "parameters that differ by layer are not supported");
    }
    if (std::find(kKnownKeys.begin(), kKnownKeys.end(), key) == kKnownKeys.end()) {
      unknown += StrCat(unknown.empty() ? "" : ", ", QuoteForMessage(key));
    }
  }
  if (!unknown.empty()) {
    LogWarning(StrCat(parameters.origin(),
                      ": RoPE parameters that no RoPE type has are ignored: ", unknown));
  }
}

// Factors below 1 shorten the context; transformers warns and takes them.
std::optional<double> FindFactor(const JsonFields& parameters) {
  const std::optional<double> factor = parameters.FindNumber("factor", kTiny, kMaxFactor);
  if (factor && *factor < 1.0) {
    LogWarning(StrCat(parameters.origin(), ": RoPE factor ", *factor, " is below 1"));
  }
  return factor;
}

double GetFactor(const JsonFields& parameters) {
  const std::optional<double> factor = FindFactor(parameters);
  return factor ? *factor : parameters.GetNumber("factor", kTiny, kMaxFactor);
}

RopeType ReadType(const JsonFields& parameters, Architecture architecture) {
  const std::string key = parameters.Has("rope_type") ? "rope_type" : "type";
  const std::string name = parameters.FindString(key).value_or("default");
  if (architecture == Architecture::kPhi3) {
    // Its early files call longrope "su" or "yarn"; no other kind exists for it.
    if (name == "longrope" || name == "su" || name == "yarn") {
      return RopeType::kLongRope;
    }
    if (name == "default") {
      return RopeType::kDefault;
    }
    parameters.FailUnsupported(key, StrCat("unsupported RoPE type ", QuoteForMessage(name),
                                           " for Phi3ForCausalLM, expected longrope"));
  }
  for (const auto& [type, type_name] : kRopeTypes) {
    if (name == type_name) {
      return type;
    }
  }
  parameters.FailUnsupported(
      key, StrCat("unsupported RoPE type ", QuoteForMessage(name),
                  ", expected default, linear, dynamic, llama3, yarn or longrope"));
}

// Reads `key` from the RoPE object or, failing that, from the top level.
std::optional<double> FindNumberInEither(const JsonFields* parameters, const JsonFields& fields,
                                         std::string_view key, double min, double max) {
  if (parameters != nullptr && parameters->Has(key)) {
    return parameters->FindNumber(key, min, max);
  }
  return fields.FindNumber(key, min, max);
}

int64_t ReadRotaryDim(const JsonFields* parameters, const JsonFields& fields,
                      const ModelConfig& config) {
  constexpr std::string_view kKey = "partial_rotary_factor";
  const double share = FindNumberInEither(parameters, fields, kKey, 0.0, 1.0).value_or(1.0);
  const JsonFields& owner = parameters != nullptr && parameters->Has(kKey) ? *parameters : fields;
  if (share != 1.0 && config.architecture != Architecture::kPhi3) {
    owner.FailUnsupported(
        kKey, StrCat("partial rotation is not part of ", ArchitectureName(config.architecture)));
  }
  const auto rotary_dim = static_cast<int64_t>(static_cast<double>(config.head_dim) * share);
  if (rotary_dim < 2 || rotary_dim % 2 != 0) {
    const std::string_view key = share != 1.0             ? kKey
                                 : fields.Has("head_dim") ? "head_dim"
                                                          : "hidden_size";
    owner.FailField(key, StrCat("expected an even number of at least 2 rotary dimensions, got ",
                                rotary_dim, " of a head's ", config.head_dim));
  }
  return rotary_dim;
}

// The top-level field, which Phi-3 files have, overrides the one inside, as in transformers.
int64_t ReadOriginalPositions(const JsonFields& parameters, const JsonFields& fields,
                              const ModelConfig& config) {
  constexpr std::string_view kKey = "original_max_position_embeddings";
  if (const auto positions = fields.FindInt(kKey, 2, kMaxPositions)) {
    return *positions;
  }
  if (config.architecture == Architecture::kPhi3) {
    return kPhi3OriginalPositions;
  }
  const int64_t positions =
      parameters.FindInt(kKey, 2, kMaxPositions).value_or(config.max_position_embeddings);
  if (positions < 2) {
    fields.FailField("max_position_embeddings", "expected at least 2 for this RoPE type, got 1");
  }
  return positions;
}

std::vector<double> ReadFactors(const JsonFields& parameters, std::string_view key,
                                int64_t expected) {
  std::vector<double> factors = parameters.GetNumbers(key, kTiny, kMaxFactor);
  if (factors.size() != static_cast<size_t>(expected)) {
    parameters.FailField(key, StrCat("expected ", expected,
                                     " numbers, half the rotary dimensions, got ", factors.size()));
  }
  return factors;
}

// 0 means "not given", as in transformers.
std::optional<double> FindNonzero(const JsonFields& parameters, std::string_view key) {
  const std::optional<double> value = parameters.FindNumber(key, 0.0, kMaxFactor);
  return value == 0.0 ? std::nullopt : value;
}

void ReadYarn(const JsonFields& parameters, RopeConfig& rope) {
  rope.attention_factor = parameters.FindNumber("attention_factor", 0.0, kMaxFactor);
  rope.beta_fast = FindNonzero(parameters, "beta_fast").value_or(32.0);
  rope.beta_slow = FindNonzero(parameters, "beta_slow").value_or(1.0);
  if (rope.beta_fast < rope.beta_slow) {
    LogWarning(StrCat(parameters.origin(), ": RoPE beta_fast ", rope.beta_fast,
                      " is below beta_slow ", rope.beta_slow));
  }
  rope.mscale = FindNonzero(parameters, "mscale");
  rope.mscale_all_dim = FindNonzero(parameters, "mscale_all_dim");
  rope.truncate = parameters.FindBool("truncate").value_or(true);
}

}  // namespace

std::string_view RopeTypeName(RopeType type) {
  const auto index = static_cast<size_t>(type);
  CheckInternal(index < kRopeTypes.size() && kRopeTypes[index].first == type, "unknown RoPE type ",
                index);
  return kRopeTypes[index].second;
}

RopeConfig ParseRopeConfig(const JsonFields& fields, const ModelConfig& config) {
  const auto [key, found] = FindParameters(fields);
  const JsonFields* parameters = found ? &*found : nullptr;
  if (parameters != nullptr) {
    CheckKeys(*parameters);
  }
  RopeConfig rope;
  const double above_one = 1.0 + std::numeric_limits<double>::epsilon();  // log(theta) divides
  rope.theta = FindNumberInEither(parameters, fields, "rope_theta", above_one, kMaxTheta)
                   .value_or(rope.theta);
  rope.rotary_dim = ReadRotaryDim(parameters, fields, config);
  rope.original_max_position_embeddings = config.max_position_embeddings;
  if (parameters == nullptr) {
    return rope;
  }
  rope.type = ReadType(*parameters, config.architecture);
  if (rope.type == RopeType::kLlama3 || rope.type == RopeType::kYarn ||
      rope.type == RopeType::kLongRope) {
    rope.original_max_position_embeddings = ReadOriginalPositions(*parameters, fields, config);
  }
  const double ratio = static_cast<double>(config.max_position_embeddings) /
                       static_cast<double>(rope.original_max_position_embeddings);
  switch (rope.type) {
    case RopeType::kDefault:
      break;
    case RopeType::kLinear:
      rope.factor = GetFactor(*parameters);
      break;
    case RopeType::kDynamic:
      rope.factor = GetFactor(*parameters);
      if (rope.rotary_dim <= 2) {
        parameters->FailField("type", "dynamic RoPE needs more than 2 rotary dimensions");
      }
      break;
    case RopeType::kLlama3:
      rope.factor = GetFactor(*parameters);
      rope.low_freq_factor = parameters->GetNumber("low_freq_factor", kTiny, kMaxFactor);
      rope.high_freq_factor = parameters->GetNumber("high_freq_factor", kTiny, kMaxFactor);
      if (rope.high_freq_factor <= rope.low_freq_factor) {
        LogWarning(StrCat(parameters->origin(), ": RoPE high_freq_factor ", rope.high_freq_factor,
                          " is not above low_freq_factor ", rope.low_freq_factor));
      }
      break;
    case RopeType::kYarn:
      rope.factor = FindFactor(*parameters).value_or(ratio);
      ReadYarn(*parameters, rope);
      break;
    case RopeType::kLongRope:
      rope.factor = FindFactor(*parameters).value_or(ratio);
      rope.attention_factor = parameters->FindNumber("attention_factor", 0.0, kMaxFactor);
      rope.short_factor = ReadFactors(*parameters, "short_factor", rope.rotary_dim / 2);
      rope.long_factor = ReadFactors(*parameters, "long_factor", rope.rotary_dim / 2);
      break;
  }
  return rope;
}

}  // namespace dualfp
