// dualfp eval: how well a model predicts a text, and what a lower precision costs it.
//
// Results go to stdout, as a table or with --json as one object; bars and notes go to stderr.

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "apps/arguments/model_arguments.h"
#include "apps/commands.h"
#include "apps/eval_report.h"
#include "apps/progress_bar.h"
#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/io/hub_cache.h"
#include "dualfp/io/json.h"
#include "dualfp/model/rope_frequencies.h"
#include "dualfp/quant/calibration/calibrate.h"
#include "dualfp/quant/evaluate.h"
#include "dualfp/text/tokenizer.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxTextBytes = int64_t{1} << 30;
// Without --context: the model's, but no more than this, since attention grows with it.
constexpr int64_t kDefaultContext = 2048;
// Percentile intervals from fewer groups are known to cover less than they say.
constexpr int64_t kFewWindows = 10;

struct EvalArguments {
  ModelOptions model;
  std::string text;
  int64_t context = 0;
  int64_t stride = 0;
  int64_t max_tokens = 0;
  std::string precision;
  std::string against;
  std::string against_model;
  std::string activations = "auto";
  bool weight_only = false;
  std::string calibration_text;
  int64_t calibration_tokens = 16384;
  std::string kv_cache_dtype = "auto";
  bool per_layer = false;
  std::string svg;
  uint64_t seed = 0;
  bool json = false;
};

// What is evaluated: all layers at the precision, one of them, or one kind of linear in all.
struct Candidate {
  std::string name;
  PrecisionPlan plan;
};

class Evaluation {
 public:
  explicit Evaluation(const EvalArguments& arguments)
      : arguments_(arguments), threads_(arguments.model.threads) {}

  void Run();

 private:
  void ReadText();
  std::vector<int32_t> Tokenize(const std::string& path) const;
  void Load();
  // Nothing: as each layer says.
  std::optional<ActivationQuant> ActivationScheme() const;
  void Calibrate();
  std::vector<Candidate> Candidates() const;
  EvalReport Report(const std::vector<Candidate>& candidates,
                    const std::vector<TokenScores>& scores) const;
  void PrintJson(const EvalReport& report) const;
  Json Describe() const;

  bool compares() const { return reference_precision_.has_value(); }

  const EvalArguments& arguments_;
  ThreadPool threads_;
  Context context_{.threads = &threads_};
  Precision precision_ = Precision::kExact;
  std::optional<Precision> reference_precision_;
  ModelConfig config_;
  std::optional<Tokenizer> tokenizer_;
  std::vector<int32_t> tokens_;
  int64_t num_bytes_ = 0;  // of the text that the tokens after the first spell
  std::vector<EvaluationWindow> windows_;
  int64_t scored_ = 0;
  std::optional<GroupBootstrap> bootstrap_;
  std::optional<Model> model_;
  std::optional<Model> reference_model_;  // only where it is another one
  std::optional<Decoder> decoder_;
  std::optional<Decoder> reference_decoder_;
};

std::vector<int32_t> Evaluation::Tokenize(const std::string& path) const {
  std::vector<int32_t> tokens = tokenizer_->Encode(ReadFile(path, kMaxTextBytes));
  CheckTokens(tokens, config_, path);
  return tokens;
}

void Evaluation::ReadText() {
  tokenizer_.emplace(Tokenizer::FromDirectory(arguments_.model.model));
  tokens_ = Tokenize(arguments_.text);
  if (arguments_.max_tokens > 0 && static_cast<int64_t>(tokens_.size()) > arguments_.max_tokens) {
    tokens_.resize(arguments_.max_tokens);
  }
  const int64_t longest = MaxContextLength(config_);
  Check(arguments_.context <= longest, ErrorCode::kInvalidArgument, "--context ",
        arguments_.context, " exceeds the model's context of ", longest, " tokens");
  const int64_t length =
      arguments_.context > 0 ? arguments_.context : std::min(longest, kDefaultContext);
  const int64_t stride =
      arguments_.stride > 0 ? arguments_.stride : std::max<int64_t>(1, length / 2);
  windows_ = SlidingWindows(static_cast<int64_t>(tokens_.size()), length, stride);
  std::vector<int64_t> sizes;
  for (const EvaluationWindow& window : windows_) {
    sizes.push_back(window.end - window.scored);
    scored_ += sizes.back();
    const auto scored = std::span<const int32_t>(tokens_).subspan(window.scored, sizes.back());
    num_bytes_ += static_cast<int64_t>(tokenizer_->Decode(scored).size());
  }
  bootstrap_.emplace(std::move(sizes), arguments_.seed);
}

