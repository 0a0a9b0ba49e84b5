// dualfp generate: text from one prompt, switching precision in the middle if asked.
//
// The text goes to stdout as it is decoded; the loading bar and the timing lines go to stderr. With
// --json, stdout is one JSON object instead. Everything that can be wrong with the arguments is
// found before the weights are loaded, and --save-logits names its file only when it is complete.

#include <fmt/core.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "apps/arguments/model_arguments.h"
#include "apps/commands.h"
#include "apps/generate_report.h"
#include "dualfp/base/check.h"
#include "dualfp/engine/sampling/batch_sampler.h"
#include "dualfp/io/file.h"
#include "dualfp/io/hub_cache.h"
#include "dualfp/io/safetensors_writer.h"
#include "dualfp/llm/session.h"
#include "dualfp/model/rope_frequencies.h"
#include "dualfp/text/chat_formatter.h"
#include "dualfp/text/detokenizer.h"
#include "dualfp/text/tokenizer.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxPromptBytes = int64_t{64} << 20;
constexpr int64_t kPrefillChunk = 512;
// Rows whose logits are computed at once where all are wanted: 64 x 128k x 4 bytes is 32 MB.
constexpr int64_t kLogitChunk = 64;

struct GenerateArguments {
  ModelOptions model;
  std::string prompt;
  std::string prompt_file;
  std::vector<int32_t> prompt_token_ids;
  bool chat = false;
  std::string precision = "exact";
  int64_t switch_at = 0;  // 0: never
  int64_t max_tokens = 128;
  int64_t max_model_len = 0;
  bool ignore_eos = false;
  double temperature = 0;
  double top_p = 1;
  uint64_t seed = 0;
  std::string kv_cache_dtype = "auto";
  bool weight_only = false;
  std::string save_logits;
  bool compare = false;
  bool json = false;
};

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

Precision Other(Precision precision) {
  return precision == Precision::kExact ? Precision::kFp8 : Precision::kExact;
}

class Generation {
 public:
  explicit Generation(const GenerateArguments& arguments)
      : arguments_(arguments), threads_(arguments.model.threads) {
    draw_.temperature = static_cast<float>(arguments.temperature);
    draw_.top_p = static_cast<float>(arguments.top_p);
    draw_.seed = arguments.seed;
  }

  void Run();

 private:
  void ReadTokenizer();
  void ReadPrompt();
  std::vector<int32_t> EncodeChat(const std::string& text) const;
  void CheckLengths();
  void Load();
  void Prefill(Session& session);
  void Decode(Session& session);
  void Emit(int32_t token);
  bool IsEnd(int32_t token) const;

  PrecisionPlan Plan(Precision precision) const {
    return PrecisionPlan::Uniform(config_.num_hidden_layers, precision);
  }
  SpentAtPrecision& SpentAt(Precision precision) {
    return report_.spent[static_cast<int>(precision)];
  }
  bool UsesFp8() const {
    return precision_ == Precision::kFp8 || arguments_.switch_at > 0 || arguments_.compare;
  }

  const GenerateArguments& arguments_;
  ThreadPool threads_;
  Context context_{.threads = &threads_};
  SampleRow draw_;
  Precision precision_ = Precision::kExact;
  DType cache_dtype_ = DType::kF32;
  ModelConfig config_;
  std::vector<int32_t> end_tokens_;
  std::optional<Tokenizer> tokenizer_;
  std::optional<Detokenizer> detokenizer_;
  int64_t max_tokens_ = 0;
  std::optional<SafetensorsFileWriter> logits_file_;
  std::optional<Model> model_;
  std::optional<Decoder> decoder_;
  int64_t drawable_ = 0;  // SampleArgs'
  GenerateReport report_;
};

void Generation::ReadTokenizer() {
  const std::filesystem::path directory = arguments_.model.model;
  if (!arguments_.prompt_token_ids.empty() &&
      !std::filesystem::exists(directory / "tokenizer.json")) {
    return;
  }
  tokenizer_.emplace(Tokenizer::FromDirectory(directory));
  drawable_ = DrawableTokens(*tokenizer_, config_);
  detokenizer_.emplace(*tokenizer_);
  report_.text.emplace();
}

void Generation::ReadPrompt() {
  if (!arguments_.prompt_token_ids.empty()) {
    report_.prompt = arguments_.prompt_token_ids;
    CheckTokens(report_.prompt, config_, "--prompt-token-ids");
    return;
  }
  const std::string text = arguments_.prompt_file.empty()
                               ? arguments_.prompt
                               : ReadFile(arguments_.prompt_file, kMaxPromptBytes);
  report_.prompt = arguments_.chat ? EncodeChat(text) : tokenizer_->Encode(text);
  Check(!report_.prompt.empty(), ErrorCode::kInvalidArgument, "the prompt is empty");
  CheckTokens(report_.prompt, config_, "the prompt");
}

