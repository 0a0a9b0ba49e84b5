// The "added_tokens" of tokenizer.json: strings that are cut out of the text before the model sees
// it, among them the special tokens.

#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "dualfp/text/models/token_trie.h"
#include "dualfp/text/models/vocabulary.h"
#include "dualfp/text/pipeline/normalizer.h"

namespace dualfp {

struct AddedToken {
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the whitespace before it along
  bool rstrip = false;       // takes the whitespace after it along
  bool normalized = true;    // is looked for in normalized text, in its normalized form
  bool special = false;
};

class AddedTokens {
 public:
  // Part of a text: a token, or text between tokens (id -1).
  struct Section {
    int32_t id;
    size_t begin;
    size_t end;
  };

  // A token that the model's vocabulary has keeps that id; any other gets the next free one. One
  // added before gets the new properties. `normalizer` may be null. Returns the id; nothing for an
  // empty token, which is ignored. Call Finish() after the last one.
  std::optional<int32_t> Add(const AddedToken& token, const VocabularyTable& model,
                             const Normalizer* normalizer, RegexScratch* scratch);
  void Finish();

  // Cuts the tokens with that `normalized` flag out of `text`. With keep_special false, special
  // tokens are left in the text.
  void Split(std::string_view text, bool normalized, bool parse_special,
             std::vector<Section>* sections) const;
  bool HasTokens(bool normalized) const {
    const Finder& finder = normalized ? normalized_ : raw_;
    return !finder.trie.empty() || finder.empty_id >= 0;
  }

  std::optional<int32_t> Find(std::string_view content) const;
  // nullptr when the id is not an added token's.
  const AddedToken* Token(int32_t id) const;
  // What decoding starts from: the form the token has in normalized text.
  std::string_view DecodedText(int32_t id) const;
  // By content, as decoding asks: a token of the model with a special token's text is special.
  bool IsSpecial(std::string_view content) const {
    return special_.count(std::string(content)) > 0;
  }

  size_t size() const { return ids_.size(); }
  int32_t id_limit() const { return id_limit_; }
  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const auto& [id, entry] : tokens_) {
      visit(id, entry.token);
    }
  }

 private:
  struct Entry {
    AddedToken token;
    std::string normalized_text;  // equal to the content for tokens with normalized == false
  };

  struct Finder {
    TokenTrie trie;
    // A token of which normalization leaves nothing (-1: none): it is between any two characters,
    // and cuts the text there.
    int32_t empty_id = -1;
  };

  std::unordered_map<std::string, int32_t> ids_;
  std::map<int32_t, Entry> tokens_;
  std::vector<int32_t> order_;  // in which the tokens were added
  std::unordered_set<std::string> special_;
  Finder raw_;
  Finder normalized_;
  int32_t id_limit_ = 0;
};

}  // namespace dualfp