void CheckPrecision(const Model& model, Precision precision) {
  if (precision == Precision::kFp8) {
    CheckComputesAtFp8(model);
  }
}

std::optional<ActivationQuant> Evaluation::ActivationScheme() const {
  if (arguments_.weight_only || arguments_.activations == "none") {
    return ActivationQuant::kNone;
  }
  if (arguments_.activations == "static") {
    return ActivationQuant::kStaticPerTensor;
  }
  return arguments_.activations == "dynamic" ? std::optional(ActivationQuant::kDynamicPerToken)
                                             : std::nullopt;
}

void Evaluation::Load() {
  model_.emplace(LoadModelWithProgress(arguments_.model, config_, threads_));
  CheckPrecision(*model_, precision_);
  if (!arguments_.json) {
    fmt::print(stderr, "{}\n", DescribeLoad(arguments_.model, *model_));
  }
  for (const std::string& warning : LoadWarnings(*model_)) {
    fmt::print(stderr, "dualfp: warning: {}\n", warning);
  }
  if (ActivationScheme() == ActivationQuant::kStaticPerTensor) {
    Calibrate();
  }
  DecoderOptions options;
  options.limits = {.max_tokens = 512, .max_logit_rows = 512};
  options.activation_quant = ActivationScheme();
  decoder_.emplace(*model_, options);
  if (!compares()) {
    return;
  }
  // FP8 weights alone are no reference for themselves: the checkpoint's own are.
  const bool has_exact_fp16 =
      model_->report.Fp8LayerLinears() == 0 || model_->report.NestedLayerLinears() > 0;
  if (arguments_.against_model.empty() && has_exact_fp16) {
    reference_decoder_.emplace(*model_, options);
  } else {
    ModelOptions reference = arguments_.model;
    reference.model =
        FindModelDirectory(arguments_.against_model.empty() ? arguments_.model.model
                                                            : arguments_.against_model)
            .string();
    reference.quantization = "none";
    const ModelConfig config = LoadModelConfig(reference.model);
    reference_model_.emplace(LoadModelWithProgress(reference, config, threads_));
    CheckPrecision(*reference_model_, *reference_precision_);
    reference_decoder_.emplace(*reference_model_, options);
  }
}

void Evaluation::Calibrate() {
  std::vector<int32_t> tokens = Tokenize(arguments_.calibration_text);
  tokens.resize(std::min<size_t>(tokens.size(), arguments_.calibration_tokens));
  Check(!tokens.empty(), ErrorCode::kInvalidArgument, arguments_.calibration_text,
        ": no text to calibrate on");
  CalibrateInputScales(context_, *model_, tokens,
                       std::min(MaxContextLength(config_), kDefaultContext));
}

std::vector<Candidate> Evaluation::Candidates() const {
  const int64_t layers = config_.num_hidden_layers;
  std::vector<Candidate> candidates;
  candidates.push_back({"all", PrecisionPlan::Uniform(layers, precision_)});
  if (!arguments_.per_layer) {
    return candidates;
  }
  const Precision rest = *reference_precision_;
  for (int64_t layer = 0; layer < layers; ++layer) {
    Candidate candidate{fmt::format("layer {}", layer), PrecisionPlan::Uniform(layers, rest)};
    candidate.plan.layers[layer] = precision_;
    candidates.push_back(std::move(candidate));
  }
  for (const LinearKind kind :
       {LinearKind::kQkv, LinearKind::kO, LinearKind::kGateUp, LinearKind::kDown}) {
    Candidate candidate{fmt::format("all {}", LinearKindName(kind)),
                        PrecisionPlan::Uniform(layers, rest)};
    candidate.plan.linears.assign(layers * kLinearsPerLayer, rest);
    for (int64_t layer = 0; layer < layers; ++layer) {
      candidate.plan.linears[layer * kLinearsPerLayer + static_cast<int64_t>(kind)] = precision_;
    }
    candidates.push_back(std::move(candidate));
  }
  if (model_->HeadComputesAt(precision_)) {
    Candidate candidate{"lm_head", PrecisionPlan::Uniform(layers, rest)};
    candidate.plan.lm_head = precision_;
    candidates.push_back(std::move(candidate));
  }
  return candidates;
}

