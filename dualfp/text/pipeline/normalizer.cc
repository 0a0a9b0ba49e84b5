#include "dualfp/text/pipeline/normalizer.h"

#include <string_view>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/text/pipeline/byte_alphabet.h"
#include "dualfp/text/pipeline/precompiled_normalizer.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

class UnicodeNormalizer final : public Normalizer {
 public:
  explicit UnicodeNormalizer(NormalizationForm form) : form_(form) {}
  void Apply(std::string* text, bool*, RegexScratch*) const override {
    *text = Normalize(*text, form_);
  }

 private:
  NormalizationForm form_;
};

class ReplaceNormalizer final : public Normalizer {
 public:
  explicit ReplaceNormalizer(const JsonFields& fields)
      : pattern_(fields), content_(fields.GetString("content")) {}

  void Apply(std::string* text, bool* from_origin, RegexScratch* scratch) const override {
    std::string out;
    out.reserve(text->size());
    const std::string_view before = *text;
    size_t copied = 0;
    pattern_.ForEachMatch(*text, scratch, [&](size_t begin, size_t end) {
      // A replacement counts as coming from the last character it replaces.
      if (begin == 0 && end > 0 &&
          (content_.empty() || CountCodePoints(before.substr(0, end)) > 1)) {
        *from_origin = false;
      }
      out.append(*text, copied, begin - copied);
      out += content_;
      copied = end;
    });
    out.append(*text, copied);
    *text = std::move(out);
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class PrependNormalizer final : public Normalizer {
 public:
  explicit PrependNormalizer(const JsonFields& fields) : prefix_(fields.GetString("prepend")) {}
  void Apply(std::string* text, bool*, RegexScratch*) const override {
    if (!text->empty()) {
      text->insert(0, prefix_);
    }
  }

 private:
  std::string prefix_;
};

class StripNormalizer final : public Normalizer {
 public:
  explicit StripNormalizer(const JsonFields& fields)
      : left_(fields.GetBool("strip_left")), right_(fields.GetBool("strip_right")) {}

  void Apply(std::string* text, bool* from_origin, RegexScratch*) const override {
    if (left_) {
      size_t begin = 0;
      for (size_t i = 0; i < text->size() && IsWhitespace(DecodeUtf8(*text, &i));) {
        begin = i;
      }
      if (begin > 0) {
        *from_origin = false;
        text->erase(0, begin);
      }
    }
    if (right_) {
      size_t end = 0;  // of the last character that stays
      for (size_t i = 0; i < text->size();) {
        if (!IsWhitespace(DecodeUtf8(*text, &i))) {
          end = i;
        }
      }
      text->resize(end);
    }
  }

 private:
  bool left_;
  bool right_;
};

class LowercaseNormalizer final : public Normalizer {
 public:
  void Apply(std::string* text, bool*, RegexScratch*) const override { *text = ToLower(*text); }
};

class ByteLevelNormalizer final : public Normalizer {
 public:
  void Apply(std::string* text, bool*, RegexScratch*) const override {
    *text = BytesToAlphabet(*text);
  }
};

// Drops the characters for which `drop` holds.
template <typename Drop>
void Filter(std::string* text, bool* from_origin, Drop drop) {
  std::string out;
  out.reserve(text->size());
  for (size_t i = 0; i < text->size();) {
    const size_t begin = i;
    if (drop(DecodeUtf8(*text, &i))) {
      *from_origin = *from_origin && begin > 0;
    } else {
      out.append(*text, begin, i - begin);
    }
  }
  *text = std::move(out);
}

// Rewrites character by character: append(character, &out).
template <typename Append>
void Map(std::string* text, Append append) {
  std::string out;
  out.reserve(text->size());
  for (size_t i = 0; i < text->size();) {
    append(DecodeUtf8(*text, &i), &out);
  }
  *text = std::move(out);
}

class StripAccentsNormalizer final : public Normalizer {
 public:
  void Apply(std::string* text, bool* from_origin, RegexScratch*) const override {
    Filter(text, from_origin, IsCombiningMark);
  }
};

// The character clean-up of Google's NMT, without its control characters and with one space.
class NmtNormalizer final : public Normalizer {
 public:
  void Apply(std::string* text, bool* from_origin, RegexScratch*) const override {
    Filter(text, from_origin, [](char32_t c) {
      return (c >= 0x01 && c <= 0x08) || c == 0x0b || (c >= 0x0e && c <= 0x1f) || c == 0x7f ||
             c == 0x8f || c == 0x9f;
    });
    Map(text, [](char32_t c, std::string* out) {
      const bool is_space = c == 0x09 || c == 0x0a || c == 0x0c || c == 0x0d || c == 0x1680 ||
                            (c >= 0x200b && c <= 0x200f) || c == 0x2028 || c == 0x2029 ||
                            c == 0x2581 || c == 0xfeff || c == 0xfffd;
      AppendUtf8(is_space ? U' ' : c, out);
    });
  }
};

// What BERT does to text: cleans it up, isolates Chinese characters, strips accents, lowers case.
class BertNormalizer final : public Normalizer {
 public:
  explicit BertNormalizer(const JsonFields& fields)
      : clean_text_(fields.FindBool("clean_text").value_or(true)),
        isolate_chinese_(fields.FindBool("handle_chinese_chars").value_or(true)),
        lowercase_(fields.FindBool("lowercase").value_or(true)),
        strip_accents_(fields.FindBool("strip_accents").value_or(lowercase_)) {}

  void Apply(std::string* text, bool* from_origin, RegexScratch*) const override {
    if (clean_text_) {
      Filter(text, from_origin, [](char32_t c) {
        const bool is_line_space = c == '\t' || c == '\n' || c == '\r';
        return c == 0 || c == 0xfffd || (!is_line_space && IsControl(c));
      });
      Map(text, [](char32_t c, std::string* out) { AppendUtf8(IsWhitespace(c) ? U' ' : c, out); });
    }
    if (isolate_chinese_) {
      Map(text, [](char32_t c, std::string* out) {
        const bool is_chinese = IsChinese(c);
        *out += is_chinese ? " " : "";
        AppendUtf8(c, out);
        *out += is_chinese ? " " : "";
      });
    }
    if (strip_accents_) {
      *text = Normalize(*text, NormalizationForm::kNfd);
      Filter(text, from_origin, IsNonspacingMark);
    }
    if (lowercase_) {
      *text = ToLower(*text);
    }
  }

 private:
  // The CJK Unified Ideographs blocks, as Google's BERT lists them.
  static bool IsChinese(char32_t c) {
    return (c >= 0x4e00 && c <= 0x9fff) || (c >= 0x3400 && c <= 0x4dbf) ||
           (c >= 0x20000 && c <= 0x2a6df) || (c >= 0x2a700 && c <= 0x2b73f) ||
           (c >= 0x2b740 && c <= 0x2b81f) || (c >= 0x2b920 && c <= 0x2ceaf) ||
           (c >= 0xf900 && c <= 0xfaff) || (c >= 0x2f800 && c <= 0x2fa1f);
  }

  bool clean_text_;
  bool isolate_chinese_;
  bool lowercase_;
  bool strip_accents_;
};

class SequenceNormalizer final : public Normalizer {
 public:
  explicit SequenceNormalizer(const JsonFields& fields) {
    for (const JsonFields& step : fields.GetObjects("normalizers")) {
      steps_.push_back(MakeNormalizer(step));
    }
  }
  void Apply(std::string* text, bool* from_origin, RegexScratch* scratch) const override {
    for (const auto& step : steps_) {
      step->Apply(text, from_origin, scratch);
    }
  }

 private:
  std::vector<std::unique_ptr<const Normalizer>> steps_;
};

}  // namespace

std::unique_ptr<const Normalizer> MakeNormalizer(const JsonFields& fields) {
  const std::string type = fields.GetString("type");
  if (type == "NFC") return std::make_unique<UnicodeNormalizer>(NormalizationForm::kNfc);
  if (type == "NFD") return std::make_unique<UnicodeNormalizer>(NormalizationForm::kNfd);
  if (type == "NFKC") return std::make_unique<UnicodeNormalizer>(NormalizationForm::kNfkc);
  if (type == "NFKD") return std::make_unique<UnicodeNormalizer>(NormalizationForm::kNfkd);
  if (type == "Replace") return std::make_unique<ReplaceNormalizer>(fields);
  if (type == "Prepend") return std::make_unique<PrependNormalizer>(fields);
  if (type == "Strip") return std::make_unique<StripNormalizer>(fields);
  if (type == "StripAccents") return std::make_unique<StripAccentsNormalizer>();
  if (type == "Lowercase") return std::make_unique<LowercaseNormalizer>();
  if (type == "Nmt") return std::make_unique<NmtNormalizer>();
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "BertNormalizer") return std::make_unique<BertNormalizer>(fields);
  if (type == "Precompiled") return std::make_unique<PrecompiledNormalizer>(fields);
  if (type == "Sequence") return std::make_unique<SequenceNormalizer>(fields);
  fields.FailUnsupported("type", StrCat("unknown normalizer ", QuoteForMessage(type)));
}

Pattern::Pattern(const JsonFields& owner) {
  const JsonFields pattern = owner.GetObject("pattern");
  if (pattern.Has("Regex")) {
    regex_ = std::make_shared<const Regex>(pattern.GetString("Regex"), owner.origin());
  } else {
    literal_ = pattern.GetString("String");
  }
}

std::string Pattern::Replace(std::string_view text, std::string_view replacement,
                             RegexScratch* scratch) const {
  std::string out;
  out.reserve(text.size());
  size_t copied = 0;
  ForEachMatch(text, scratch, [&](size_t begin, size_t end) {
    out += text.substr(copied, begin - copied);
    out += replacement;
    copied = end;
  });
  out += text.substr(copied);
  return out;
}

}  // namespace dualfp
