// dualfp inspect: what a checkpoint becomes when it is loaded.

#include <fmt/core.h>
#include <sys/resource.h>

#include <memory>

#include "apps/arguments/model_arguments.h"
#include "apps/commands.h"
#include "apps/compare_report.h"
#include "apps/progress_bar.h"
#include "dualfp/io/file.h"
#include "dualfp/io/hub_cache.h"
#include "dualfp/io/json.h"
#include "dualfp/model/decoder.h"
#include "dualfp/model/rope_frequencies.h"

namespace dualfp {
namespace {

struct InspectArguments {
  ModelOptions model;
  std::string reference;  // of a comparison; empty: none
  std::string plot;
  bool json = false;
};

int64_t PeakMemoryBytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return usage.ru_maxrss * int64_t{1024};
}

// "plain BF16", "nested12", "fp8_per_block, input per-group".
std::string FormatName(const LinearReport& linear) {
  if (linear.scheme == kPlainWeights) {
    return fmt::format("plain {}", DTypeName(linear.stored_dtype));
  }
  const std::string name(WeightSchemeName(linear.scheme));
  return GetQuantFormatInfo(linear.scheme.format).codec.bits == 0
             ? name
             : fmt::format("{}, input {}", name, ActivationQuantName(linear.activation_quant));
}

// Of LinearReport::outliers, what is stored apart: a layer that stays plain holds all in place.
struct KeptApart {
  explicit KeptApart(const LinearReport& linear) {
    if (linear.scheme.format == QuantFormat::kNested12) {
      remainders = linear.outliers;
    } else if (linear.scheme != kPlainWeights) {
      outliers = linear.outliers;
    }
  }

