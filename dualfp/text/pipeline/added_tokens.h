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

#include "dualfp/text/pipeline/normalizer.h"
#include "dualfp/text/pipeline/vocabulary.h"

namespace dualfp {

struct AddedToken {
  std::string content;
  bool single_word = false;  // only where no word character touches it
  bool lstrip = false;       // takes the whitespace before it along
  bool rstrip = false;       // takes the whitespace after it along
  bool normalized = true;    // is looked for in normalized text, in its normalized form
  bool special = false;
};

// Finds the longest of a set of strings that starts at a position.
class TokenTrie {
 public:
  TokenTrie();
  void Add(std::string_view token, int32_t value);
  bool empty() const { return nodes_.size() == 1; }

  // The value of the longest token that `text` starts with; *size is its length.
  std::optional<int32_t> LongestPrefix(std::string_view text, size_t* size) const;
  bool MayStartWith(char byte) const { return starts_[static_cast<uint8_t>(byte)]; }

 private:
  struct Node {
    uint8_t byte;
    int32_t value;         // -1: no token ends here
    int32_t first_child;   // -1: none
    int32_t next_sibling;  // -1: none
  };
  int32_t FindChild(int32_t node, char byte) const;

  std::vector<Node> nodes_;
  std::vector<bool> starts_;
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
  bool HasTokens(bool normalized) const { return !(normalized ? normalized_ : raw_).empty(); }

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

  std::unordered_map<std::string, int32_t> ids_;
  std::map<int32_t, Entry> tokens_;
  std::unordered_set<std::string> special_;
  TokenTrie raw_;
  TokenTrie normalized_;
  int32_t id_limit_ = 0;
};

}  // namespace dualfp
