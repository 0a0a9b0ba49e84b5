// UTF-8 and the Unicode properties that tokenizers and templates ask for. Property data and
// normalization come from utf8proc.

#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace dualfp {

bool IsAscii(std::string_view text);
bool IsValidUtf8(std::string_view text);

// Replaces every maximal invalid part by U+FFFD, as Unicode 15 section 3.9 recommends and Rust's
// from_utf8_lossy and Python's errors="replace" do.
std::string ReplaceInvalidUtf8(std::string_view text);

// The bytes of the code point that starts with `lead`; 1 for what cannot start one.
inline int Utf8Length(char lead) {
  const auto byte = static_cast<uint8_t>(lead);
  return byte < 0xc0 ? 1 : byte < 0xe0 ? 2 : byte < 0xf0 ? 3 : 4;
}

inline bool IsUtf8Continuation(char byte) { return (static_cast<uint8_t>(byte) & 0xc0) == 0x80; }

// The code point at `text`, which must be valid UTF-8; adds its bytes to *position.
char32_t DecodeUtf8(std::string_view text, size_t* position);

// Appends the code point; surrogates and values past U+10FFFF become U+FFFD.
void AppendUtf8(char32_t code_point, std::string* out);

// The following take valid UTF-8.
size_t CountCodePoints(std::string_view text);
// The byte at which code point `index` starts; text.size() past the end.
size_t CodePointOffset(std::string_view text, size_t index);

// The general category (UAX 44), in the order of UnicodeData.txt's documentation.
enum class GeneralCategory : uint8_t {
  kCn,
  kLu,
  kLl,
  kLt,
  kLm,
  kLo,
  kMn,
  kMc,
  kMe,
  kNd,
  kNl,
  kNo,
  kPc,
  kPd,
  kPs,
  kPe,
  kPi,
  kPf,
  kPo,
  kSm,
  kSc,
  kSk,
  kSo,
  kZs,
  kZl,
  kZp,
  kCc,
  kCf,
  kCs,
  kCo,
};

// The categories of all code points: a table of 0x110000 entries.
const GeneralCategory* GeneralCategories();
std::string_view CategoryName(GeneralCategory category);  // "Lu"
// `name` is a category ("Lu") or the first letter of some ("L").
bool IsInCategory(char32_t code_point, std::string_view name);

struct CategoryRange {
  char32_t first;
  char32_t last;
  GeneralCategory category;
};
// What PCRE2 may not know yet: the code points assigned or changed after Unicode 14.
std::span<const CategoryRange> CategoriesSinceUnicode14();

bool IsWhitespace(char32_t code_point);  // property White_Space
bool IsPrintable(char32_t code_point);   // Python's str.isprintable()

// As Hugging Face's tokenizers has them, in part from other Unicode versions than the categories
// above (unicode_versions.cc).
bool IsNumeric(char32_t code_point);          // general categories Nd, Nl, No
bool IsPunctuation(char32_t code_point);      // general categories P* and ASCII punctuation
bool IsCombiningMark(char32_t code_point);    // general categories M*
bool IsNonspacingMark(char32_t code_point);   // general category Mn
bool IsControl(char32_t code_point);          // general categories Cc, Cf, Co
bool HasDecomposition(char32_t code_point);   // false: normalization leaves it alone
bool HasScript(char32_t code_point);          // false: as if it were unassigned
char32_t WithItsScript(char32_t code_point);  // itself, or another code point of the right script
// The small letter of a capital; any other code point is its own.
char32_t LowerCase(char32_t code_point);

enum class NormalizationForm : uint8_t { kNfc, kNfd, kNfkc, kNfkd };

// Valid UTF-8 in and out. Linear in the text, however many combining marks follow each other.
std::string Normalize(std::string_view text, NormalizationForm form);

// Where the extended grapheme cluster (UAX 29) that starts at `begin` ends.
size_t GraphemeEnd(std::string_view text, size_t begin);

// Full case mapping of single code points, without context (no final sigma).
std::string ToLower(std::string_view text);
std::string ToUpper(std::string_view text);

// Turns a stream of bytes into valid UTF-8 without ever emitting part of a character: an
// unfinished sequence is held back until its next byte shows what it is.
class Utf8Stream {
 public:
  void Push(std::string_view bytes, std::string* out);
  // An unfinished sequence becomes U+FFFD.
  void Finish(std::string* out);

 private:
  char pending_[4] = {};
  int pending_size_ = 0;
};

}  // namespace dualfp
