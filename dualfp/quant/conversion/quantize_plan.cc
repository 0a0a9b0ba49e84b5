#include "dualfp/quant/conversion/quantize_plan.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/quantize_weight.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/quant/conversion/encode_linear.h"
#include "dualfp/quant/schemes/linear_layers.h"
#include "dualfp/quant/schemes/quantization_config.h"

namespace dualfp {
namespace {

constexpr int64_t kBlock = 128;

// Layers whose matrices readers join into one, so that they are quantized together or not at all.
constexpr std::array<std::array<std::string_view, 3>, 4> kJoined = {{{"q_proj", "k_proj", "v_proj"},
                                                                     {"gate_proj", "up_proj", ""},
                                                                     {"w1", "w3", ""},
                                                                     {"query", "key", "value"}}};

// A name that all layers joined with this one share: "model.layers.0.self_attn.q_proj" for each of
// q, k and v.
std::string JoinedName(std::string_view module) {
  const size_t dot = module.rfind('.');
  const size_t begin = dot == std::string_view::npos ? 0 : dot + 1;
  const std::string_view part = module.substr(begin);
  for (const auto& joined : kJoined) {
    if (!part.empty() && std::find(joined.begin(), joined.end(), part) != joined.end()) {
      return StrCat(module.substr(0, begin), joined[0]);
    }
  }
  return std::string(module);
}

bool SameEncoding(const LinearEncoding& a, const LinearEncoding& b) {
  return a.scheme.name == b.scheme.name && a.method == b.method && a.division == b.division &&
         a.search == b.search && a.ue8m0 == b.ue8m0;
}

// A value as the bytes of a one-element tensor.
std::vector<char> ScalarBytes(float value, DType dtype) {
  std::vector<char> bytes(DTypeSize(dtype));
  if (dtype == DType::kF32) {
    std::memcpy(bytes.data(), &value, sizeof(value));
  } else {
    const auto code =
        static_cast<uint16_t>(dtype == DType::kBF16 ? FloatToBf16(value) : FloatToFp16(value));
    std::memcpy(bytes.data(), &code, sizeof(code));
  }
  return bytes;
}

class Planner {
 public:
  Planner(const Checkpoint& checkpoint, const Json& config, const QuantizePlanOptions& options)
      : checkpoint_(checkpoint), config_(config), options_(options) {}

  Conversion Plan();

 private:
  struct Layer {
    const TensorEntry* entry;
    LinearTensor linear;
    std::optional<LinearEncoding> encoding;
  };

  void FindLayers();
  std::optional<LinearEncoding> EncodingOf(const LinearTensor& linear) const;
  void KeepUntiled();
  ConversionTask QuantizeTask(const Layer& layer) const;
  ConversionTask ScalarTask(const std::string& name, float value, const LinearEncoding& encoding,
                            DType dtype) const;
  void AddKvScales();
  void AddIdentity();

