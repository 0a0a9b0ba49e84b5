// One choice's tokens as text, ended by stop strings wherever token boundaries fall.
//
// Each stop string is followed by an automaton (Knuth, Morris and Pratt) that knows how much of it
// the text ends with. Text that could be the beginning of a stop string is held back until it is
// decided; with include_stop_str nothing is.

#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/engine/vocabulary.h"

namespace dualfp {

class TextOutput {
 public:
  // `stop` outlives this object.
  TextOutput(std::unique_ptr<TextStream> stream, const std::vector<std::string>* stop,
             bool include_stop_str);

  // Adds a token's text. Returns the index of the stop string that it completed (the first, where
  // it completes several), or -1; after a stop string, nothing may follow but Take(). Where
  // `may_stop` is false (min_tokens), stop strings that the token completes pass as text.
  int Append(int32_t token, bool may_stop);

  // The text ends here: what is held back is text after all.
  void Finish();

  // Moves the text that is decided to the end of `out`.
  void Take(std::string* out);

 private:
  struct Automaton {
    std::string_view pattern;
    std::vector<int32_t> failure;  // longest proper border of each prefix
    int32_t matched = 0;           // bytes of the pattern that the text ends with
  };

  int Scan(bool may_stop);

  std::unique_ptr<TextStream> stream_;
  std::vector<Automaton> stops_;
  bool include_stop_str_;
  std::string text_;    // not yet taken
  size_t scanned_ = 0;  // bytes of text_ that the automata have seen
  bool ended_ = false;
};

}  // namespace dualfp
