#include "dualfp/text/unicode.h"

#include <utf8proc.h>

#include <algorithm>
#include <cstring>
#include <vector>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// How far a byte sequence is towards a code point.
enum class Utf8State { kComplete, kIncomplete, kInvalid };

// Examines the sequence at bytes[0, size). kComplete: *length bytes are a code point.
// kIncomplete: all `size` bytes are a proper prefix of one. kInvalid: the first *length bytes are
// the maximal invalid part.
Utf8State Examine(const uint8_t* bytes, size_t size, size_t* length) {
  const uint8_t lead = bytes[0];
  *length = 1;
  if (lead < 0x80) {
    return Utf8State::kComplete;
  }
  if (lead < 0xc2 || lead > 0xf4) {
    return Utf8State::kInvalid;
  }
  const size_t need = lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
  uint8_t low = 0x80;  // Bounds of the second byte exclude overlong forms and surrogates.
  uint8_t high = 0xbf;
  if (lead == 0xe0) low = 0xa0;
  if (lead == 0xed) high = 0x9f;
  if (lead == 0xf0) low = 0x90;
  if (lead == 0xf4) high = 0x8f;
  for (size_t i = 1; i < need; ++i) {
    if (i == size) {
      return Utf8State::kIncomplete;
    }
    if (bytes[i] < low || bytes[i] > high) {
      *length = i;
      return Utf8State::kInvalid;
    }
    low = 0x80;
    high = 0xbf;
  }
  *length = need;
  return Utf8State::kComplete;
}

size_t AsciiPrefix(std::string_view text) {
  size_t i = 0;
  for (; i + 8 <= text.size(); i += 8) {
    uint64_t word;
    std::memcpy(&word, text.data() + i, 8);
    if ((word & 0x8080808080808080u) != 0) {
      break;
    }
  }
  while (i < text.size() && static_cast<uint8_t>(text[i]) < 0x80) {
    ++i;
  }
  return i;
}

const uint8_t* Bytes(std::string_view text) {
  return reinterpret_cast<const uint8_t*>(text.data());
}

GeneralCategory Category(char32_t code_point) { return GeneralCategories()[code_point]; }

// Code points that NFC leaves alone whatever surrounds them, as long as their neighbours are of
// this kind too: the everyday scripts, so that most text needs no normalization at all.
bool IsStableInNfc(char32_t c) {
  return c < 0x300 || (c >= 0x400 && c <= 0x482) ||  // Latin, Cyrillic
         (c >= 0x2010 && c <= 0x2027) ||             // general punctuation
         (c >= 0x3001 && c <= 0x3029) || (c >= 0x3041 && c <= 0x3096) ||
         (c >= 0x30a1 && c <= 0x30fe) ||  // kana and their punctuation
         (c >= 0x4e00 && c <= 0x9fff) || (c >= 0xac00 && c <= 0xd7a3) ||  // Han, Hangul
         (c >= 0xff01 && c <= 0xff5e) || (c >= 0x1f300 && c <= 0x1faff);  // full width, emoji
}

bool IsStableInNfc(std::string_view text) {
  for (size_t i = 0; i < text.size();) {
    i += AsciiPrefix(text.substr(i));
    if (i < text.size() && !IsStableInNfc(DecodeUtf8(text, &i))) {
      return false;
    }
  }
  return true;
}

// Canonical ordering (UAX 15, D109): a stable sort of each run of combining marks by class.
void OrderCombiningMarks(std::vector<utf8proc_int32_t>* code_points) {
  const auto combining_class = [](utf8proc_int32_t c) {
    return IsCombiningMark(static_cast<char32_t>(c)) ? utf8proc_get_property(c)->combining_class
                                                     : 0;
  };
  for (size_t i = 0; i < code_points->size();) {
    if (combining_class((*code_points)[i]) == 0) {
      ++i;
      continue;
    }
    size_t end = i + 1;
    while (end < code_points->size() && combining_class((*code_points)[end]) != 0) {
      ++end;
    }
    std::stable_sort(code_points->begin() + i, code_points->begin() + end,
                     [&](auto a, auto b) { return combining_class(a) < combining_class(b); });
    i = end;
  }
}

}  // namespace

