#include "dualfp/text/unicode_script.h"

#include <string>
#include <string_view>
#include <vector>

#include "dualfp/text/regex/properties.h"
#include "dualfp/text/regex/regex.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr size_t kCodePoints = 0x110000;

// PCRE2 knows the scripts; a table answers faster than its patterns.
class ScriptTable {
 public:
  ScriptTable() : scripts_(kCodePoints, kNoScript) {
    std::string all;  // that has a script
    for (char32_t c = 0; c < kCodePoints; ++c) {
      const GeneralCategory category = GeneralCategories()[c];
      if (category != GeneralCategory::kCn && category != GeneralCategory::kCs &&
          category != GeneralCategory::kCo) {
        AppendUtf8(c, &all);
      }
    }
    RegexScratch scratch;
    Script number = kNoScript;
    for (const std::string_view name : ScriptNames()) {
      ++number;
      const Regex runs("\\p{" + std::string(name) + "}+", "built-in pattern");
      runs.ForEachMatch(all, &scratch, [&](size_t begin, size_t end) {
        for (size_t i = begin; i < end;) {
          scripts_[DecodeUtf8(all, &i)] = number;
        }
      });
    }
  }

  Script operator[](char32_t c) const { return scripts_[c]; }

 private:
  std::vector<Script> scripts_;
};

}  // namespace

Script ScriptOf(char32_t c) {
  static const ScriptTable table;
  return table[c];
}

}  // namespace dualfp
