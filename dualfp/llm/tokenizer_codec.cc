#include "dualfp/llm/tokenizer_codec.h"

#include <charconv>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/text/detokenizer.h"
#include "dualfp/text/pipeline/byte_alphabet.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxTemplateBytes = 1 << 20;

// "▁", which metaspace tokenizers write for a space.
constexpr std::string_view kMetaspace = "\xe2\x96\x81";

// "<0x0A>" is one byte.
std::optional<char> ByteToken(std::string_view token) {
  unsigned value = 0;
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>' ||
      std::from_chars(&token[3], &token[5], value, 16).ptr != &token[5]) {
    return std::nullopt;
  }
  return static_cast<char>(value);
}

std::string BytesOf(const Tokenizer& tokenizer, int32_t id, bool byte_fallback) {
  const std::string_view token = tokenizer.IdToToken(id);
  std::string bytes;
  if (tokenizer.IsSpecial(id)) {
    return std::string(token);
  }
  if (!byte_fallback) {
    return AlphabetToBytes(token, &bytes) ? bytes : std::string(token);
  }
  if (const std::optional<char> byte = ByteToken(token)) {
    return std::string(1, *byte);
  }
  for (size_t begin = 0; begin < token.size();) {
    const size_t space = std::min(token.find(kMetaspace, begin), token.size());
    bytes += token.substr(begin, space - begin);
    if (space < token.size()) {
      bytes += ' ';
    }
    begin = space + kMetaspace.size();
  }
  return bytes;
}

class DetokenizerStream final : public TextStream {
 public:
  DetokenizerStream(const Tokenizer& tokenizer, bool skip_special_tokens)
      : detokenizer_(tokenizer, skip_special_tokens) {}

  // What the prompt leaves behind (whether a space is due) is taken in, and its text dropped.
  void Prime(std::span<const int32_t> prompt) {
    for (const int32_t token : prompt) {
      detokenizer_.Push(token);
    }
  }

  void Append(int32_t token, std::string* out) override { *out += detokenizer_.Push(token); }
  void Finish(std::string* out) override { *out += detokenizer_.Finish(); }

 private:
  Detokenizer detokenizer_;
};

// The last tokens of a prompt: enough for what a decoder remembers.
constexpr size_t kPrimingTokens = 8;

}  // namespace

std::shared_ptr<const TokenizerCodec> TokenizerCodec::FromDirectory(
    const std::filesystem::path& directory,
    const std::optional<std::filesystem::path>& chat_template) {
  Tokenizer tokenizer = Tokenizer::FromDirectory(directory);
  std::optional<ChatFormatter> formatter;
  if (chat_template) {
    formatter.emplace(
        ChatTemplate(ReadFile(*chat_template, kMaxTemplateBytes), chat_template->string()));
  } else if (const auto* own = tokenizer.config().ChooseChatTemplate(false)) {
    formatter.emplace(ChatTemplate(own->source, own->origin));
  }
  return std::shared_ptr<const TokenizerCodec>(
      new TokenizerCodec(std::move(tokenizer), std::move(formatter)));
}

TokenizerCodec::TokenizerCodec(Tokenizer tokenizer, std::optional<ChatFormatter> formatter)
    : tokenizer_(std::move(tokenizer)),
      formatter_(std::move(formatter)),
      byte_fallback_(tokenizer_.TokenToId("<0x0A>").has_value()) {
  bytes_.reserve(static_cast<size_t>(tokenizer_.id_limit()));
  for (int32_t id = 0; id < tokenizer_.id_limit(); ++id) {
    bytes_.push_back(BytesOf(tokenizer_, id, byte_fallback_));
  }
}

std::vector<int32_t> TokenizerCodec::Encode(std::string_view text, bool add_special_tokens,
                                            std::optional<int64_t> max_tokens) const {
  EncodeOptions options;
  options.add_special_tokens = add_special_tokens;
  options.max_length = max_tokens;
  options.truncation_side = EncodeOptions::Side::kLeft;
  return tokenizer_.Encode(text, options);
}

std::string TokenizerCodec::Decode(std::span<const int32_t> tokens,
                                   bool skip_special_tokens) const {
  return tokenizer_.Decode(tokens, skip_special_tokens);
}

std::string TokenizerCodec::TokenBytes(int32_t token) const {
  std::string bytes;
  AppendTokenBytes(token, &bytes);
  return bytes;
}

void TokenizerCodec::AppendTokenBytes(int32_t token, std::string* out) const {
  // A model may have more rows than its tokenizer has tokens.
  if (token >= 0 && static_cast<size_t>(token) < bytes_.size()) {
    *out += bytes_[static_cast<size_t>(token)];
  }
}

std::string TokenizerCodec::RenderChat(const ChatPrompt& prompt) const {
  Check(formatter_.has_value(), ErrorCode::kUnsupported,
        "this model has no chat template: use /v1/completions, or serve it with --chat-template");
  ChatRequest request;
  request.messages = prompt.messages;
  request.add_generation_prompt = prompt.add_generation_prompt;
  request.continue_final_message = prompt.continue_final_message;
  if (prompt.template_arguments.is_object()) {
    request.extra = prompt.template_arguments;
  }
  return formatter_->Format(request, tokenizer_.config());
}

std::unique_ptr<TextStream> TokenizerCodec::NewStream(std::span<const int32_t> prompt,
                                                      bool skip_special_tokens) const {
  auto stream = std::make_unique<DetokenizerStream>(tokenizer_, skip_special_tokens);
  stream->Prime(prompt.last(std::min(prompt.size(), kPrimingTokens)));
  return stream;
}

}  // namespace dualfp