bool IsAscii(std::string_view text) { return AsciiPrefix(text) == text.size(); }

bool IsValidUtf8(std::string_view text) {
  for (size_t i = AsciiPrefix(text); i < text.size();) {
    size_t length;
    if (Examine(Bytes(text) + i, text.size() - i, &length) != Utf8State::kComplete) {
      return false;
    }
    i += length;
    i += AsciiPrefix(text.substr(i));
  }
  return true;
}

std::string ReplaceInvalidUtf8(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  Utf8Stream stream;
  stream.Push(text, &out);
  stream.Finish(&out);
  return out;
}

char32_t DecodeUtf8(std::string_view text, size_t* position) {
  const uint8_t* p = Bytes(text) + *position;
  const int length = Utf8Length(static_cast<char>(p[0]));
  *position += static_cast<size_t>(length);
  // What the first byte holds beside its length; six bits more from each other byte.
  char32_t code_point = length == 1 ? p[0] : p[0] & (0x7f >> length);
  for (int i = 1; i < length; ++i) {
    code_point = code_point << 6 | (p[i] & 0x3f);
  }
  return code_point;
}

void AppendUtf8(char32_t c, std::string* out) {
  if (c < 0x80) {
    *out += static_cast<char>(c);
  } else if (c < 0x800) {
    *out += {static_cast<char>(0xc0 | c >> 6), static_cast<char>(0x80 | (c & 0x3f))};
  } else if (c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
    *out += kReplacement;
  } else if (c < 0x10000) {
    *out += {static_cast<char>(0xe0 | c >> 12), static_cast<char>(0x80 | (c >> 6 & 0x3f)),
             static_cast<char>(0x80 | (c & 0x3f))};
  } else {
    *out += {static_cast<char>(0xf0 | c >> 18), static_cast<char>(0x80 | (c >> 12 & 0x3f)),
             static_cast<char>(0x80 | (c >> 6 & 0x3f)), static_cast<char>(0x80 | (c & 0x3f))};
  }
}

size_t CountCodePoints(std::string_view text) {
  return static_cast<size_t>(
      std::count_if(text.begin(), text.end(), [](char c) { return !IsUtf8Continuation(c); }));
}

size_t CodePointOffset(std::string_view text, size_t index) {
  size_t offset = 0;
  for (; index > 0 && offset < text.size(); --index) {
    offset += static_cast<size_t>(Utf8Length(text[offset]));
  }
  return std::min(offset, text.size());
}

bool IsWhitespace(char32_t c) {
  return (c >= 0x09 && c <= 0x0d) || c == 0x20 || c == 0x85 || c == 0xa0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200a) || c == 0x2028 || c == 0x2029 || c == 0x202f || c == 0x205f ||
         c == 0x3000;
}

bool IsPrintable(char32_t c) {
  switch (Category(c)) {
    case GeneralCategory::kCn:
    case GeneralCategory::kCc:
    case GeneralCategory::kCf:
    case GeneralCategory::kCs:
    case GeneralCategory::kCo:
    case GeneralCategory::kZl:
    case GeneralCategory::kZp:
      return false;
    case GeneralCategory::kZs:
      return c == ' ';
    default:
      return true;
  }
}

