#include "dualfp/text/regex/properties.h"

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <initializer_list>

#include "dualfp/base/check.h"
#include "dualfp/text/regex/property_tables.h"
#include "dualfp/text/regex/unicode_blocks.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

struct NamedCategory {
  std::string_view name;      // in lower case without separators
  std::string_view category;  // as PCRE2 spells it
};

constexpr NamedCategory kCategories[] = {
    {"letter", "L"},
    {"casedletter", "L&"},
    {"lc", "L&"},
    {"uppercaseletter", "Lu"},
    {"lowercaseletter", "Ll"},
    {"titlecaseletter", "Lt"},
    {"modifierletter", "Lm"},
    {"otherletter", "Lo"},
    {"mark", "M"},
    {"combiningmark", "M"},
    {"nonspacingmark", "Mn"},
    {"spacingmark", "Mc"},
    {"enclosingmark", "Me"},
    {"number", "N"},
    {"decimalnumber", "Nd"},
    {"letternumber", "Nl"},
    {"othernumber", "No"},
    {"punctuation", "P"},
    {"punct", "P"},
    {"connectorpunctuation", "Pc"},
    {"dashpunctuation", "Pd"},
    {"openpunctuation", "Ps"},
    {"closepunctuation", "Pe"},
    {"initialpunctuation", "Pi"},
    {"finalpunctuation", "Pf"},
    {"otherpunctuation", "Po"},
    {"symbol", "S"},
    {"mathsymbol", "Sm"},
    {"currencysymbol", "Sc"},
    {"modifiersymbol", "Sk"},
    {"othersymbol", "So"},
    {"separator", "Z"},
    {"spaceseparator", "Zs"},
    {"lineseparator", "Zl"},
    {"paragraphseparator", "Zp"},
    {"other", "C"},
    {"control", "Cc"},
    {"format", "Cf"},
    {"surrogate", "Cs"},
    {"privateuse", "Co"},
    {"unassigned", "Cn"},
};

std::string Range(char32_t first, char32_t last) {
  return first == last ? QuoteCodePoint(first)
                       : StrCat(QuoteCodePoint(first), "-", QuoteCodePoint(last));
}

// "897 1c89-1c8a" as the content of a class.
std::string RangesOf(std::string_view text) {
  std::string content;
  const char* const end = text.data() + text.size();
  for (const char* at = text.data(); at < end;) {
    uint32_t first = 0;
    at = std::from_chars(at, end, first, 16).ptr;
    uint32_t last = first;
    if (at < end && *at == '-') {
      at = std::from_chars(at + 1, end, last, 16).ptr;
    }
    content += Range(first, last);
    at += at < end ? 1 : 0;
  }
  return content;
}

// Whether one of the names in a list with spaces between them is `name`.
bool IsAmong(std::string_view names, std::string_view name) {
  while (!names.empty()) {
    const size_t space = std::min(names.find(' '), names.size());
    if (names.substr(0, space) == name) {
      return true;
    }
    names.remove_prefix(std::min(space + 1, names.size()));
  }
  return false;
}

// "Lu" for "lu", "L" for "l"; nothing for what is no category.
std::optional<std::string> CategoryOf(std::string_view normalized) {
  if (normalized.empty() || normalized.size() > 2 || normalized[0] < 'a' || normalized[0] > 'z') {
    return std::nullopt;
  }
  std::string name(normalized);
  name[0] = static_cast<char>(name[0] - 'a' + 'A');
  constexpr auto kLast = static_cast<uint8_t>(GeneralCategory::kCo);
  for (uint8_t category = 0; category <= kLast; ++category) {
    if (CategoryName(static_cast<GeneralCategory>(category)).starts_with(name)) {
      return name;
    }
  }
  return std::nullopt;
}

bool IsUnassigned(GeneralCategory category) { return category == GeneralCategory::kCn; }

// What PCRE2 may not have in a category yet, as the content of a class.
template <typename Holds>
std::string NewerCodePoints(Holds holds) {
  std::string content;
  for (const CategoryRange& range : CategoriesSinceUnicode14()) {
    if (holds(range.category)) {
      content += Range(range.first, range.last);
    }
  }
  return content;
}

CharacterSet SetOf(std::string_view content) {
  CharacterSet set;
  set.Add(content);
  return set;
}

CharacterSet Without(std::string_view content, std::string_view excluded) {
  CharacterSet set;
  set.AddPattern(StrCat("(?:(?![", excluded, "])[", content, "])"));
  return set;
}

// `category` as PCRE2 spells it.
CharacterSet Category(std::string_view category) {
  const std::string known = StrCat("\\p{", category, "}");
  if (category == "C" || category == "Cn") {
    const std::string assigned =
        NewerCodePoints([&](GeneralCategory c) { return !IsUnassigned(c); });
    if (category == "Cn") {
      return Without(known, assigned);
    }
    CharacterSet set = Without(known, assigned);
    set.Add(NewerCodePoints([](GeneralCategory c) { return CategoryName(c).starts_with('C'); }));
    return set;
  }
  std::string content =
      StrCat(known, NewerCodePoints([&](GeneralCategory c) {
               const std::string_view name = CategoryName(c);
               return category == "L&" ? name == "Lu" || name == "Ll" : name.starts_with(category);
             }));
  // Mn in Unicode 14, Mc since.
  constexpr std::string_view kRecategorized = "\\x{1171e}";
  if (category == "Mn") {
    return Without(content, kRecategorized);
  }
  return SetOf(category == "Mc" ? StrCat(content, kRecategorized) : content);
}