  const Checkpoint& checkpoint_;
  const Json& config_;
  const QuantizePlanOptions& options_;
  std::map<std::string, Layer> layers_;  // by tensor
  std::vector<QuantizedGroup> groups_;
  std::vector<std::string> ignored_;
  Conversion result_;
};

std::optional<LinearEncoding> Planner::EncodingOf(const LinearTensor& linear) const {
  for (const SchemeRule& rule : options_.rules) {
    if (rule.pattern.Matches(linear.module)) {
      return rule.encoding;
    }
  }
  if (KeptByDefault(linear.module) || MatchesAny(options_.ignore, linear.module)) {
    return std::nullopt;
  }
  return options_.encoding;
}

void Planner::FindLayers() {
  const std::string model_type = config_.value("model_type", Json("")).is_string()
                                     ? config_.value("model_type", std::string())
                                     : std::string();
  // Their experts lie [K, N].
  const bool transposed = model_type == "gpt_oss" || model_type.starts_with("llama4");
  for (const TensorEntry& entry : checkpoint_.entries()) {
    std::optional<LinearTensor> linear = AsLinear(entry);
    if (!linear) {
      continue;
    }
    std::optional<LinearEncoding> encoding = EncodingOf(*linear);
    if (linear->fused_experts && transposed && encoding) {
      result_.report.kept.push_back({linear->module, "its experts lie transposed"});
      encoding.reset();
    }
    layers_.emplace(entry.name, Layer{&entry, std::move(*linear), encoding});
  }
}

// DeepSeek's blocks: a reader that joins layers cannot join ragged ones.
void Planner::KeepUntiled() {
  std::map<std::string, std::string> reasons;  // by joined name
  for (const auto& [name, layer] : layers_) {
    if (layer.encoding && layer.encoding->method == QuantMethod::kFp8 &&
        layer.encoding->scheme.weights == kFp8PerBlock &&
        (layer.linear.n % kBlock != 0 || layer.linear.k % kBlock != 0)) {
      reasons.emplace(JoinedName(layer.linear.module),
                      StrCat("blocks of ", kBlock, " do not tile ", layer.linear.module, " [",
                             layer.linear.n, ", ", layer.linear.k, "]"));
    }
  }
  for (auto& [name, layer] : layers_) {
    const auto found = reasons.find(JoinedName(layer.linear.module));
    if (layer.encoding && found != reasons.end()) {
      result_.report.kept.push_back({layer.linear.module, found->second});
      layer.encoding.reset();
    }
  }
}

ConversionTask Planner::ScalarTask(const std::string& name, float value,
                                   const LinearEncoding& encoding, DType dtype) const {
  const bool compressed = encoding.method == QuantMethod::kCompressedTensors;
  const DType stored = compressed ? dtype : DType::kF32;
  ConversionTask task;
  task.outputs.push_back(
      {name, stored, compressed ? std::vector<int64_t>{1} : std::vector<int64_t>{}});
  task.run = [name, bytes = ScalarBytes(value, stored)](PartialCheckpoint& out) {
    out.WriteAt(name, 0, bytes.data(), bytes.size());
  };
  return task;
}

ConversionTask Planner::QuantizeTask(const Layer& layer) const {
  const LinearEncoding& encoding = *layer.encoding;
  const LinearTensor& linear = layer.linear;
  const TensorEntry& entry = *layer.entry;
  const WeightScheme& weights = encoding.scheme.weights;
  Check(HasSpelling(encoding.method, encoding.scheme), ErrorCode::kInvalidArgument,
        encoding.scheme.name, ": quant_method ", QuantMethodName(encoding.method),
        " has no such scheme");
  const int64_t group = GetQuantFormatInfo(weights.format).group_size;
  Check(group == 0 || linear.k % group == 0, ErrorCode::kUnsupported, checkpoint_.name(),
        ": tensor ", entry.name, ": ", encoding.scheme.name, " scales ", group,
        " elements together, which do not divide K = ", linear.k,
        "; leave the layer out with --ignore");
  const auto [rows, columns] = ScaleShape(weights, linear.n, linear.k);
  const bool compressed = encoding.method == QuantMethod::kCompressedTensors;
  std::vector<int64_t> scale_shape;
  if (linear.fused_experts) {
    scale_shape = {linear.matrices, rows, columns};
  } else if (weights != kFp8PerTensor) {
    scale_shape = {rows, columns};
  } else if (compressed) {
    scale_shape = {1};
  }
  const bool inverse = encoding.method == QuantMethod::kFp8 && weights == kFp8PerBlock;
  const std::string scale_name = linear.Sibling(inverse ? "weight_scale_inv" : "weight_scale");
  const DType scale_dtype = WeightScaleDType(encoding, entry.dtype);
  ConversionTask task;
  task.bytes = static_cast<int64_t>(entry.num_bytes);
  task.outputs = {{entry.name, DType::kF8E4M3, entry.shape},
                  {scale_name, scale_dtype, scale_shape}};
  task.run = [&checkpoint = checkpoint_, &entry, encoding, linear,
              scale_name](PartialCheckpoint& out) {
    const TensorData data = checkpoint.Read(entry);
    const std::string name = StrCat(checkpoint.name(), ": tensor ", entry.name);
    const int64_t matrix_bytes = linear.n * linear.k * DTypeSize(entry.dtype);
    int64_t written = 0;
    std::vector<std::byte> scales;
    for (int64_t i = 0; i < linear.matrices; ++i) {
      const ConstTensorView matrix(data.view().as<char>() + i * matrix_bytes, entry.dtype,
                                   {linear.n, linear.k});
      const auto sink = [&](const uint8_t* codes, int64_t size, int64_t rows_done) {
        out.WriteAt(entry.name, written, codes, size);
        written += size;
        data.DropFront(i * matrix_bytes + rows_done * linear.k * DTypeSize(entry.dtype));
      };
      const std::vector<std::byte> bytes = EncodeLinear(encoding, name, matrix, sink);
      scales.insert(scales.end(), bytes.begin(), bytes.end());
    }
    out.WriteAt(scale_name, 0, scales.data(), scales.size());
  };
  return task;
}

void Planner::AddKvScales() {
  const auto name_of = [](const std::string& attention, std::string_view which,
                          const LinearEncoding& encoding) {
    return encoding.method == QuantMethod::kModelOpt
               ? StrCat(attention, ".", which, "_proj.", which, "_scale")
               : StrCat(attention, ".", which, "_scale");
  };
  const DType dtype = layers_.begin()->second.entry->dtype;
  for (const auto& [attention, scale] : options_.scales.keys) {
    result_.tasks.push_back(
        ScalarTask(name_of(attention, "k", options_.encoding), scale, options_.encoding, dtype));
  }
  for (const auto& [attention, scale] : options_.scales.values) {
    result_.tasks.push_back(
        ScalarTask(name_of(attention, "v", options_.encoding), scale, options_.encoding, dtype));
  }
}

// The tensors' names, shapes and dtypes say the rest.
void Planner::AddIdentity() {
  for (const QuantizedGroup& group : groups_) {
    result_.identity +=
        StrCat(group.encoding.scheme.name, " ", QuantMethodName(group.encoding.method), " ",
               static_cast<int>(group.encoding.division), " ",
               static_cast<int>(group.encoding.search), " ", group.encoding.ue8m0, ":");
    for (const std::string& module : group.modules) {
      result_.identity += " " + module;
    }
  }
  for (const auto* scales :
       {&options_.scales.inputs, &options_.scales.keys, &options_.scales.values}) {
    for (const auto& [name, scale] : *scales) {
      result_.identity += StrCat(" ", name, " ", std::bit_cast<uint32_t>(scale));
    }
  }
}

Conversion Planner::Plan() {
  CheckNotQuantized(checkpoint_, config_);
  FindLayers();
  KeepUntiled();
  bool has_head = false;
  for (const TensorEntry& entry : checkpoint_.entries()) {
    const auto found = layers_.find(entry.name);
    if (found == layers_.end() || !found->second.encoding) {
      if (found != layers_.end()) {
        ignored_.push_back(found->second.linear.module);
        has_head = has_head || found->second.linear.module == "lm_head";
      }
      result_.tasks.push_back(CopyTask(checkpoint_, entry));
      continue;
    }
    const Layer& layer = found->second;
    result_.tasks.push_back(QuantizeTask(layer));
    const auto same = [&layer](const QuantizedGroup& group) {
      return SameEncoding(group.encoding, *layer.encoding);
    };
    auto group = std::find_if(groups_.begin(), groups_.end(), same);
    if (group == groups_.end()) {
      group = groups_.insert(groups_.end(), QuantizedGroup{*layer.encoding, {}});
    }
    group->modules.push_back(layer.linear.module);
    result_.report.converted += layer.linear.matrices;
    if (layer.encoding->scheme.static_inputs) {
      const auto scale = options_.scales.inputs.find(layer.linear.module);
      Check(scale != options_.scales.inputs.end(), ErrorCode::kInvalidArgument, layer.linear.module,
            ": ", layer.encoding->scheme.name,
            " needs a static scale of its input, which calibration did not give");
      result_.tasks.push_back(ScalarTask(layer.linear.module + ".input_scale", scale->second,
                                         *layer.encoding, entry.dtype));
    }
  }
  Check(!groups_.empty(), ErrorCode::kUnsupported, checkpoint_.name(),
        ": no linear layer to quantize");
  if (!has_head) {  // tied: the head that readers build is not quantized either
    ignored_.push_back("lm_head");
  }
  AddKvScales();
  AddIdentity();
  result_.config = config_;
  result_.config["quantization_config"] =
      QuantizationConfigJson(groups_, ignored_, !options_.scales.keys.empty());
  result_.hf_quant_config = HfQuantConfigJson(groups_, ignored_, !options_.scales.keys.empty());
  return std::move(result_);
}

}  // namespace

Conversion PlanQuantization(const Checkpoint& checkpoint, const Json& config,
                            const QuantizePlanOptions& options) {
  return Planner(checkpoint, config, options).Plan();
}

}  // namespace dualfp