EvalReport Evaluation::Report(const std::vector<Candidate>& candidates,
                              const std::vector<TokenScores>& scores) const {
  EvalReport report;
  report.text = arguments_.text;
  report.scored_tokens = scored_;
  report.num_bytes = num_bytes_;
  report.windows = static_cast<int64_t>(windows_.size());
  report.precision = precision_;
  report.reference_precision = reference_precision_;
  const size_t first = compares() ? 1 : 0;
  if (compares()) {
    report.reference = QualityOf(*bootstrap_, scores[0], num_bytes_);
  }
  for (size_t i = 0; i < candidates.size(); ++i) {
    const TokenScores& subject = scores[first + i];
    report.rows.push_back(
        {candidates[i].name, candidates[i].plan.linears.empty(),
         QualityOf(*bootstrap_, subject, num_bytes_),
         compares() ? DeviationOf(*bootstrap_, subject, scores[0]) : Deviation()});
  }
  return report;
}

Json Evaluation::Describe() const {
  Json json;
  json["model"] = arguments_.model.model;
  json["quantization"] = arguments_.model.quantization;
  json["text"] = arguments_.text;
  json["tokens"] = tokens_.size();
  json["scored_tokens"] = scored_;
  json["scored_bytes"] = num_bytes_;
  json["windows"] = windows_.size();
  json["precision"] = PrecisionName(precision_);
  json["activations"] = arguments_.weight_only ? "none" : arguments_.activations;
  json["seed"] = arguments_.seed;
  json["fp8_linear_layers"] = model_->report.Fp8LayerLinears();
  json["linear_layers"] = model_->report.LayerLinears();
  int64_t rounded = 0;
  for (const LinearReport& linear : model_->report.linears) {
    rounded += linear.rounded;
  }
  json["rounded_weights"] = rounded;
  return json;
}

void Evaluation::PrintJson(const EvalReport& report) const {
  Json json = Describe();
  Json against;
  AddFigures(report, json, against);
  if (compares()) {
    against["precision"] = PrecisionName(*reference_precision_);
    against["model"] = reference_model_ && !arguments_.against_model.empty()
                           ? arguments_.against_model
                           : arguments_.model.model;
    against["quantization"] = reference_model_ ? "none" : arguments_.model.quantization;
    json["against"] = std::move(against);
  }
  fmt::print("{}\n", json.dump(2));
}

void Evaluation::Run() {
  const bool per_layer = arguments_.per_layer;
  precision_ = ParsePrecision(!arguments_.precision.empty() ? arguments_.precision
                              : per_layer                   ? "fp8"
                                                            : "exact")
                   .value();
  if (!arguments_.against.empty() || !arguments_.against_model.empty() || per_layer) {
    reference_precision_ =
        ParsePrecision(arguments_.against.empty() ? "exact" : arguments_.against).value();
  }
  const DType cache_dtype = KvCacheDType(arguments_.kv_cache_dtype, config_);
  config_ = LoadModelConfig(arguments_.model.model);
  ReadText();
  Load();
  Check(!per_layer || !reference_model_, ErrorCode::kUnsupported,
        "--per-layer needs weights that hold both precisions exactly; load them nested, without "
        "--against-model");
  const std::vector<Candidate> candidates = Candidates();
  PrecisionPlan reference_plan;
  std::vector<Subject> subjects;
  if (compares()) {
    reference_plan = PrecisionPlan::Uniform(config_.num_hidden_layers, *reference_precision_);
    if (reference_model_) {
      reference_plan =
          PrecisionPlan::Uniform(reference_model_->config.num_hidden_layers, *reference_precision_);
    }
    subjects.push_back({&*reference_decoder_, &reference_plan});
  }
  for (const Candidate& candidate : candidates) {
    subjects.push_back({&*decoder_, &candidate.plan});
  }
  std::vector<TokenScores> scores;
  {
    ProgressBar bar("Evaluating", 1, "tokens/s");
    scores = Evaluate(context_, cache_dtype, tokens_, windows_, subjects,
                      [&](int64_t done) { bar.Update(done, scored_); });
  }
  const EvalReport report = Report(candidates, scores);
  if (arguments_.json) {
    PrintJson(report);
  } else {
    PrintTable(report);
  }
  if (bootstrap_->num_groups() < kFewWindows) {
    fmt::print(stderr,
               "dualfp: warning: {} windows are few to resample; the confidence intervals are too "
               "narrow\n",
               bootstrap_->num_groups());
  }
  if (!arguments_.svg.empty()) {
    const auto folder = std::filesystem::weakly_canonical(arguments_.model.model);
    WriteFileAtomically(arguments_.svg, DrawParts(report, folder.filename().string()));
  }
}

}  // namespace

