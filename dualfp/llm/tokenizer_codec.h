// A model directory's tokenizer and chat template, as the server and the engine take them.

#pragma once

#include <filesystem>
#include <memory>
#include <optional>

#include "dualfp/engine/vocabulary.h"
#include "dualfp/llm/text_codec.h"
#include "dualfp/text/chat_formatter.h"
#include "dualfp/text/tokenizer.h"

namespace dualfp {

class TokenizerCodec final : public TextCodec, public Vocabulary {
 public:
  // `chat_template`: a file with a template instead of the model's own. Throws what
  // Tokenizer::FromDirectory() throws; a broken template is an error here and not at a request.
  static std::shared_ptr<const TokenizerCodec> FromDirectory(
      const std::filesystem::path& directory,
      const std::optional<std::filesystem::path>& chat_template = {});

  const Tokenizer& tokenizer() const { return tokenizer_; }

  // TextCodec
  std::vector<int32_t> Encode(std::string_view text, bool add_special_tokens,
                              std::optional<int64_t> max_tokens) const override;
  std::string Decode(std::span<const int32_t> tokens, bool skip_special_tokens) const override;
  std::string TokenBytes(int32_t token) const override;
  bool IsSpecial(int32_t token) const override { return tokenizer_.IsSpecial(token); }
  std::string RenderChat(const ChatPrompt& prompt) const override;

  // Vocabulary. The streams must not outlive this.
  std::unique_ptr<TextStream> NewStream(std::span<const int32_t> prompt,
                                        bool skip_special_tokens) const override;
  void AppendTokenBytes(int32_t token, std::string* out) const override;

 private:
  TokenizerCodec(Tokenizer tokenizer, std::optional<ChatFormatter> formatter);

  Tokenizer tokenizer_;
  std::optional<ChatFormatter> formatter_;
  bool byte_fallback_;              // tokens such as <0x0A>; else byte-level
  std::vector<std::string> bytes_;  // of each token
};

}  // namespace dualfp