std::vector<int32_t> Generation::EncodeChat(const std::string& text) const {
  const TokenizerConfig::Template* chat = tokenizer_->config().ChooseChatTemplate(false);
  Check(chat != nullptr, ErrorCode::kUnsupported, arguments_.model.model,
        " has no chat template; leave out --chat");
  ChatRequest request;
  request.messages.push_back({{"role", "user"}, {"content", text}});
  const std::string prompt =
      ChatFormatter(ChatTemplate(chat->source, chat->origin)).Format(request, tokenizer_->config());
  // The template writes the special tokens itself.
  return tokenizer_->Encode(prompt, {.add_special_tokens = false});
}

void Generation::CheckLengths() {
  const auto length = static_cast<int64_t>(report_.prompt.size());
  const int64_t longest = MaxContextLength(config_);
  Check(arguments_.max_model_len <= longest, ErrorCode::kInvalidArgument, "--max-model-len ",
        arguments_.max_model_len, " exceeds the model's context of ", longest, " tokens");
  const int64_t context = arguments_.max_model_len > 0 ? arguments_.max_model_len : longest;
  Check(length <= context, ErrorCode::kInvalidArgument, "the prompt has ", length,
        " tokens, more than the context of ", context);
  max_tokens_ = std::min(arguments_.max_tokens, context - length);
}

void Generation::Load() {
  model_.emplace(LoadModelWithProgress(arguments_.model, config_, threads_));
  if (UsesFp8()) {
    CheckComputesAtFp8(*model_);
  }
  if (!arguments_.json) {
    fmt::print(stderr, "{}\n", DescribeLoad(arguments_.model, *model_));
  }
  for (const std::string& warning : LoadWarnings(*model_)) {
    fmt::print(stderr, "dualfp: warning: {}\n", warning);
  }
  DecoderOptions options;
  const bool all_logits = arguments_.compare || logits_file_.has_value();
  const int64_t tokens = static_cast<int64_t>(report_.prompt.size()) + max_tokens_;
  options.limits = {.max_tokens = std::min(kPrefillChunk, tokens),
                    .max_sequences = 1,
                    .max_logit_rows = all_logits ? std::min(kLogitChunk, tokens) : 1,
                    .max_context = tokens};
  if (arguments_.weight_only) {
    options.activation_quant = ActivationQuant::kNone;
  }
  decoder_.emplace(*model_, options);
}

void Generation::Prefill(Session& session) {
  Session::LogitSink sink;
  if (logits_file_) {
    sink = [this](std::span<const float> logits, int64_t) {
      logits_file_->Append("logits", logits.data(), logits.size_bytes());
    };
  }
  const double start = NowSeconds();
  session.Append(context_, report_.prompt, Plan(precision_), sink);
  SpentAt(precision_).prefill_tokens = static_cast<int64_t>(report_.prompt.size());
  SpentAt(precision_).prefill_seconds = NowSeconds() - start;
  if (logits_file_) {
    logits_file_->Commit();
  }
}

bool Generation::IsEnd(int32_t token) const {
  return !arguments_.ignore_eos &&
         std::find(end_tokens_.begin(), end_tokens_.end(), token) != end_tokens_.end();
}

void Generation::Emit(int32_t token) {
  report_.generated.push_back(token);
  const std::string piece = detokenizer_ ? detokenizer_->Push(token) : fmt::format("{} ", token);
  if (detokenizer_) {
    *report_.text += piece;
  }
  if (!arguments_.json && !piece.empty()) {
    std::fwrite(piece.data(), 1, piece.size(), stdout);
    std::fflush(stdout);
  }
}

void Generation::Decode(Session& session) {
  const BatchSampler sampler(1, config_.vocab_size, drawable_, &threads_);
  const PrecisionPlan plans[2] = {Plan(Precision::kExact), Plan(Precision::kFp8)};
  for (int64_t count = 1; count <= max_tokens_; ++count) {
    draw_.position = report_.generated.size();
    const int32_t token =
        sampler.Draw({session.last_logits().data(), DType::kF32, {1, config_.vocab_size}}, draw_);
    Check(token != kNoToken, ErrorCode::kInternal,
          "the model's logits are not finite: its weights or this precision cannot compute");
    if (IsEnd(token)) {
      report_.finish_reason = "stop";
      break;
    }
    Emit(token);
    if (count == max_tokens_) {
      break;
    }
    const bool switched = arguments_.switch_at > 0 && count >= arguments_.switch_at;
    const Precision precision = switched ? Other(precision_) : precision_;
    const double start = NowSeconds();
    session.Append(context_, {&token, 1}, plans[static_cast<int>(precision)]);
    SpentAt(precision).decode_seconds += NowSeconds() - start;
    ++SpentAt(precision).decode_tokens;
  }
  if (detokenizer_) {
    const std::string rest = detokenizer_->Finish();
    *report_.text += rest;
    if (!arguments_.json) {
      std::fwrite(rest.data(), 1, rest.size(), stdout);
    }
  }
  if (!arguments_.json && !report_.generated.empty()) {
    std::fputc('\n', stdout);
    std::fflush(stdout);
  }
}

