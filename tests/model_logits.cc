// model_logits MODEL REQUEST.json OUT.safetensors: logits of many prompts in one model load, for
// the Python tests. REQUEST is
//   {"quantization": "none", "kv_cache_dtype": "fp32", "precision": "fp16", "threads": 2,
//    "prompts": [{"tokens": [...], "steps": [a, b, ...]}, ...], "together": false,
//    "weights": false}
// `steps` cuts a prompt into forward passes of that many tokens (absent: one). With `together`, the
// i-th steps of all prompts form one batch. OUT holds F32 tensors "0", "1", ... [tokens,
// vocabulary]; with `weights`, also the layers' weights as they are held, under the names of the
// checkpoint's tensors.

#include <algorithm>
#include <cstdio>
#include <exception>
#include <map>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"
#include "dualfp/io/safetensors_writer.h"
#include "dualfp/kernels/reference/rows.h"
#include "dualfp/model/decoder.h"
#include "dualfp/model/weights.h"

namespace dualfp {
namespace {

struct Prompt {
  std::vector<int32_t> tokens;
  std::vector<int64_t> steps;
  std::vector<int32_t> blocks;
  std::vector<float> logits;
};

std::vector<Prompt> ReadPrompts(const JsonFields& request, int64_t vocabulary) {
  std::vector<Prompt> prompts;
  int32_t next_block = 0;
  for (const JsonFields& fields : request.GetObjects("prompts")) {
    Prompt prompt;
    for (const double token : fields.GetNumbers("tokens", 0, 1e9)) {
      prompt.tokens.push_back(static_cast<int32_t>(token));
    }
    const auto count = static_cast<int64_t>(prompt.tokens.size());
    prompt.steps = fields.FindIntOrInts("steps", 1, 1 << 20).value_or(std::vector{count});
    for (int64_t i = 0; i < KvBlocksFor(count); ++i) {
      prompt.blocks.push_back(next_block++);
    }
    prompt.logits.resize(count * vocabulary);
    prompts.push_back(std::move(prompt));
  }
  return prompts;
}

struct NamedWeight {
  std::vector<int64_t> shape;
  std::vector<float> values;
};

std::map<std::string, NamedWeight> LayerWeightsByTensor(const Model& model) {
  std::map<std::string, NamedWeight> weights;
  for (const LayerWeights& layer : model.layers) {
    for (const Linear* linear : layer.linears()) {
      for (const LinearPart& part : linear->parts) {
        NamedWeight& weight = weights[part.tensor + ".weight"];
        weight.shape = {part.tensor_rows, part.tensor_columns};
        weight.values.resize(part.tensor_rows * part.tensor_columns);
        for (int64_t i = 0; i < part.rows; ++i) {
          reference::DecodeWeightRow(
              linear->weight, Precision::kExact, part.dest_begin + i * part.dest_step,
              weight.values.data() + (part.row_begin + i) * part.tensor_columns);
        }
      }
    }
  }
  return weights;
}

void Main(const char* model_path, const char* request_path, const char* out_path) {
  const Json json = ParseJsonFile(request_path);
  const JsonFields request(json, request_path);
  ThreadPool threads(static_cast<int>(request.FindInt("threads", 1, 64).value_or(2)));
  LoadOptions load;
  load.scheme = FindWeightScheme(request.GetString("quantization"))->scheme;
  const Model model = LoadModel(model_path, load, threads);
  const int64_t vocabulary = model.config.vocab_size;
  std::vector<Prompt> prompts = ReadPrompts(request, vocabulary);

  int64_t tokens = 0;
  int64_t blocks = 0;
  for (const Prompt& prompt : prompts) {
    tokens += static_cast<int64_t>(prompt.tokens.size());
    blocks += static_cast<int64_t>(prompt.blocks.size());
  }
  KvCache cache(
      model.KvCacheFor(ParseKvCacheDType(request.GetString("kv_cache_dtype")).value(), blocks));
  Decoder decoder(model, {.limits = {.max_tokens = tokens,
                                     .max_sequences = static_cast<int64_t>(prompts.size()),
                                     .max_logit_rows = tokens}});
  const PrecisionPlan plan = PrecisionPlan::Uniform(
      model.config.num_hidden_layers, ParsePrecision(request.GetString("precision")).value());
  StepBatch batch = decoder.NewBatch();
  const bool together = request.FindBool("together").value_or(false);

  std::vector<size_t> next_step(prompts.size(), 0);
  std::vector<int64_t> position(prompts.size(), 0);
  for (bool more = true; more;) {
    more = false;
    batch.Clear();
    std::vector<size_t> owners;
    for (size_t p = 0; p < prompts.size() && (together || batch.sequences() == 0); ++p) {
      Prompt& prompt = prompts[p];
      if (next_step[p] == prompt.steps.size()) {
        continue;
      }
      const int64_t count = prompt.steps[next_step[p]++];
      const std::span<const int32_t> all(prompt.tokens);
      batch.AddSequence(all.subspan(position[p], count), position[p], prompt.blocks,
                        static_cast<int64_t>(prompt.tokens.size()));
      owners.push_back(p);
      more = true;
    }
    if (!more) {
      break;
    }
    batch.AddAllLogitRows();
    batch.SetPlan(&plan);
    std::vector<float> logits(batch.rows() * vocabulary);
    decoder.Forward({.threads = &threads}, batch, cache,
                    {logits.data(), DType::kF32, {batch.rows(), vocabulary}});
    const float* from = logits.data();
    for (size_t i = 0; i < owners.size(); ++i) {
      const int64_t count = batch.query_start()[i + 1] - batch.query_start()[i];
      std::copy(from, from + count * vocabulary,
                prompts[owners[i]].logits.begin() + position[owners[i]] * vocabulary);
      from += count * vocabulary;
      position[owners[i]] += count;
    }
  }

  std::vector<TensorSpec> specs;
  for (size_t p = 0; p < prompts.size(); ++p) {
    specs.push_back(
        {StrCat(p), DType::kF32, {static_cast<int64_t>(prompts[p].tokens.size()), vocabulary}});
  }
  std::map<std::string, NamedWeight> weights;
  if (request.FindBool("weights").value_or(false)) {
    weights = LayerWeightsByTensor(model);
  }
  for (const auto& [name, weight] : weights) {
    specs.push_back({name, DType::kF32, weight.shape});
  }
  SafetensorsFileWriter writer(out_path, specs);
  for (size_t p = 0; p < prompts.size(); ++p) {
    writer.Write(StrCat(p), {prompts[p].logits.data(), DType::kF32, specs[p].shape});
  }
  for (const auto& [name, weight] : weights) {
    writer.Write(name, {weight.values.data(), DType::kF32, weight.shape});
  }
  writer.Commit();
}

}  // namespace
}  // namespace dualfp

int main(int argc, char** argv) {
  if (argc != 4) {
    std::fprintf(stderr, "usage: model_logits MODEL REQUEST.json OUT.safetensors\n");
    return 2;
  }
  try {
    dualfp::Main(argv[1], argv[2], argv[3]);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "model_logits: %s\n", error.what());
    return 1;
  }
  return 0;
}