  int64_t outliers = 0;
  int64_t remainders = 0;
};

struct Totals {
  int64_t parameters = 0;
  int64_t bytes = 0;
  int64_t outliers = 0;
  int64_t remainders = 0;
  int64_t rounded = 0;
  double largest_relative_rounding = 0;
};

Totals Sum(const LoadReport& report) {
  Totals totals;
  for (const LinearReport& linear : report.linears) {
    totals.parameters += linear.n * linear.k;
    totals.bytes += linear.num_bytes;
    const KeptApart apart(linear);
    totals.outliers += apart.outliers;
    totals.remainders += apart.remainders;
    totals.rounded += linear.rounded;
    totals.largest_relative_rounding =
        std::max(totals.largest_relative_rounding, linear.largest_relative_rounding);
  }
  return totals;
}

// Planes, scales, outliers and remainders of all linear layers and tables.
double StoredBits(const Totals& totals) {
  return 8.0 * static_cast<double>(totals.bytes) / static_cast<double>(totals.parameters);
}

void PrintTable(const Model& model) {
  size_t width = 5;
  size_t format_width = 11;
  for (const LinearReport& linear : model.report.linears) {
    width = std::max(width, linear.name.size());
    format_width = std::max(format_width, FormatName(linear).size());
  }
  fmt::print("{:<{}}  {:>15}  {:>7}  {:<{}}  {:>9}  {:>9}  {:>9}\n", "layer", width, "shape",
             "from", "format", format_width, "apart", "rounded", "size");
  for (const LinearReport& linear : model.report.linears) {
    const KeptApart apart(linear);
    fmt::print("{:<{}}  {:>15}  {:>7}  {:<{}}  {:>9}  {:>9}  {:>9}\n", linear.name, width,
               fmt::format("{} x {}", linear.n, linear.k), DTypeName(linear.source_dtype),
               FormatName(linear), format_width, apart.outliers + apart.remainders, linear.rounded,
               HumanBytes(linear.num_bytes));
    if (!linear.exception.empty()) {
      fmt::print("  exception: {}\n", linear.exception);
    }
  }
}

void PrintText(const InspectArguments& arguments, const Model& model, const Decoder& decoder) {
  const ModelConfig& config = model.config;
  const LoadReport& report = model.report;
  const Totals totals = Sum(report);
  const auto plan = [&](Precision precision) {
    return PrecisionPlan::Uniform(config.num_hidden_layers, precision);
  };
  fmt::print("{}: {}, {:.4g} M parameters\n", arguments.model.model,
             ArchitectureName(config.architecture), static_cast<double>(totals.parameters) / 1e6);
  fmt::print(
      "  {} layers, hidden {}, intermediate {}, {} heads ({} kv) of {}, vocabulary {}{}, RoPE {}, "
      "context {}\n\n",
      config.num_hidden_layers, config.hidden_size, config.intermediate_size,
      config.num_attention_heads, config.num_key_value_heads, config.head_dim, config.vocab_size,
      config.tie_word_embeddings ? " (tied)" : "", RopeTypeName(config.rope.type),
      MaxContextLength(config));
  PrintTable(model);
  fmt::print(
      "\neligible for fp8: {} of {} linear layers; kept apart and exact: {} outliers, {} "
      "remainders; "
      "{:.4g} bits a weight\n",
      report.Fp8LayerLinears(), report.LayerLinears(), totals.outliers, totals.remainders,
      StoredBits(totals));
  if (totals.rounded > 0) {
    fmt::print("rounded to FP16 or BF16: {} weights, by at most {:.2g} of their value\n",
               totals.rounded, totals.largest_relative_rounding);
  }
  fmt::print("weights read a token: {} exact, {} at fp8\n",
             HumanBytes(decoder.CostOf(plan(Precision::kExact)).weight_bytes),
             HumanBytes(decoder.CostOf(plan(Precision::kFp8)).weight_bytes));
  fmt::print("memory: {} of weights, {} at most while loading; {} of FP16 KV cache a token\n",
             HumanBytes(report.weight_bytes), HumanBytes(PeakMemoryBytes()),
             HumanBytes(model.KvCacheFor(DType::kF16, 1).BytesPerBlock() / kKvBlockSize));
}

void PrintJson(const InspectArguments& arguments, const Model& model, const Decoder& decoder) {
  const ModelConfig& config = model.config;
  const LoadReport& report = model.report;
  const Totals totals = Sum(report);
  Json json;
  json["model"] = arguments.model.model;
  json["architecture"] = ArchitectureName(config.architecture);
  json["parameters"] = totals.parameters;
  json["num_hidden_layers"] = config.num_hidden_layers;
  json["hidden_size"] = config.hidden_size;
  json["vocab_size"] = config.vocab_size;
  json["tie_word_embeddings"] = config.tie_word_embeddings;
  json["context_length"] = MaxContextLength(config);
  json["linear_layers"] = report.LayerLinears();
  json["nested_linear_layers"] = report.NestedLayerLinears();
  json["outliers"] = totals.outliers;
  json["remainders"] = totals.remainders;
  json["bits_per_weight"] = StoredBits(totals);
  json["rounded"] = totals.rounded;
  json["largest_relative_rounding"] = totals.largest_relative_rounding;
  json["checkpoint_bytes"] = report.checkpoint_bytes;
  json["weight_bytes"] = report.weight_bytes;
  json["peak_memory_bytes"] = PeakMemoryBytes();
  json["load_seconds"] = report.seconds;
  json["kv_cache_bytes_per_token_fp16"] =
      model.KvCacheFor(DType::kF16, 1).BytesPerBlock() / kKvBlockSize;
  for (const Precision precision : {Precision::kExact, Precision::kFp8}) {
    json["weight_bytes_per_token"][std::string(PrecisionName(precision))] =
        decoder.CostOf(PrecisionPlan::Uniform(config.num_hidden_layers, precision)).weight_bytes;
  }
  json["unused_tensors"] = report.unused;
  json["linears"] = Json::array();
  for (const LinearReport& linear : report.linears) {
    const KeptApart apart(linear);
    json["linears"].push_back({{"name", linear.name},
                               {"tensors", linear.tensors},
                               {"shape", {linear.n, linear.k}},
                               {"source_dtype", DTypeName(linear.source_dtype)},
                               {"format", GetQuantFormatInfo(linear.scheme.format).name},
                               {"scheme", WeightSchemeName(linear.scheme)},
                               {"scales", ScaleGranularityName(linear.scale_granularity)},
                               {"activations", ActivationQuantName(linear.activation_quant)},
                               {"dtype", DTypeName(linear.stored_dtype)},
                               {"bytes", linear.num_bytes},
                               {"outliers", apart.outliers},
                               {"remainders", apart.remainders},
                               {"rounded", linear.rounded},
                               {"largest_relative_rounding", linear.largest_relative_rounding},
                               {"exception", linear.exception}});
  }
  fmt::print("{}\n", json.dump(2));
}

void Compare(const InspectArguments& arguments) {
  ThreadPool threads(arguments.model.threads);
  Comparison comparison;
  {
    ProgressBar bar("compare");
    comparison =
        CompareCheckpoints(FindModelDirectory(arguments.reference), arguments.model.model, threads,
                           [&bar](int64_t done, int64_t total) { bar.Update(done, total); });
  }
  if (!arguments.plot.empty()) {
    WriteFileAtomically(arguments.plot, DrawComparison(comparison));
  }
  if (arguments.json) {
    fmt::print("{}\n", ComparisonJson(comparison).dump(2));
  } else {
    PrintComparison(comparison);
  }
}

void Run(InspectArguments& arguments) {
  arguments.model.model = FindModelDirectory(arguments.model.model).string();
  if (!arguments.reference.empty()) {
    Compare(arguments);
    return;
  }
  const ModelConfig config = LoadModelConfig(arguments.model.model);
  ThreadPool threads(arguments.model.threads);
  const Model model = LoadModelWithProgress(arguments.model, config, threads);
  const Decoder decoder(model, {.limits = {.max_tokens = 1}});
  if (arguments.json) {
    PrintJson(arguments, model, decoder);
  } else {
    PrintText(arguments, model, decoder);
  }
}

}  // namespace

void AddInspectCommand(CLI::App& app) {
  auto arguments = std::make_shared<InspectArguments>();
  CLI::App* command =
      app.add_subcommand("inspect", "Show a model's layers, formats, outliers and memory");
  command->footer(
      "Example: dualfp inspect models/reference --json\n"
      "         dualfp inspect --compare models/reference /tmp/reference-FP8");
  AddModelOptions(*command, arguments->model);
  command->add_flag("--json", arguments->json, "One JSON object instead of the table")
      ->group("Output");
  CLI::Option* compare = command
                             ->add_option("--compare", arguments->reference,
                                          "How far MODEL is from checkpoint A, worst tensor first")
                             ->option_text("A")
                             ->group("Comparison");
  command->add_option("--plot", arguments->plot, "The largest relative errors as a chart")
      ->needs(compare)
      ->option_text("FILE.svg")
      ->group("Comparison");
  command->callback([arguments] { Run(*arguments); });
}

}  // namespace dualfp