void AddEvalCommand(CLI::App& app) {
  auto arguments = std::make_shared<EvalArguments>();
  EvalArguments& a = *arguments;
  CLI::App* command =
      app.add_subcommand("eval", "Measure perplexity, and what a lower precision costs");
  command->footer(
      "Example: dualfp eval models/reference --text models/reference/held_out.txt "
      "--precision fp8 --against exact --max-tokens 8192");
  const CLI::Range positive(int64_t{1}, int64_t{1} << 40);

  constexpr const char* kText = "Text";
  command->add_option("--text", a.text, "The file to predict")
      ->required()
      ->option_text("FILE")
      ->group(kText);
  command->add_option("--context", a.context, "Window (default: the model's context, or 2048)")
      ->check(positive)
      ->option_text("N")
      ->group(kText);
  command->add_option("--stride", a.stride, "Advance of the window (default: half of it)")
      ->check(positive)
      ->option_text("N")
      ->group(kText);
  command->add_option("--max-tokens", a.max_tokens, "Only the first N of the text")
      ->check(CLI::Range(int64_t{2}, int64_t{1} << 40))
      ->option_text("N")
      ->group(kText);

  AddModelOptions(*command, a.model);
  AddKvCacheDType(*command, a.kv_cache_dtype, "Model");

  constexpr const char* kPrecision = "Precision";
  command->add_option("--precision", a.precision, "To compute at (default exact)")
      ->check(CLI::IsMember({"exact", "fp16", "fp8"}))
      ->option_text("{exact,fp8}")
      ->group(kPrecision);
  command->add_option("--against", a.against, "Compare with this precision")
      ->check(CLI::IsMember({"exact", "fp16", "fp8"}))
      ->option_text("{exact,fp8}")
      ->group(kPrecision);
  command
      ->add_option("--against-model", a.against_model,
                   "Compare with this checkpoint's plain weights (default: MODEL as loaded; its "
                   "plain weights if that has FP8 alone)")
      ->option_text("DIR")
      ->group(kPrecision);
  auto* activations = command
                          ->add_option("--activations", a.activations,
                                       "Scaling at fp8 (default: as the weights want)")
                          ->check(CLI::IsMember({"auto", "dynamic", "static", "none"}))
                          ->option_text("{auto,dynamic,static,none}")
                          ->group(kPrecision);
  command->add_flag("--weight-only", a.weight_only, "The same as --activations none")
      ->excludes(activations)
      ->group(kPrecision);
  auto* calibration =
      command->add_option("--calibration-text", a.calibration_text, "For static scales")
          ->option_text("FILE")
          ->group(kPrecision);
  command
      ->add_option("--calibration-tokens", a.calibration_tokens, "Of it, at most (default 16384)")
      ->check(positive)
      ->option_text("N")
      ->group(kPrecision);
  auto* per_layer =
      command
          ->add_flag("--per-layer", a.per_layer,
                     "Each layer and each kind of projection alone at --precision (default fp8)")
          ->group(kPrecision);

  constexpr const char* kOutput = "Output";
  command->add_option("--svg", a.svg, "Draw --per-layer")
      ->needs(per_layer)
      ->option_text("FILE")
      ->group(kOutput);
  command->add_option("--seed", a.seed, "Of the confidence intervals' resampling (default 0)")
      ->option_text("N")
      ->group(kOutput);
  command->add_flag("--json", a.json, "One JSON object instead of the table")->group(kOutput);
  command->callback([arguments, calibration] {
    if (arguments->activations == "static" && calibration->count() == 0) {
      throw CLI::RequiredError("--activations static: --calibration-text");
    }
    arguments->model.model = FindModelDirectory(arguments->model.model).string();
    Evaluation(*arguments).Run();
  });
}

}  // namespace dualfp
