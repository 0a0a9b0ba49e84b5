// Text to token ids and back, from a tokenizer.json as Hugging Face's tokenizers writes it.
//
// Reads models of type BPE: byte-level (GPT-2, Llama-3, Qwen, Phi-4, Mistral-Nemo) and with
// metaspace and byte fallback (Llama-2, Mistral); Unigram (SentencePiece's: T5, XLM-R, llm-jp);
// WordPiece (BERT) and WordLevel. A component of a type that is not known is an error that names
// it. Ids and text agree with the `tokenizers` library, except that
//  - padding and truncation written in the file are ignored, as transformers does;
//  - bytes that are not UTF-8 are read as U+FFFD.

#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/text/tokenizer_config.h"

namespace dualfp {

struct EncodeOptions {
  // Put the post-processor's tokens around the text: <s> in front for most models.
  bool add_special_tokens = true;

  // Read the text of special tokens as those tokens. False for text that must not control the
  // model: "<|im_end|>" is then encoded like any other text.
  bool parse_special_tokens = true;

  // Keep at most this many ids, those of add_special_tokens included, dropping text at one side.
  std::optional<int64_t> max_length;
  enum class Side : uint8_t { kLeft, kRight };
  Side truncation_side = Side::kRight;  // the side that is dropped
};

// Immutable after loading; all methods may be called from many threads at a time.
class Tokenizer {
 public:
  // Reads tokenizer.json and, where they are there, tokenizer_config.json,
  // special_tokens_map.json and chat templates. Throws kNotFound without a tokenizer.json,
  // kInvalidFile or kUnsupported naming file and field.
  static Tokenizer FromDirectory(const std::filesystem::path& directory);

  // From the content of a tokenizer.json, which errors call `origin`.
  static Tokenizer FromJson(std::string_view json, std::string_view origin,
                            TokenizerConfig config = {});

  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;

  // Throws kInvalidArgument for a max_length smaller than the special tokens need, and for text
  // that has no tokens where the model has no unknown token; kResourceExhausted when a pattern
  // backtracks without end.
  std::vector<int32_t> Encode(std::string_view text, const EncodeOptions& options = {}) const;

  // Valid UTF-8. Ids that are no token's are skipped.
  std::string Decode(std::span<const int32_t> ids, bool skip_special_tokens = true) const;

  // The number of tokens, added ones included.
  int64_t vocab_size() const;
  // One past the largest id. A model's embedding must have at least this many rows.
  int32_t id_limit() const;

  std::optional<int32_t> TokenToId(std::string_view token) const;
  // Empty for an id that is no token's.
  std::string_view IdToToken(int32_t id) const;
  bool IsSpecial(int32_t id) const;

  std::optional<int32_t> bos_id() const;
  std::optional<int32_t> eos_id() const;
  std::optional<int32_t> pad_id() const;

  const TokenizerConfig& config() const;

 private:
  friend class Detokenizer;
  struct Impl;
  explicit Tokenizer(std::unique_ptr<const Impl> impl);

  std::unique_ptr<const Impl> impl_;
};

}  // namespace dualfp
