#include "dualfp/text/pipeline/added_tokens.h"

#include <algorithm>

#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

bool MatchesAt(const char* pattern, std::string_view text) {
  static const Regex starts_with_word(R"(\A[\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}])",
                                      "built-in pattern");
  static const Regex ends_with_word(R"([\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\p{Join_Control}]\z)",
                                    "built-in pattern");
  thread_local RegexScratch scratch;
  Regex::Match match;
  return (*pattern == '^' ? starts_with_word : ends_with_word).Find(text, 0, &scratch, &match);
}

bool StartsWithWord(std::string_view text) { return MatchesAt("^", text); }

bool EndsWithWord(std::string_view text) {
  size_t begin = text.size();
  while (begin > 0 && IsUtf8Continuation(text[begin - 1])) {
    --begin;
  }
  return begin > 0 && MatchesAt("$", text.substr(begin - 1));
}

// Where the whitespace at the end of `text` begins.
size_t TrailingWhitespace(std::string_view text) {
  size_t end = text.size();
  while (end > 0) {
    size_t begin = end - 1;
    while (begin > 0 && IsUtf8Continuation(text[begin])) {
      --begin;
    }
    size_t position = begin;
    if (!IsWhitespace(DecodeUtf8(text, &position))) {
      break;
    }
    end = begin;
  }
  return end;
}

// Where the whitespace at the start of `text` ends.
size_t LeadingWhitespace(std::string_view text) {
  size_t end = 0;
  for (size_t i = 0; i < text.size() && IsWhitespace(DecodeUtf8(text, &i));) {
    end = i;
  }
  return end;
}

}  // namespace

std::optional<int32_t> AddedTokens::Add(const AddedToken& token, const VocabularyTable& model,
                                        const Normalizer* normalizer, RegexScratch* scratch) {
  if (token.content.empty()) {
    return std::nullopt;
  }
  std::optional<int32_t> id = Find(token.content);
  if (!id) {
    id = model.Find(token.content);
  }
  if (!id) {
    id = std::max(id_limit_, static_cast<int32_t>(model.size()));
  }
  std::string normalized_text = token.content;
  if (token.normalized && normalizer != nullptr) {
    bool from_origin = true;
    normalizer->Apply(&normalized_text, &from_origin, scratch);
  }
  ids_[token.content] = *id;
  if (tokens_.count(*id) == 0) {
    order_.push_back(*id);
  }
  if (token.special) {
    special_.insert(token.content);
  }
  tokens_[*id] = {token, std::move(normalized_text)};
  id_limit_ = std::max(id_limit_, *id + 1);
  return id;
}

void AddedTokens::Finish() {
  // Of tokens that look the same in normalized text the first one is found, special ones first.
  for (const bool special : {true, false}) {
    for (const int32_t id : order_) {
      const Entry& entry = tokens_.at(id);
      if (IsSpecial(entry.token.content) != special) {
        continue;
      }
      Finder& finder = entry.token.normalized ? normalized_ : raw_;
      size_t size = 0;
      const std::string& text = entry.normalized_text;
      if (text.empty()) {
        finder.empty_id = finder.empty_id >= 0 ? finder.empty_id : id;
      } else if (!finder.trie.LongestPrefix(text, &size) || size < text.size()) {
        finder.trie.Add(text, id);
      }
    }
  }
}

void AddedTokens::Split(std::string_view text, bool normalized, bool parse_special,
                        std::vector<Section>* sections) const {
  const Finder& finder = normalized ? normalized_ : raw_;
  size_t covered = 0;
  size_t last_end = std::string_view::npos;
  // A token without text is also at the end, where it may take whitespace.
  const size_t limit = finder.empty_id >= 0 ? text.size() + 1 : text.size();
  for (size_t i = 0; i < limit;) {
    const bool at_end = i == text.size();
    size_t size = 0;
    std::optional<int32_t> id;
    if (!at_end && finder.trie.MayStartWith(text[i])) {
      id = finder.trie.LongestPrefix(text.substr(i), &size);
    }
    if (!id && finder.empty_id >= 0 && i != last_end && (at_end || !IsUtf8Continuation(text[i]))) {
      id = finder.empty_id;
    }
    if (!id) {
      ++i;
      continue;
    }
    size_t begin = i;
    size_t end = i + size;
    i = last_end = end;
    const AddedToken& token = tokens_.at(*id).token;
    if (!parse_special && IsSpecial(token.content)) {
      continue;
    }
    if (token.single_word &&
        (EndsWithWord(text.substr(0, begin)) || StartsWithWord(text.substr(end)))) {
      continue;
    }
    if (token.lstrip) {
      // Whitespace that the token before has taken is gone.
      begin = std::max(TrailingWhitespace(text.substr(0, begin)), covered);
    }
    if (token.rstrip) {
      end += LeadingWhitespace(text.substr(end));
    }
    if (covered < begin) {
      sections->push_back({-1, covered, begin});
    }
    // A token of whitespace alone, all of which the token before has taken, is not there.
    if (begin < end) {
      sections->push_back({*id, begin, end});
    }
    covered = begin <= end ? end : covered;
  }
  if (covered < text.size()) {
    sections->push_back({-1, covered, text.size()});
  }
}

std::optional<int32_t> AddedTokens::Find(std::string_view content) const {
  const auto found = ids_.find(std::string(content));
  return found == ids_.end() ? std::nullopt : std::optional(found->second);
}

const AddedToken* AddedTokens::Token(int32_t id) const {
  const auto found = tokens_.find(id);
  return found == tokens_.end() ? nullptr : &found->second.token;
}

std::string_view AddedTokens::DecodedText(int32_t id) const {
  return tokens_.at(id).normalized_text;
}

}  // namespace dualfp
