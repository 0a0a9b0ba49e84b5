#include "dualfp/model/weights.h"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <initializer_list>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/kernels/attention.h"
#include "dualfp/model/load_linear.h"

namespace dualfp {
namespace {

constexpr const char* kEmbedding = "model.embed_tokens";
constexpr const char* kEmbeddingWeight = "model.embed_tokens.weight";
constexpr const char* kHead = "lm_head";
constexpr const char* kHeadWeight = "lm_head.weight";

// Reads vectors and linear layers from one source into a Model.
class Loader {
 public:
  Loader(const ModelConfig& config, WeightSource& source, const LoadOptions& options,
         ThreadPool& threads)
      : config_(config),
        source_(source),
        options_(options),
        threads_(threads),
        linears_(source, options, threads) {}

  Model Load();

 private:
  // Rows of each shard and part.
  struct PartShape {
    std::string tensor;
    int64_t rows;  // of all shards
    int64_t dest_begin;
    int64_t dest_step = 1;
  };

  Linear MakeLinear(const std::string& name, int64_t n, int64_t k) const;
  // Parts that are split over shards by rows; `fused` is the name of the tensor that holds them
  // one below the other in some checkpoints.
  void AddRowParts(Linear& linear, const std::string& fused,
                   std::initializer_list<PartShape> shapes) const;
  // The whole tensor, split over shards by columns.
  void AddColumnPart(Linear& linear) const;
  void LoadLinear(Linear& linear, const WeightScheme& scheme, bool bias);
  void LoadBias(Linear& linear);
  void LoadLayer(int64_t index, LayerWeights& layer);
  bool IsTied();
  bool SameTables();
  void LoadEmbedding();
  void LoadHead();
  void ReportUnused();
  ConstTensorView LoadVector(const std::string& name, int64_t size);
  TensorView NewVector(int64_t size);
  void ReadFloats(const std::string& name, int64_t size, float* values);
  // Of this shard's kv heads; empty where the checkpoint has none under these names.
  std::vector<float> LoadKvScales(const std::string& prefix,
                                  std::initializer_list<const char*> names);
  void Report(int64_t bytes);

