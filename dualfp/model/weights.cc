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
#include "dualfp/model/fill_linear.h"

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
      : config_(config), source_(source), options_(options), threads_(threads) {}

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
  // The schemes that LoadOptions ask for, by the types of a linear's parts.
  WeightScheme LayerScheme(const Linear& linear);
  WeightScheme HeadScheme(const Linear& linear);
  bool IsBf16(const Linear& linear);
  void LoadLinear(Linear& linear, const WeightScheme& scheme, bool bias);
  std::unique_ptr<TensorRows> Open(const LinearPart& part);
  NestReport FillAll(Linear& linear, const WeightScheme& scheme, DType dtype, int64_t max_outliers);
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
  float LoadScale(const std::string& prefix, std::initializer_list<const char*> names);
  void Report(int64_t bytes);

  const ModelConfig& config_;
  WeightSource& source_;
  const LoadOptions& options_;
  ThreadPool& threads_;
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

// As the filler quantizes: every part begins its own blocks of scales.
RowParts MakeRowParts(const std::vector<LinearPart>& parts) {
  constexpr int64_t kBlock = 128;
  RowParts result;
  result.count = static_cast<int32_t>(parts.size());
  result.interleaved = parts.front().dest_step == 2 ? 1 : 0;
  int64_t base = 0;
  for (size_t i = 0; i < parts.size(); ++i) {
    if (result.interleaved == 0) {
      result.first_row[i] = static_cast<int32_t>(parts[i].dest_begin);
    }
    result.scale_base[i] = static_cast<int32_t>(base);
    base += (parts[i].rows + kBlock - 1) / kBlock * kBlock;
  }
  return result;
}

// Of quantized checkpoints the source reads one kind.
void CheckReadable(const ModelConfig& config) {
  if (config.quantization_config.is_null() || IsNested12Checkpoint(config.quantization_config)) {
    return;
  }
  const JsonFields fields(config.quantization_config, "config.json", "quantization_config");
  Fail(ErrorCode::kUnsupported, "config.json: quantization_config: this checkpoint is quantized",
       " (quant_method ", QuoteForMessage(fields.FindString("quant_method").value_or("")),
       ", format ", QuoteForMessage(fields.FindString("format").value_or("")),
       "), expected an F32, F16 or BF16 one, or \"dualfp\", \"nested12\", version 1");
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
  linear.weight.parts = MakeRowParts(linear.parts);
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

NestReport Loader::FillAll(Linear& linear, const WeightScheme& scheme, DType dtype,
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

bool Loader::IsBf16(const Linear& linear) {
  return std::all_of(linear.parts.begin(), linear.parts.end(), [this](const LinearPart& part) {
    return Open(part)->dtype() == DType::kBF16;
  });
}

WeightScheme Loader::LayerScheme(const Linear& linear) {
  if (options_.scheme.has_value()) {
    return *options_.scheme;
  }
  return IsBf16(linear) ? kNested12Weights : kNestedWeights;
}

WeightScheme Loader::HeadScheme(const Linear& linear) {
  if (options_.nest_lm_head) {
    return LayerScheme(linear);
  }
  const bool may = options_.scheme.value_or(kNested12Weights) == kNested12Weights;
  return may && IsBf16(linear) ? kNested12Weights : kPlainWeights;
}

void Loader::LoadLinear(Linear& linear, const WeightScheme& scheme, bool bias) {
  const int64_t elements = linear.weight.n * linear.weight.k;
  LinearReport report{.name = linear.name,
                      .in_layer = linear.name.starts_with("model.layers."),
                      .n = linear.weight.n,
                      .k = linear.weight.k,
                      .source_dtype = Open(linear.parts.front())->dtype()};
  // Parts of different types meet in F32, which holds the values of all.
  DType plain_dtype = report.source_dtype;
  for (const LinearPart& part : linear.parts) {
    if (report.tensors.empty() || report.tensors.back() != part.tensor + ".weight") {
      report.tensors.push_back(part.tensor + ".weight");
    }
    if (Open(part)->dtype() != plain_dtype) {
      plain_dtype = DType::kF32;
    }
  }
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
  if (bias) {
    LoadBias(linear);
  }
  report.scheme = linear.scheme;
  report.stored_dtype = linear.weight.values.dtype;
  report.num_bytes = linear.weight.BytesRead(Precision::kExact);
  model_.report.weight_bytes += report.num_bytes;
  const DType source_dtype = report.source_dtype;
  model_.report.linears.push_back(std::move(report));
  Report(elements * DTypeSize(source_dtype) * options_.shard.size);
}

std::unique_ptr<TensorRows> Loader::Open(const LinearPart& part) {
  return source_.Open(part.tensor + ".weight", {part.tensor_rows, part.tensor_columns});
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

float Loader::LoadScale(const std::string& prefix, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (const auto scale = source_.FindScalar(prefix + name)) {
      Check(std::isfinite(*scale) && *scale > 0, ErrorCode::kInvalidFile, "tensor ", prefix, name,
            " is ", *scale, ", expected a positive scale");
      return *scale;
    }
  }
  return 1.0f;
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
  LoadLinear(layer.qkv, LayerScheme(layer.qkv), config.qkv_bias);
  layer.o = MakeLinear(attention + "o_proj", hidden, q_rows);
  AddColumnPart(layer.o);
  LoadLinear(layer.o, LayerScheme(layer.o), config.o_bias);
  layer.gate_up = MakeLinear(mlp + "gate_up_proj", 2 * intermediate, hidden);
  AddRowParts(layer.gate_up, mlp + "gate_up_proj",
              {{mlp + "gate_proj", config.intermediate_size, 0, 2},
               {mlp + "up_proj", config.intermediate_size, 1, 2}});
  LoadLinear(layer.gate_up, LayerScheme(layer.gate_up), config.mlp_bias);
  layer.down = MakeLinear(mlp + "down_proj", hidden, intermediate);
  AddColumnPart(layer.down);
  LoadLinear(layer.down, LayerScheme(layer.down), config.mlp_bias);

  // The names of vLLM, older files, ModelOpt and compressed-tensors (formats.md).
  layer.kv_scales.key = LoadScale(
      attention, {"k_scale", "attn.k_scale", "k_proj.k_scale", "k_proj.output_scale", "kv_scale"});
  layer.kv_scales.value = LoadScale(
      attention, {"v_scale", "attn.v_scale", "v_proj.v_scale", "v_proj.output_scale", "kv_scale"});
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
  LoadLinear(model_.embedding, tied_ ? HeadScheme(model_.embedding) : kPlainWeights, false);
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
  LoadLinear(model_.lm_head, HeadScheme(model_.lm_head), false);
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
  CheckReadable(config_);
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
  CheckpointSource source(Checkpoint::Open(directory));
  return LoadModel(config, source, options, threads);
}

}  // namespace dualfp
