// Token ids to text, one id at a time.

#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "dualfp/text/tokenizer.h"

namespace dualfp {

// The concatenation of everything that Push() and Finish() return is Decode() of the ids. Each
// part is valid UTF-8 by itself: a character that is spread over several tokens is returned with
// the last of them. Tokens of byte fallback (<0xE2>) are held back until another token follows,
// since only the whole run says whether they spell text.
class Detokenizer {
 public:
  // `tokenizer` must outlive this.
  explicit Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  ~Detokenizer();
  Detokenizer(Detokenizer&&) noexcept;
  Detokenizer& operator=(Detokenizer&&) noexcept;

  std::string Push(int32_t id);

  // What was held back; an unfinished character becomes U+FFFD. Nothing may be pushed after it.
  std::string Finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace dualfp
