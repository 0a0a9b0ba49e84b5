#include "dualfp/text/pipeline/precompiled_normalizer.h"

#include <cstring>

#include "dualfp/base/check.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

// Longer graphemes are replaced character by character only: Hugging Face tokenizers' rule, tuned
// to agree with SentencePiece on XNLI.
constexpr size_t kMaxGraphemeBytes = 5;

int Base64Digit(char c) {
  if (c >= 'A' && c <= 'Z') return c - 'A';
  if (c >= 'a' && c <= 'z') return c - 'a' + 26;
  if (c >= '0' && c <= '9') return c - '0' + 52;
  return c == '+' ? 62 : c == '/' ? 63 : -1;
}

// RFC 4648, section 4; nothing for anything else.
std::optional<std::string> DecodeBase64(std::string_view text) {
  if (text.size() % 4 != 0) {
    return std::nullopt;
  }
  const size_t padding = text.ends_with("==") ? 2 : text.ends_with('=') ? 1 : 0;
  text.remove_suffix(padding);
  std::string bytes;
  bytes.reserve(text.size() * 3 / 4);
  uint32_t bits = 0;
  int count = 0;
  for (const char c : text) {
    const int digit = Base64Digit(c);
    if (digit < 0) {
      return std::nullopt;
    }
    bits = bits << 6 | static_cast<uint32_t>(digit);
    count += 6;
    if (count >= 8) {
      count -= 8;
      bytes += static_cast<char>(bits >> count);
      bits &= (uint32_t{1} << count) - 1;
    }
  }
  return bytes;
}

// A unit of the double array.
bool HasLeaf(uint32_t unit) { return (unit >> 8 & 1) != 0; }
uint32_t LeafValue(uint32_t unit) { return unit & 0x7fffffff; }
uint32_t Label(uint32_t unit) { return unit & 0x800000ff; }
uint32_t Offset(uint32_t unit) { return unit >> 10 << ((unit & 0x200) >> 6); }

}  // namespace

PrecompiledNormalizer::PrecompiledNormalizer(const JsonFields& fields) {
  constexpr std::string_view kField = "precompiled_charsmap";
  const std::optional<std::string> bytes = DecodeBase64(fields.GetString(kField));
  if (!bytes) {
    fields.FailField(kField, "expected base64");
  }
  uint32_t trie_bytes = 0;
  if (bytes->size() >= sizeof(trie_bytes)) {
    std::memcpy(&trie_bytes, bytes->data(), sizeof(trie_bytes));
  }
  if (bytes->size() < sizeof(trie_bytes) || trie_bytes > bytes->size() - sizeof(trie_bytes)) {
    fields.FailField(kField, StrCat("the trie is cut off: ", bytes->size(), " bytes in all"));
  }
  trie_.resize(trie_bytes / sizeof(uint32_t));
  std::memcpy(trie_.data(), bytes->data() + sizeof(trie_bytes), trie_.size() * sizeof(uint32_t));
  replacements_ = bytes->substr(sizeof(trie_bytes) + trie_bytes);
  if (!IsValidUtf8(replacements_)) {
    fields.FailField(kField, "expected replacements in UTF-8");
  }
}

// The replacement of the shortest rule that `text` starts with.
std::optional<std::string_view> PrecompiledNormalizer::Find(std::string_view text) const {
  size_t node = 0;
  if (trie_.empty()) {
    return std::nullopt;
  }
  node ^= Offset(trie_[0]);
  for (const char c : text) {
    const auto byte = static_cast<uint8_t>(c);
    node ^= byte;
    // A zero ends keys; anything out of range is a damaged trie, which has no such rule.
    if (byte == 0 || node >= trie_.size() || Label(trie_[node]) != byte) {
      return std::nullopt;
    }
    const uint32_t unit = trie_[node];
    node ^= Offset(unit);
    if (node >= trie_.size()) {
      return std::nullopt;
    }
    if (HasLeaf(unit)) {
      const size_t begin = LeafValue(trie_[node]);
      if (begin > replacements_.size() ||
          (begin < replacements_.size() && IsUtf8Continuation(replacements_[begin]))) {
        return std::nullopt;
      }
      const std::string_view rest = std::string_view(replacements_).substr(begin);
      return rest.substr(0, rest.find('\0'));
    }
  }
  return std::nullopt;
}

void PrecompiledNormalizer::Apply(std::string* text, bool*, RegexScratch*) const {
  const std::string_view before = *text;
  std::string out;
  out.reserve(before.size());
  for (size_t begin = 0; begin < before.size();) {
    const size_t end = GraphemeEnd(before, begin);
    const std::string_view grapheme = before.substr(begin, end - begin);
    begin = end;
    if (grapheme.size() <= kMaxGraphemeBytes) {
      if (const auto replacement = Find(grapheme)) {
        out += *replacement;
        continue;
      }
    }
    for (size_t i = 0; i < grapheme.size();) {
      const size_t start = i;
      i += static_cast<size_t>(Utf8Length(grapheme[i]));
      const std::string_view character = grapheme.substr(start, i - start);
      out += Find(character).value_or(character);
    }
  }
  *text = std::move(out);
}

}  // namespace dualfp