  const ModelConfig& config_;
  WeightSource& source_;
  const LoadOptions& options_;
  ThreadPool& threads_;
  LinearLoader linears_;
  Model model_;
  bool tied_ = false;
  int64_t done_bytes_ = 0;
  int64_t total_bytes_ = 0;
};

int64_t ParameterCount(const ModelConfig& config) {
  const int64_t qkv_rows =
      (config.num_attention_heads + 2 * config.num_key_value_heads) * config.head_dim;
  const int64_t layer =
      config.hidden_size *
      (qkv_rows + config.num_attention_heads * config.head_dim + 3 * config.intermediate_size);
  const int64_t table = config.vocab_size * config.hidden_size;
  return config.num_hidden_layers * layer + table * (config.tie_word_embeddings ? 1 : 2);
}

Linear Loader::MakeLinear(const std::string& name, int64_t n, int64_t k) const {
  Linear linear;
  linear.name = name;
  linear.weight.n = n;
  linear.weight.k = k;
  linear.weight.shard = {0, n, 0, k};
  return linear;
}

void Loader::AddRowParts(Linear& linear, const std::string& fused,
                         std::initializer_list<PartShape> shapes) const {
  const ModelShard& shard = options_.shard;
  const bool is_fused = source_.Has(fused + ".weight");
  int64_t all_rows = 0;
  for (const PartShape& shape : shapes) {
    all_rows += shape.rows;
  }
  int64_t fused_begin = 0;
  for (const PartShape& shape : shapes) {
    const int64_t rows = shape.rows / shard.size;
    linear.parts.push_back({
        .tensor = is_fused ? fused : shape.tensor,
        .tensor_rows = is_fused ? all_rows : shape.rows,
        .tensor_columns = linear.weight.k,
        .row_begin = (is_fused ? fused_begin : 0) + shard.rank * rows,
        .rows = rows,
        .column_begin = 0,
        .columns = linear.weight.k,
        .dest_begin = shape.dest_begin,
        .dest_step = shape.dest_step,
    });
    fused_begin += shape.rows;
  }
  const int64_t n = linear.weight.n;
  linear.weight.shard = {shard.rank * n, (shard.rank + 1) * n, 0, linear.weight.k};
}

void Loader::AddColumnPart(Linear& linear) const {
  const ModelShard& shard = options_.shard;
  const int64_t k = linear.weight.k;
  linear.parts.push_back({
      .tensor = linear.name,
      .tensor_rows = linear.weight.n,
      .tensor_columns = k * shard.size,
      .rows = linear.weight.n,
      .column_begin = shard.rank * k,
      .columns = k,
  });
  linear.weight.shard = {0, linear.weight.n, shard.rank * k, (shard.rank + 1) * k};
}

void Loader::LoadLinear(Linear& linear, const WeightScheme& scheme, bool bias) {
  LinearReport report = linears_.Load(linear, scheme);
  if (bias) {
    LoadBias(linear);
  }
  model_.report.weight_bytes += report.num_bytes;
  const int64_t bytes = report.n * report.k * DTypeSize(report.source_dtype);
  model_.report.linears.push_back(std::move(report));
  Report(bytes * options_.shard.size);
}

void Loader::LoadBias(Linear& linear) {
  const TensorView bias = NewVector(linear.weight.n);
  linear.bias = bias;
  // A bias of an output that several shards sum up is added by the first.
  const bool row_split = linear.parts.front().columns == linear.parts.front().tensor_columns;
  if (!row_split && options_.shard.rank != 0) {
    return;
  }
  for (const LinearPart& part : linear.parts) {
    std::vector<float> values(part.tensor_rows);
    ReadFloats(part.tensor + ".bias", part.tensor_rows, values.data());
    for (int64_t i = 0; i < part.rows; ++i) {
      bias.as<float>()[part.dest_begin + i * part.dest_step] = values[part.row_begin + i];
    }
  }
}

TensorView Loader::NewVector(int64_t size) {
  model_.vectors.push_back(Buffer::AllocateCpu(size * sizeof(float)));
  model_.report.weight_bytes += size * static_cast<int64_t>(sizeof(float));
  return model_.vectors.back().View(DType::kF32, {size});
}

void Loader::ReadFloats(const std::string& name, int64_t size, float* values) {
  const auto rows = source_.Open(name, {size});
  std::vector<char> scratch(rows->row_bytes());
  const void* row = rows->Row(0, scratch.data());
  for (int64_t i = 0; i < size; ++i) {
    values[i] = LoadFloat(row, rows->dtype(), i);
    Check(std::isfinite(values[i]), ErrorCode::kInvalidFile, "tensor ", name,
          " has a NaN or infinity at element ", i);
  }
}

ConstTensorView Loader::LoadVector(const std::string& name, int64_t size) {
  const TensorView vector = NewVector(size);
  ReadFloats(name, size, vector.as<float>());
  return vector;
}

std::vector<float> Loader::LoadKvScales(const std::string& prefix,
                                        std::initializer_list<const char*> names) {
  for (const char* name : names) {
    std::optional<std::vector<float>> scales = source_.FindScales(prefix + name);
    if (!scales.has_value()) {
      continue;
    }
    const auto count = static_cast<int64_t>(scales->size());
    Check(count == 1 || count == config_.num_key_value_heads, ErrorCode::kInvalidFile, "tensor ",
          prefix, name, " has ", count, " scales, expected 1 or one for each of ",
          config_.num_key_value_heads, " kv heads");
    for (const float scale : *scales) {
      Check(std::isfinite(scale) && scale > 0, ErrorCode::kInvalidFile, "tensor ", prefix, name,
            " is ", scale, ", expected a positive scale");
    }
    if (count > 1) {
      const auto first = scales->begin() + options_.shard.rank * model_.kv_heads();
      return {first, first + model_.kv_heads()};
    }
    return *std::move(scales);
  }
  return {};
}

void Loader::Report(int64_t bytes) {
  done_bytes_ += bytes;
  if (options_.progress) {
    options_.progress(std::min(done_bytes_, total_bytes_), total_bytes_);
  }
}

void Loader::LoadLayer(int64_t index, LayerWeights& layer) {
  const ModelConfig& config = config_;
  const std::string prefix = StrCat("model.layers.", index, ".");
  const std::string attention = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  const int64_t hidden = config.hidden_size;
  const int64_t dim = config.head_dim;
  const int64_t q_rows = model_.heads() * dim;
  const int64_t kv_rows = model_.kv_heads() * dim;
  const int64_t all_q = config.num_attention_heads * dim;
  const int64_t all_kv = config.num_key_value_heads * dim;
  const int64_t intermediate = model_.intermediate();

  layer.input_norm = LoadVector(prefix + "input_layernorm.weight", hidden);
  layer.post_attention_norm = LoadVector(prefix + "post_attention_layernorm.weight", hidden);
  if (config.qk_norm) {
    layer.q_norm = LoadVector(attention + "q_norm.weight", dim);
    layer.k_norm = LoadVector(attention + "k_norm.weight", dim);
  }
  layer.qkv = MakeLinear(attention + "qkv_proj", q_rows + 2 * kv_rows, hidden);
  AddRowParts(layer.qkv, attention + "qkv_proj",
              {{attention + "q_proj", all_q, 0},
               {attention + "k_proj", all_kv, q_rows},
               {attention + "v_proj", all_kv, q_rows + kv_rows}});
  LoadLinear(layer.qkv, linears_.LayerScheme(layer.qkv), config.qkv_bias);
  layer.o = MakeLinear(attention + "o_proj", hidden, q_rows);
  AddColumnPart(layer.o);
  LoadLinear(layer.o, linears_.LayerScheme(layer.o), config.o_bias);
  layer.gate_up = MakeLinear(mlp + "gate_up_proj", 2 * intermediate, hidden);
  AddRowParts(layer.gate_up, mlp + "gate_up_proj",
              {{mlp + "gate_proj", config.intermediate_size, 0, 2},
               {mlp + "up_proj", config.intermediate_size, 1, 2}});
  LoadLinear(layer.gate_up, linears_.LayerScheme(layer.gate_up), config.mlp_bias);
  layer.down = MakeLinear(mlp + "down_proj", hidden, intermediate);
  AddColumnPart(layer.down);
  LoadLinear(layer.down, linears_.LayerScheme(layer.down), config.mlp_bias);

  // The names of vLLM, older files, ModelOpt and compressed-tensors (formats.md).
  layer.kv_scales.key =
      LoadKvScales(attention, {"k_scale", "attn.k_scale", "k_proj.k_scale", "k_proj.output_scale",
                               "qkv_proj.k_scale", "k_cache.scale", "kv_scale"});
  layer.kv_scales.value =
      LoadKvScales(attention, {"v_scale", "attn.v_scale", "v_proj.v_scale", "v_proj.output_scale",
                               "qkv_proj.v_scale", "v_cache.scale", "kv_scale"});
}

// Of the two tables, value by value.
bool Loader::SameTables() {
  const std::vector<int64_t> shape = {config_.vocab_size, config_.hidden_size};
  const auto a = source_.Open(kEmbeddingWeight, shape);
  const auto b = source_.Open(kHeadWeight, shape);
  std::atomic<bool> same = true;
  threads_.ParallelFor(config_.vocab_size, 256, [&](int64_t begin, int64_t end, int) {
    std::vector<char> scratch_a(a->row_bytes());
    std::vector<char> scratch_b(b->row_bytes());
    for (int64_t row = begin; row < end && same; ++row) {
      const void* row_a = a->Row(row, scratch_a.data());
      const void* row_b = b->Row(row, scratch_b.data());
      for (int64_t i = 0; i < config_.hidden_size; ++i) {
        if (LoadFloat(row_a, a->dtype(), i) != LoadFloat(row_b, b->dtype(), i)) {
          same = false;
          break;
        }
      }
    }
  });
  return same;
}

// A tied table may be saved under either name, or under both; two that differ are two tables, as in
// transformers.
bool Loader::IsTied() {
  if (!config_.tie_word_embeddings || !source_.Has(kEmbeddingWeight) || !source_.Has(kHeadWeight)) {
    return config_.tie_word_embeddings;
  }
  if (SameTables()) {
    return true;
  }
  LogWarning(StrCat("config.json ties ", kHead, " to ", kEmbedding,
                    ", but the checkpoint has both and they differ: both are used"));
  return false;
}

void Loader::LoadEmbedding() {
  model_.embedding = MakeLinear(kEmbedding, config_.vocab_size, config_.hidden_size);
  const bool under_head = tied_ && !source_.Has(kEmbeddingWeight) && source_.Has(kHeadWeight);
  model_.embedding.parts.push_back({.tensor = under_head ? kHead : kEmbedding,
                                    .tensor_rows = config_.vocab_size,
                                    .tensor_columns = config_.hidden_size,
                                    .rows = config_.vocab_size,
                                    .columns = config_.hidden_size});
  LoadLinear(model_.embedding, tied_ ? linears_.HeadScheme(model_.embedding) : kPlainWeights,
             false);
}

void Loader::ReportUnused() {
  constexpr size_t kNamed = 5;
  model_.report.unused = source_.Unused();
  const std::vector<std::string>& unused = model_.report.unused;
  if (unused.empty()) {
    return;
  }
  std::string names;
  for (size_t i = 0; i < std::min(kNamed, unused.size()); ++i) {
    names += StrCat(i == 0 ? "" : ", ", unused[i]);
  }
  if (unused.size() > kNamed) {
    names += StrCat(" and ", unused.size() - kNamed, " more");
  }
  LogWarning(
      StrCat("not used, as the model that config.json describes has no place for them: ", names));
}

void Loader::LoadHead() {
  const int64_t vocabulary = config_.vocab_size / options_.shard.size;
  if (tied_ && options_.shard.size > 1) {
    Fail(ErrorCode::kUnsupported, "a tied lm_head cannot be split over ", options_.shard.size,
         " shards");
  }
  if (tied_) {
    model_.lm_head.name = "lm_head";
    model_.lm_head.weight = model_.embedding.weight;
    return;
  }
  model_.lm_head = MakeLinear("lm_head", vocabulary, config_.hidden_size);
  AddRowParts(model_.lm_head, "lm_head", {{"lm_head", config_.vocab_size, 0}});
  LoadLinear(model_.lm_head, linears_.HeadScheme(model_.lm_head), false);
}

Model Loader::Load() {
  const auto start = std::chrono::steady_clock::now();
  const int size = options_.shard.size;
  Check(size >= 1 && 0 <= options_.shard.rank && options_.shard.rank < size &&
            config_.num_key_value_heads % size == 0 && config_.intermediate_size % size == 0 &&
            config_.vocab_size % size == 0,
        ErrorCode::kInvalidArgument, "cannot split ", config_.num_key_value_heads, " kv heads, ",
        config_.intermediate_size, " intermediate rows and ", config_.vocab_size,
        " vocabulary rows over ", size, " shards");
  tied_ = IsTied();
  const WeightScheme scheme = options_.scheme.value_or(kNestedWeights);
  Check(!options_.nest_lm_head || !tied_ || GetQuantFormatInfo(scheme.format).codec.bits == 0,
        ErrorCode::kUnsupported, "lm_head shares the embedding table, which cannot be held as ",
        WeightSchemeName(scheme), "; nest it instead");
  Check(config_.head_dim <= kMaxHeadDim, ErrorCode::kUnsupported, "head_dim ", config_.head_dim,
        ", expected at most ", kMaxHeadDim);
  model_.config = config_;
  model_.config.tie_word_embeddings = tied_;
  model_.shard = options_.shard;
  model_.fp8_lm_head = options_.nest_lm_head;
  model_.report.checkpoint_bytes = source_.total_bytes();
  total_bytes_ = source_.total_bytes() > 0 ? source_.total_bytes() : 2 * ParameterCount(config_);
  Report(0);

  LoadEmbedding();
  model_.layers.resize(config_.num_hidden_layers);
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    LoadLayer(i, model_.layers[i]);
  }
  model_.final_norm = LoadVector("model.norm.weight", config_.hidden_size);
  LoadHead();
  ReportUnused();
  Report(total_bytes_ - done_bytes_);
  model_.report.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::move(model_);
}

}  // namespace

Model LoadModel(const ModelConfig& config, WeightSource& source, const LoadOptions& options,
                ThreadPool& threads) {
  return Loader(config, source, options, threads).Load();
}

Model LoadModel(const std::filesystem::path& directory, const LoadOptions& options,
                ThreadPool& threads) {
  const ModelConfig config = LoadModelConfig(directory);
  CheckpointSource source(Checkpoint::Open(directory),
                          QuantizationConfig::Parse(config.quantization_config, "config.json"));
  return LoadModel(config, source, options, threads);
}

}  // namespace dualfp
