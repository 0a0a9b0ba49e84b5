#include "dualfp/model/weights.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <initializer_list>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/kernels/attention.h"
#include "dualfp/model/fill_linear.h"
#include "dualfp/numeric/bf16.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {
namespace {

// Reads vectors and linear layers from one source into a Model.
class Loader {
 public:
  Loader(const ModelConfig& config, WeightSource& source, const LoadOptions& options,
         ThreadPool& threads)
      : config_(config),
        source_(source),
        options_(options),
        scheme_(options.scheme.value_or(kNestedWeights)),
        threads_(threads) {}

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
  void LoadLinear(Linear& linear, bool quantize, bool bias);
  NestReport FillAll(Linear& linear, QuantFormat format, DType dtype, int64_t max_outliers);
  void LoadBias(Linear& linear);
  void LoadLayer(int64_t index, LayerWeights& layer);
  void LoadHead();
  ConstTensorView LoadVector(const std::string& name, int64_t size);
  TensorView NewVector(int64_t size);
  void ReadFloats(const std::string& name, int64_t size, float* values);
  float LoadScale(const std::string& prefix, std::initializer_list<const char*> names);
  void Report(int64_t bytes);

  const ModelConfig& config_;
  WeightSource& source_;
  const LoadOptions& options_;
  const WeightScheme scheme_;
  ThreadPool& threads_;
  Model model_;
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

NestReport Loader::FillAll(Linear& linear, QuantFormat format, DType dtype, int64_t max_outliers) {
  AllocateLinear(linear, format, dtype);
  NestReport total;
  for (const LinearPart& part : linear.parts) {
    const auto rows =
        source_.Open(part.tensor + ".weight", {part.tensor_rows, part.tensor_columns});
    if (format == QuantFormat::kPlain && rows->dtype() != dtype) {
      Fail(ErrorCode::kUnsupported, "tensor ", part.tensor, ".weight has dtype ",
           DTypeName(rows->dtype()), " but ", linear.parts.front().tensor, ".weight has ",
           DTypeName(dtype), "; parts of one layer must agree unless they are nested");
    }
    const NestReport report =
        FillPart(linear, part, *rows, max_outliers, ErrorCode::kInvalidFile, threads_);
    total.outliers += report.outliers;
    total.rounded += report.rounded;
    total.largest_relative_error =
        std::max(total.largest_relative_error, report.largest_relative_error);
  }
  return total;
}

void Loader::LoadLinear(Linear& linear, bool quantize, bool bias) {
  const WeightScheme scheme = quantize ? scheme_ : kPlainWeights;
  const bool nest = scheme == kNestedWeights;
  const LinearPart& first = linear.parts.front();
  const DType source_dtype =
      source_.Open(first.tensor + ".weight", {first.tensor_rows, first.tensor_columns})->dtype();
  const int64_t elements = linear.weight.n * linear.weight.k;
  LinearReport report{.name = linear.name,
                      .in_layer = linear.name.starts_with("model.layers."),
                      .n = linear.weight.n,
                      .k = linear.weight.k,
                      .source_dtype = source_dtype};
  for (const LinearPart& part : linear.parts) {
    if (report.tensors.empty() || report.tensors.back() != part.tensor + ".weight") {
      report.tensors.push_back(part.tensor + ".weight");
    }
  }
  if (nest) {
    const auto max_outliers =
        static_cast<int64_t>(options_.max_outlier_share * static_cast<double>(elements));
    const NestReport nested = FillAll(linear, QuantFormat::kNested, source_dtype, max_outliers);
    report.outliers = nested.outliers;
    if (nested.outliers > max_outliers) {
      report.exception =
          StrCat(nested.outliers, " of ", elements, " weights exceed 1.75, more than a share of ",
                 options_.max_outlier_share);
    } else {
      report.rounded = nested.rounded;
      report.largest_relative_rounding = nested.largest_relative_error;
    }
  }
  if (!nest || !report.exception.empty()) {
    FillAll(linear, QuantFormat::kPlain, source_dtype, 0);
  }
  if (!report.exception.empty()) {
    LogInfo(StrCat(linear.name, " stays plain and computes in FP16 only: ", report.exception));
  }
  FinishOutliers(linear);
  if (GetQuantFormatInfo(scheme.format).codec.bits > 0) {
    QuantizeLinear(linear, scheme.granularity, threads_);
  }
  if (bias) {
    LoadBias(linear);
  }
  report.format = linear.weight.format;
  report.stored_dtype = linear.weight.values.dtype;
  report.num_bytes = linear.weight.BytesRead(Precision::kFp16);
  model_.report.weight_bytes += report.num_bytes;
  model_.report.linears.push_back(std::move(report));
  Report(elements * DTypeSize(source_dtype) * options_.shard.size);
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
    switch (rows->dtype()) {
      case DType::kF16:
        values[i] = Fp16ToFloat(static_cast<const uint16_t*>(row)[i]);
        break;
      case DType::kBF16:
        values[i] = Bf16ToFloat(static_cast<const uint16_t*>(row)[i]);
        break;
      default:
        values[i] = static_cast<const float*>(row)[i];
    }
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
  LoadLinear(layer.qkv, true, config.qkv_bias);
  layer.o = MakeLinear(attention + "o_proj", hidden, q_rows);
  AddColumnPart(layer.o);
  LoadLinear(layer.o, true, config.o_bias);
  layer.gate_up = MakeLinear(mlp + "gate_up_proj", 2 * intermediate, hidden);
  AddRowParts(layer.gate_up, mlp + "gate_up_proj",
              {{mlp + "gate_proj", config.intermediate_size, 0, 2},
               {mlp + "up_proj", config.intermediate_size, 1, 2}});
  LoadLinear(layer.gate_up, true, config.mlp_bias);
  layer.down = MakeLinear(mlp + "down_proj", hidden, intermediate);
  AddColumnPart(layer.down);
  LoadLinear(layer.down, true, config.mlp_bias);

  // The names of vLLM, older files, ModelOpt and compressed-tensors (formats.md).
  layer.kv_scales.key = LoadScale(
      attention, {"k_scale", "attn.k_scale", "k_proj.k_scale", "k_proj.output_scale", "kv_scale"});
  layer.kv_scales.value = LoadScale(
      attention, {"v_scale", "attn.v_scale", "v_proj.v_scale", "v_proj.output_scale", "kv_scale"});
}

void Loader::LoadHead() {
  const bool tied = config_.tie_word_embeddings;
  const int64_t vocabulary = config_.vocab_size / options_.shard.size;
  if (tied && options_.shard.size > 1) {
    Fail(ErrorCode::kUnsupported, "a tied lm_head cannot be split over ", options_.shard.size,
         " shards");
  }
  if (tied) {
    // Some checkpoints write the shared table twice.
    source_.Skip("lm_head.weight");
    model_.lm_head.name = "lm_head";
    model_.lm_head.weight = model_.embedding.weight;
    return;
  }
  model_.lm_head = MakeLinear("lm_head", vocabulary, config_.hidden_size);
  AddRowParts(model_.lm_head, "lm_head", {{"lm_head", config_.vocab_size, 0}});
  LoadLinear(model_.lm_head, options_.nest_lm_head, false);
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
  Check(!options_.nest_lm_head || !config_.tie_word_embeddings ||
            GetQuantFormatInfo(scheme_.format).codec.bits == 0,
        ErrorCode::kUnsupported, "lm_head shares the embedding table, which cannot be held as ",
        WeightSchemeName(scheme_), "; nest it instead");
  Check(config_.head_dim <= kMaxHeadDim, ErrorCode::kUnsupported, "head_dim ", config_.head_dim,
        ", expected at most ", kMaxHeadDim);
  if (!config_.quantization_config.is_null()) {
    const JsonFields fields(config_.quantization_config, "config.json", "quantization_config");
    Fail(ErrorCode::kUnsupported, "config.json: quantization_config: this checkpoint is quantized",
         " (quant_method ", QuoteForMessage(fields.FindString("quant_method").value_or("")),
         "), expected an F32, F16 or BF16 one");
  }
  model_.config = config_;
  model_.shard = options_.shard;
  model_.report.checkpoint_bytes = source_.total_bytes();
  total_bytes_ = source_.total_bytes() > 0 ? source_.total_bytes() : 2 * ParameterCount(config_);
  Report(0);

  model_.embedding = MakeLinear("model.embed_tokens", config_.vocab_size, config_.hidden_size);
  model_.embedding.parts.push_back({.tensor = "model.embed_tokens",
                                    .tensor_rows = config_.vocab_size,
                                    .tensor_columns = config_.hidden_size,
                                    .rows = config_.vocab_size,
                                    .columns = config_.hidden_size});
  LoadLinear(model_.embedding, options_.nest_lm_head && config_.tie_word_embeddings, false);
  model_.layers.resize(config_.num_hidden_layers);
  for (int64_t i = 0; i < config_.num_hidden_layers; ++i) {
    LoadLayer(i, model_.layers[i]);
  }
  model_.final_norm = LoadVector("model.norm.weight", config_.hidden_size);
  LoadHead();
  source_.CheckAllUsed();
  Report(total_bytes_ - done_bytes_);
  model_.report.seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return std::move(model_);
}

// A tensor that the caller holds in memory.
class MemoryRows : public TensorRows {
 public:
  explicit MemoryRows(const ConstTensorView& view)
      : TensorRows(view.dtype, view.shape[1]), view_(view) {}

