// Lets the Python tests use this folder: prints what it reads, one line of JSON per path. What
// cannot be read prints {"error": CODE, "message": TEXT}.
//
//   io_test_tool config|generation DIRECTORY...
//   io_test_tool tensors CHECKPOINT...
//   io_test_tool copy SOURCE TARGET MAX_SHARD_BYTES

#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/io/hf_config.h"
#include "dualfp/io/json.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/io/safetensors_writer.h"

namespace dualfp {
namespace {

template <typename T>
Json OrNull(const std::optional<T>& value) {
  return value ? Json(*value) : Json(nullptr);
}

Json DumpConfig(const std::string& directory) {
  const ModelConfig config = LoadModelConfig(directory);
  const RopeConfig& rope = config.rope;
  return {{"architecture", ArchitectureName(config.architecture)},
          {"vocab_size", config.vocab_size},
          {"hidden_size", config.hidden_size},
          {"intermediate_size", config.intermediate_size},
          {"num_hidden_layers", config.num_hidden_layers},
          {"num_attention_heads", config.num_attention_heads},
          {"num_key_value_heads", config.num_key_value_heads},
          {"head_dim", config.head_dim},
          {"max_position_embeddings", config.max_position_embeddings},
          {"rms_norm_eps", config.rms_norm_eps},
          {"tie_word_embeddings", config.tie_word_embeddings},
          {"qkv_bias", config.qkv_bias},
          {"o_bias", config.o_bias},
          {"mlp_bias", config.mlp_bias},
          {"qk_norm", config.qk_norm},
          {"layer_window", config.layer_window},
          {"bos_token_id", OrNull(config.bos_token_id)},
          {"eos_token_ids", config.eos_token_ids},
          {"pad_token_id", OrNull(config.pad_token_id)},
          {"dtype", config.dtype ? Json(DTypeName(*config.dtype)) : Json(nullptr)},
          {"quantization_config", config.quantization_config},
          {"rope",
           {{"type", RopeTypeName(rope.type)},
            {"theta", rope.theta},
            {"rotary_dim", rope.rotary_dim},
            {"factor", rope.factor},
            {"original_max_position_embeddings", rope.original_max_position_embeddings},
            {"low_freq_factor", rope.low_freq_factor},
            {"high_freq_factor", rope.high_freq_factor},
            {"attention_factor", OrNull(rope.attention_factor)},
            {"beta_fast", rope.beta_fast},
            {"beta_slow", rope.beta_slow},
            {"mscale", OrNull(rope.mscale)},
            {"mscale_all_dim", OrNull(rope.mscale_all_dim)},
            {"truncate", rope.truncate},
            {"short_factor", rope.short_factor},
            {"long_factor", rope.long_factor}}}};
}

Json DumpGenerationConfig(const std::string& directory) {
  const GenerationConfig config = LoadGenerationConfig(directory);
  return {{"bos_token_id", OrNull(config.bos_token_id)},
          {"eos_token_ids", config.eos_token_ids},
          {"pad_token_id", OrNull(config.pad_token_id)},
          {"do_sample", OrNull(config.do_sample)},
          {"temperature", OrNull(config.temperature)},
          {"top_p", OrNull(config.top_p)},
          {"top_k", OrNull(config.top_k)},
          {"min_p", OrNull(config.min_p)},
          {"repetition_penalty", OrNull(config.repetition_penalty)},
          {"max_length", OrNull(config.max_length)},
          {"max_new_tokens", OrNull(config.max_new_tokens)}};
}

std::string Hex(const ConstTensorView& view) {
  constexpr char kDigits[] = "0123456789abcdef";
  std::string hex;
  for (int64_t i = 0; i < view.num_bytes(); ++i) {
    const uint8_t byte = view.as<uint8_t>()[i];
    hex += {kDigits[byte >> 4], kDigits[byte & 15]};
  }
  return hex;
}

Json DumpTensors(const std::string& path) {
  const Checkpoint checkpoint = Checkpoint::Open(path);
  Json tensors = Json::array();
  for (const TensorEntry& entry : checkpoint.entries()) {
    tensors.push_back(
        {{"name", entry.name},
         {"dtype", DTypeName(entry.dtype)},
         {"shape", entry.shape},
         {"file", checkpoint.files()[entry.file].name()},
         {"bytes", entry.shape.size() <= kMaxRank ? Json(Hex(checkpoint.Read(entry).view()))
                                                  : Json(nullptr)}});
  }
  Json metadata = Json::object();
  for (const auto& [key, value] : checkpoint.files()[0].metadata()) {
    metadata[key] = value;
  }
  return {{"tensors", tensors}, {"metadata", metadata}};
}

void Copy(const std::string& source, const std::string& target, uint64_t max_shard_bytes) {
  const Checkpoint checkpoint = Checkpoint::Open(source);
  std::vector<TensorSpec> specs;
  for (const TensorEntry& entry : checkpoint.entries()) {
    specs.push_back({entry.name, entry.dtype, entry.shape});
  }
  CheckpointWriter writer(target, std::move(specs), max_shard_bytes);
  for (const TensorEntry& entry : checkpoint.entries()) {
    writer.Write(entry.name, checkpoint.Read(entry).view());
  }
  writer.Commit();
}

int Main(const std::vector<std::string>& arguments) {
  if (arguments.size() == 4 && arguments[0] == "copy") {
    Copy(arguments[1], arguments[2], std::stoull(arguments[3]));
    return 0;
  }
  const std::string command = arguments.empty() ? "" : arguments[0];
  const std::function<Json(const std::string&)> dump =
      command == "config"       ? DumpConfig
      : command == "generation" ? DumpGenerationConfig
      : command == "tensors"    ? DumpTensors
                                : std::function<Json(const std::string&)>();
  if (!dump) {
    std::fputs("usage: io_test_tool config|generation|tensors PATH... | copy FROM TO BYTES\n",
               stderr);
    return 2;
  }
  for (size_t i = 1; i < arguments.size(); ++i) {
    Json line;
    try {
      line = dump(arguments[i]);
    } catch (const Error& error) {
      line = {{"error", ErrorCodeName(error.code())}, {"message", error.what()}};
    }
    std::puts(line.dump().c_str());
  }
  return 0;
}

}  // namespace
}  // namespace dualfp

int main(int argc, char** argv) {
  try {
    return dualfp::Main(std::vector<std::string>(argv + 1, argv + argc));
  } catch (const dualfp::Error& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