void Generation::Run() {
  report_.model = arguments_.model.model;
  precision_ = ParsePrecision(arguments_.precision).value();
  const std::filesystem::path directory = arguments_.model.model;
  config_ = LoadModelConfig(directory);
  cache_dtype_ = KvCacheDType(arguments_.kv_cache_dtype, config_);
  ReadTokenizer();
  end_tokens_ = EndTokenIds(config_, LoadGenerationConfig(directory),
                            tokenizer_ ? tokenizer_->eos_id() : std::nullopt);
  ReadPrompt();
  CheckLengths();
  if (!arguments_.save_logits.empty()) {
    logits_file_.emplace(arguments_.save_logits,
                         std::vector<TensorSpec>{
                             {"logits",
                              DType::kF32,
                              {static_cast<int64_t>(report_.prompt.size()), config_.vocab_size}}});
  }
  Load();
  Session session(*decoder_, cache_dtype_,
                  static_cast<int64_t>(report_.prompt.size()) + max_tokens_);
  Prefill(session);
  Decode(session);
  if (arguments_.compare) {
    std::vector<int32_t> tokens = report_.prompt;
    tokens.insert(tokens.end(), report_.generated.begin(), report_.generated.end());
    report_.comparison = ComparePrecisions(context_, *decoder_, cache_dtype_, tokens,
                                           Plan(Precision::kExact), Plan(Precision::kFp8));
  }
  if (arguments_.json) {
    PrintJson(report_, *model_, *decoder_);
  } else {
    PrintFigures(report_, *decoder_);
  }
}

}  // namespace

void AddGenerateCommand(CLI::App& app) {
  auto arguments = std::make_shared<GenerateArguments>();
  GenerateArguments& a = *arguments;
  CLI::App* command = app.add_subcommand("generate", "Generate text from a prompt");
  command->footer(
      "Example: dualfp generate models/reference --prompt \"Once upon a time\" --switch-at 32");
  const CLI::Range count(int64_t{0}, int64_t{1} << 40);
  const CLI::Range positive(int64_t{1}, int64_t{1} << 40);

  constexpr const char* kPrompt = "Prompt (one of the first three)";
  CLI::Option* prompts[] = {
      command->add_option("-p,--prompt", a.prompt, "The text itself")->option_text("TEXT"),
      command->add_option("--prompt-file", a.prompt_file, "A file with the text")
          ->option_text("FILE"),
      command->add_option("--prompt-token-ids", a.prompt_token_ids, "Needs no tokenizer")
          ->delimiter(',')
          ->option_text("1,2,3"),
  };
  for (CLI::Option* option : prompts) {
    option->group(kPrompt);
    for (CLI::Option* other : prompts) {
      if (other != option) {
        option->excludes(other);
      }
    }
  }

  command->add_flag("--chat", a.chat, "The text is a user's message: apply the chat template")
      ->excludes(prompts[2])
      ->group(kPrompt);

  AddModelOptions(*command, a.model);
  AddKvCacheDType(*command, a.kv_cache_dtype, "Model");
  command->add_option("--max-model-len", a.max_model_len, "Context length (default: the model's)")
      ->check(positive)
      ->option_text("N")
      ->group("Model");

  constexpr const char* kPrecision = "Precision";
  command->add_option("--precision", a.precision, "To compute at (default exact)")
      ->check(CLI::IsMember({"exact", "fp16", "fp8"}))
      ->option_text("{exact,fp8}")
      ->group(kPrecision);
  command->add_option("--switch-at", a.switch_at, "Change to the other one after N tokens")
      ->check(positive)
      ->option_text("N")
      ->group(kPrecision);
  command->add_flag("--compare", a.compare, "Tell how far fp8 moves the logits")->group(kPrecision);
  command->add_flag("--weight-only", a.weight_only, "At fp8, leave activations unquantized")
      ->group(kPrecision);

  constexpr const char* kSampling = "Sampling";
  command->add_option("-n,--max-tokens", a.max_tokens, "To generate at most (default 128)")
      ->check(count)
      ->option_text("N")
      ->group(kSampling);
  command->add_option("--temperature", a.temperature, "0 (default): the likeliest token")
      ->check(CLI::Range(0.0, 100.0))
      ->option_text("T")
      ->group(kSampling);
  command->add_option("--top-p", a.top_p, "Only the likeliest that make up P (default 1)")
      ->check(CLI::Range(1e-6, 1.0))
      ->option_text("P")
      ->group(kSampling);
  command->add_option("--seed", a.seed, "Of the random choice (default 0)")
      ->option_text("N")
      ->group(kSampling);
  command->add_flag("--ignore-eos", a.ignore_eos, "Go on after the end-of-text token")
      ->group(kSampling);

  constexpr const char* kOutput = "Output";
  command->add_option("--save-logits", a.save_logits, "The prompt's logits, F32, as safetensors")
      ->option_text("FILE")
      ->group(kOutput);
  command->add_flag("--json", a.json, "One JSON object on stdout instead of text")->group(kOutput);
  command->callback([arguments, command] {
    if (command->count("--prompt") + command->count("--prompt-file") +
            command->count("--prompt-token-ids") ==
        0) {
      throw CLI::RequiredError("--prompt, --prompt-file or --prompt-token-ids");
    }
    arguments->model.model = FindModelDirectory(arguments->model.model).string();
    Generation(*arguments).Run();
  });
}

}  // namespace dualfp