std::string Normalize(std::string_view text, NormalizationForm form) {
  const bool compose = form == NormalizationForm::kNfc || form == NormalizationForm::kNfkc;
  if (IsAscii(text) || (form == NormalizationForm::kNfc && IsStableInNfc(text))) {
    return std::string(text);
  }
  int options = UTF8PROC_STABLE | UTF8PROC_DECOMPOSE;
  if (form == NormalizationForm::kNfkc || form == NormalizationForm::kNfkd) {
    options |= UTF8PROC_COMPAT;
  }
  std::vector<utf8proc_int32_t> code_points;
  code_points.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const auto c = static_cast<utf8proc_int32_t>(DecodeUtf8(text, &i));
    if (!HasDecomposition(static_cast<char32_t>(c))) {
      code_points.push_back(c);
      continue;
    }
    utf8proc_int32_t decomposed[32];  // The longest decomposition has 18 (U+FDFA).
    int boundary = 0;
    const utf8proc_ssize_t count = utf8proc_decompose_char(
        c, decomposed, 32, static_cast<utf8proc_option_t>(options), &boundary);
    CheckInternal(count >= 0 && count <= 32, "decomposing U+", c, " failed");
    code_points.insert(code_points.end(), decomposed, decomposed + count);
  }
  // utf8proc's own reordering takes quadratic time on long runs of marks.
  OrderCombiningMarks(&code_points);
  if (compose) {
    const utf8proc_ssize_t count = utf8proc_normalize_utf32(
        code_points.data(), static_cast<utf8proc_ssize_t>(code_points.size()),
        static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
    CheckInternal(count >= 0, "composing failed");
    code_points.resize(static_cast<size_t>(count));
  }
  std::string out;
  out.reserve(text.size());
  for (const utf8proc_int32_t c : code_points) {
    AppendUtf8(static_cast<char32_t>(c), &out);
  }
  return out;
}

size_t GraphemeEnd(std::string_view text, size_t begin) {
  size_t end = begin;
  utf8proc_int32_t state = 0;
  auto previous = static_cast<utf8proc_int32_t>(DecodeUtf8(text, &end));
  while (end < text.size()) {
    size_t next = end;
    const auto c = static_cast<utf8proc_int32_t>(DecodeUtf8(text, &next));
    if (utf8proc_grapheme_break_stateful(previous, c, &state)) {
      break;
    }
    previous = c;
    end = next;
  }
  return end;
}

std::string ToLower(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const char32_t c = DecodeUtf8(text, &i);
    if (c == 0x130) {  // The only code point whose lower case is two: i and a combining dot.
      out += "i\xcc\x87";
    } else {
      AppendUtf8(LowerCase(c), &out);
    }
  }
  return out;
}

std::string ToUpper(std::string_view text) {
  std::string out;
  out.reserve(text.size());
  for (size_t i = 0; i < text.size();) {
    const char32_t c = DecodeUtf8(text, &i);
    if (c == 0xdf) {  // sharp s
      out += "SS";
    } else {
      AppendUtf8(static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c))), &out);
    }
  }
  return out;
}

void Utf8Stream::Push(std::string_view bytes, std::string* out) {
  // Complete (or give up) what is pending, byte by byte; then take the rest in whole runs.
  while (pending_size_ > 0 && !bytes.empty()) {
    pending_[pending_size_++] = bytes.front();
    size_t length;
    const Utf8State state = Examine(reinterpret_cast<const uint8_t*>(pending_),
                                    static_cast<size_t>(pending_size_), &length);
    if (state == Utf8State::kInvalid) {
      // The new byte is not part of the sequence: look at it again on its own.
      out->append(kReplacement);
      pending_size_ = 0;
      continue;
    }
    bytes.remove_prefix(1);
    if (state == Utf8State::kComplete) {
      out->append(pending_, length);
      pending_size_ = 0;
    }
  }
  size_t begin = 0;
  for (size_t i = 0; i < bytes.size();) {
    i += AsciiPrefix(bytes.substr(i));
    if (i == bytes.size()) {
      break;
    }
    size_t length;
    switch (Examine(Bytes(bytes) + i, bytes.size() - i, &length)) {
      case Utf8State::kComplete:
        i += length;
        break;
      case Utf8State::kInvalid:
        out->append(bytes.substr(begin, i - begin));
        out->append(kReplacement);
        i += length;
        begin = i;
        break;
      case Utf8State::kIncomplete:
        out->append(bytes.substr(begin, i - begin));
        pending_size_ = static_cast<int>(bytes.size() - i);
        std::memcpy(pending_, bytes.data() + i, bytes.size() - i);
        return;
    }
  }
  out->append(bytes.substr(begin));
}

void Utf8Stream::Finish(std::string* out) {
  if (pending_size_ > 0) {
    out->append(kReplacement);
    pending_size_ = 0;
  }
}

}  // namespace dualfp