  const void* Row(int64_t index, void*) const override {
    return static_cast<const char*>(view_.data) + index * view_.strides[0] * DTypeSize(dtype_);
  }

 private:
  ConstTensorView view_;
};

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

int64_t LoadReport::LayerLinears() const {
  return std::count_if(linears.begin(), linears.end(),
                       [](const LinearReport& linear) { return linear.in_layer; });
}

int64_t LoadReport::NestedLayerLinears() const {
  return std::count_if(linears.begin(), linears.end(), [](const LinearReport& linear) {
    return linear.in_layer && linear.format == QuantFormat::kNested;
  });
}

int64_t LoadReport::Fp8LayerLinears() const {
  return std::count_if(linears.begin(), linears.end(), [](const LinearReport& linear) {
    return linear.in_layer && Offers(GetQuantFormatInfo(linear.format), Precision::kFp8);
  });
}

KvCacheConfig Model::KvCacheFor(DType dtype, int64_t num_blocks) const {
  KvCacheConfig cache{.dtype = dtype,
                      .num_layers = config.num_hidden_layers,
                      .num_kv_heads = kv_heads(),
                      .head_dim = config.head_dim,
                      .num_blocks = num_blocks};
  for (const LayerWeights& layer : layers) {
    cache.scales.push_back(layer.kv_scales);
  }
  return cache;
}

void Model::Refill(const std::string& tensor, const ConstTensorView& values, ThreadPool& threads) {
  bool found = false;
  const auto refill = [&](Linear& linear) {
    bool touched = false;
    for (const LinearPart& part : linear.parts) {
      if (part.tensor + ".weight" != tensor) {
        continue;
      }
      touched = true;
      Check(values.rank == 2 && values.shape[0] == part.tensor_rows &&
                values.shape[1] == part.tensor_columns && values.strides[1] == 1,
            ErrorCode::kInvalidArgument, "refill of ", tensor, ": got ", Describe(values),
            ", expected [", part.tensor_rows, ", ", part.tensor_columns, "]");
      Check(linear.weight.format != QuantFormat::kFp8, ErrorCode::kUnsupported, "refill of ",
            tensor, ": it is held in FP8 alone; load it nested or plain");
      const bool nested = linear.weight.format == QuantFormat::kNested;
      Check(values.dtype == linear.weight.values.dtype ||
                (nested && (values.dtype == DType::kF32 || values.dtype == DType::kF16 ||
                            values.dtype == DType::kBF16)),
            ErrorCode::kInvalidArgument, "refill of ", tensor, ": got ", DTypeName(values.dtype),
            ", expected ", nested ? "F32, F16 or BF16" : DTypeName(linear.weight.values.dtype));
      RemoveOutliers(linear, part);
      FillPart(linear, part, MemoryRows(values), linear.weight.n * linear.weight.k,
               ErrorCode::kInvalidArgument, threads);
    }
    if (touched) {
      FinishOutliers(linear);
      found = true;
    }
  };
  refill(embedding);
  for (LayerWeights& layer : layers) {
    for (Linear* linear : layer.linears()) {
      refill(*linear);
    }
  }
  refill(lm_head);
  if (config.tie_word_embeddings) {
    lm_head.weight = embedding.weight;
  }
  Check(found, ErrorCode::kNotFound, "refill: no linear weight came from a tensor ", tensor);
}

}  // namespace dualfp
