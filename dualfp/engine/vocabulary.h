// Tokens as text: the little that the engine needs of a tokenizer. A model without one (prompts as
// token ids, text never asked for) runs with no Vocabulary at all.

#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

namespace dualfp {

// One choice's tokens, turned into text as they come.
class TextStream {
 public:
  virtual ~TextStream() = default;

  // Appends the whole UTF-8 characters that `token` completes.
  virtual void Append(int32_t token, std::string* out) = 0;

  // Appends what is still held back, unfinished characters as U+FFFD. Called once, at the end.
  virtual void Finish(std::string* out) = 0;
};

// Immutable and thread-safe.
class Vocabulary {
 public:
  virtual ~Vocabulary() = default;

  virtual std::unique_ptr<TextStream> NewStream(std::span<const int32_t> prompt,
                                                bool skip_special_tokens) const = 0;

  // Appends the token's own bytes, which may be half a character.
  virtual void AppendTokenBytes(int32_t token, std::string* out) const = 0;
};

}  // namespace dualfp