std::string Normalized(std::string_view name) {
  std::string normalized;
  for (const char c : name) {
    if (c != ' ' && c != '-' && c != '_') {
      normalized += c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
    }
  }
  return normalized;
}

template <typename Visit>
void ForEachScript(Visit visit) {
  for (std::string_view rest = kScripts; !rest.empty();) {
    const size_t end = rest.find(';');
    visit(rest.substr(0, end));
    rest.remove_prefix(end + 1);
  }
}

std::optional<CharacterSet> FindBlock(std::string_view name) {
  CharacterSet all;
  for (const UnicodeBlock& block : kBlocks) {
    const std::string range = Range(block.first, block.last);
    if (block.name == name) {
      return SetOf(range);
    }
    all.Add(range);
  }
  if (name != "noblock") {
    return std::nullopt;
  }
  CharacterSet none;
  none.AddSet(all, /*negated=*/true);
  return none;
}

// The sets that have a POSIX bracket and a property of the same name and the same characters.
std::optional<CharacterSet> FindSharedName(std::string_view name) {
  constexpr std::pair<std::string_view, std::string_view> kSets[] = {
      {"blank", "\\p{Zs}\\t"}, {"cntrl", "\\p{Cc}"},     {"space", "\\p{White_Space}"},
      {"xdigit", "0-9A-Fa-f"}, {"ascii", "\\x00-\\x7f"},
  };
  for (const auto& [known, content] : kSets) {
    if (known == name) {
      return SetOf(content);
    }
  }
  if (name == "digit") {
    return Category("Nd");
  }
  const auto property = [](std::string_view of) { return *FindProperty(of); };
  CharacterSet set;
  if (name == "alpha") {
    return property("alphabetic");
  }
  if (name == "upper" || name == "lower") {
    return property(name == "upper" ? "uppercase" : "lowercase");
  }
  if (name == "alnum") {
    set = property("alphabetic");
    set.AddSet(Category("Nd"), false);
    return set;
  }
  if (name == "graph" || name == "print") {
    CharacterSet blank = SetOf("\\p{White_Space}\\p{Cc}\\p{Cs}");
    blank.AddSet(Category("Cn"), false);
    set.AddSet(blank, /*negated=*/true);
    if (name == "print") {
      set.Add("\\p{Zs}");
    }
    return set;
  }
  return std::nullopt;
}

}  // namespace

std::string WordCharacters() {
  static const std::string characters = [] {
    return StrCat(R"(\p{Alphabetic}\p{M}\p{Nd}\p{Pc}\xb2\xb3\xb9\xbc-\xbe)",
                  NewerCodePoints([](GeneralCategory c) {
                    const std::string_view name = CategoryName(c);
                    return name[0] == 'L' || name[0] == 'M' || name == "Nd" || name == "Nl" ||
                           name == "Pc";
                  }));
  }();
  return characters;
}

std::optional<CharacterSet> FindPosixBracket(std::string_view name) {
  if (name == "punct") {
    CharacterSet set = Category("P");
    set.AddSet(Category("S"), false);
    return set;
  }
  if (name == "word") {
    CharacterSet set = *FindProperty("alphabetic");
    for (const std::string_view category : {"M", "Nd", "Pc"}) {
      set.AddSet(Category(category), false);
    }
    return set;
  }
  return FindSharedName(name);
}

std::optional<CharacterSet> FindProperty(std::string_view name) {
  const std::string normalized = Normalized(name);
  for (const NamedCategory& category : kCategories) {
    if (category.name == normalized) {
      return Category(category.category);
    }
  }
  if (const std::optional<std::string> category = CategoryOf(normalized)) {
    return Category(*category);
  }
  for (const PropertyData& property : kProperties) {
    if (IsAmong(property.names, normalized)) {
      const std::string known =
          property.known_as.empty() ? "" : StrCat("\\p{", property.known_as, "}");
      const std::string content = StrCat(known, RangesOf(property.additional));
      return property.excluded.empty() ? SetOf(content)
                                       : Without(content, RangesOf(property.excluded));
    }
  }
  if (normalized == "word") {
    return SetOf(WordCharacters());
  }
  if (normalized == "posixpunct") {
    return FindPosixBracket("punct");
  }
  if (normalized == "newline") {
    return SetOf("\\n");
  }
  if (normalized == "unknown" || normalized == "zzzz") {  // the script
    CharacterSet set = Category("Cn");
    set.Add("\\p{Co}\\p{Cs}");
    return set;
  }
  if (normalized == "assigned") {
    CharacterSet set;
    set.AddSet(Category("Cn"), /*negated=*/true);
    return set;
  }
  if (normalized == "any") {
    CharacterSet set;
    set.AddPattern("(?s:.)");
    return set;
  }
  if (const std::optional<CharacterSet> shared = FindSharedName(normalized)) {
    return shared;
  }
  if (normalized.starts_with("in")) {
    if (const std::optional<CharacterSet> block = FindBlock(normalized.substr(2))) {
      return block;
    }
  }
  std::optional<CharacterSet> script;
  ForEachScript([&](std::string_view names) {
    if (IsAmong(names, normalized)) {
      script = SetOf(StrCat("\\p{sc:", normalized, "}"));
    }
  });
  if (script) {
    return script;
  }
  const bool is_word =
      !normalized.empty() && std::all_of(normalized.begin(), normalized.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9');
      });
  return is_word ? std::optional(SetOf(StrCat("\\p{", normalized, "}"))) : std::nullopt;
}

std::vector<std::string_view> ScriptNames() {
  std::vector<std::string_view> names;
  ForEachScript(
      [&](std::string_view script) { names.push_back(script.substr(0, script.find(' '))); });
  return names;
}

}  // namespace dualfp
