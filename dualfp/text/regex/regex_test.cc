#include "dualfp/text/regex/regex.h"

#include <gtest/gtest.h>

#include <string>
#include <utility>
#include <vector>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

std::vector<std::string> Matches(const char* pattern, std::string_view text) {
  const Regex regex(pattern, "test");
  RegexScratch scratch;
  std::vector<std::string> matches;
  regex.ForEachMatch(text, &scratch, [&](size_t begin, size_t end) {
    matches.emplace_back(text.substr(begin, end - begin));
  });
  return matches;
}

using Strings = std::vector<std::string>;

TEST(RegexTest, RubySyntax) {
  EXPECT_EQ(Matches(R"(\h+)", "zz1F g"), Strings{"1F"});
  EXPECT_EQ(Matches(R"((?m)a.b)", "a\nb"), Strings{"a\nb"});
  EXPECT_EQ(Matches(R"(a.b)", "a\nb"), Strings{});
  EXPECT_EQ(Matches(R"(^x$)", "x\nx"), (Strings{"x", "x"}));
  EXPECT_EQ(Matches(R"(\d{2}+)", "12345"), Strings{"1234"});  // repeats; not possessive
  EXPECT_EQ(Matches(R"(a++b)", "aab"), Strings{"aab"});
  EXPECT_EQ(Matches(R"([[:alpha:]_]+)", "ab_1"), Strings{"ab_"});
  EXPECT_EQ(Matches(R"(\u4e00|{)", "\xe4\xb8\x80{"), (Strings{"\xe4\xb8\x80", "{"}));
}

TEST(RegexTest, WhitespaceIsUnicodes) {
  // U+180E has not been a space since Unicode 6.3, whatever PCRE2's \s thinks.
  EXPECT_EQ(Matches(R"(\s)", "\xe1\xa0\x8e\xe3\x80\x80"), Strings{"\xe3\x80\x80"});
  EXPECT_EQ(Matches(R"([^\s])", "\xe1\xa0\x8e "), Strings{"\xe1\xa0\x8e"});
}

TEST(RegexTest, EmptyMatches) {
  EXPECT_EQ(Matches("x*", "axxb"), (Strings{"", "xx", ""}));
  EXPECT_EQ(Matches("x*", ""), Strings{""});
}

TEST(RegexTest, ClassesInsideClasses) {
  EXPECT_EQ(Matches("[a[bc]]+", "xabcx"), Strings{"abc"});
  EXPECT_EQ(Matches("[a-z&&[^aeiou]]+", "xyzabc"), (Strings{"xyz", "bc"}));
  EXPECT_EQ(Matches("[^a-z&&[^aeiou]]+", "xaZ9b"), (Strings{"aZ9"}));
  EXPECT_EQ(Matches(R"([^\W])", "a-b"), (Strings{"a", "b"}));
  EXPECT_EQ(Matches(R"([\p{L}&&[^\p{Lu}]&&[^x]]+)", "ABcdxe"), (Strings{"cd", "e"}));
  EXPECT_EQ(Matches("[&&a]|[b&&]", "ab"), Strings{});
  EXPECT_EQ(Matches("[a[^\\n]]", "\na"), Strings{"a"});
  EXPECT_EQ(Matches("[]-]+", "a]-b"), Strings{"]-"});
  EXPECT_EQ(Matches("(?<=[a[^b]])c", "acbcc"), (Strings{"c", "c"}));
}

TEST(RegexTest, PropertiesByOnigurumasNames) {
  EXPECT_EQ(Matches(R"(\p{Uppercase_Letter}\p{lower case-letter})", "aBc"), Strings{"Bc"});
  EXPECT_EQ(Matches(R"([\p{Han}&&\p{In_CJK_Unified_Ideographs}])", "\xe3\x80\x85\xe4\xb8\x80"),
            Strings{"\xe4\xb8\x80"});
  EXPECT_EQ(Matches(R"(\p{^Greek}+)",
                    "\xce\xb1"
                    "a"),
            Strings{"a"});
  EXPECT_EQ(Matches("[[:punct:]]+", "a+b."), (Strings{"+", "."}));
  EXPECT_EQ(Matches(R"(\p{Punct}+)", "a+b."), Strings{"."});
  EXPECT_EQ(Matches("[[:^alpha:]]", "a1"), Strings{"1"});
  // U+2FFC is a symbol since Unicode 15.1, which PCRE2 may not know.
  EXPECT_EQ(Matches(R"(\p{S})", "\xe2\xbf\xbc"), Strings{"\xe2\xbf\xbc"});
  EXPECT_EQ(Matches(R"(\p{Cn})", "\xe2\xbf\xbc"), Strings{});
}

TEST(RegexTest, LettersThatMeanSomethingToPcreOnly) {
  EXPECT_EQ(Matches(R"(\Qa\E)", "QaE"), Strings{"QaE"});
  EXPECT_EQ(Matches(R"(\pL)", "pL"), Strings{"pL"});
  EXPECT_EQ(Matches("a**b", "aab"), Strings{"aab"});
  EXPECT_EQ(Matches("a{,}", "a{,}"), Strings{"a{,}"});
  EXPECT_EQ(Matches("(?:a{2}?b)", "aab"), Strings{"aab"});
  EXPECT_EQ(Matches(R"(\xe4\xb8\x80)", "\xe4\xb8\x80"), Strings{"\xe4\xb8\x80"});
}

ErrorCode CodeOfError(const std::string& pattern) {
  try {
    const Regex regex(pattern, "file.json");
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("file.json"), std::string::npos) << error.what();
    return error.code();
  }
  ADD_FAILURE() << "no error: " << pattern.substr(0, 100);
  return ErrorCode::kInternal;
}

TEST(RegexTest, BrokenPatternsAreErrors) {
  for (const char* pattern :
       {"(", "[a", "[", "[]", "[^]", "[z-a]", R"([a-\d])", R"(\p{Nope})", R"(\p{sc=Greek})",
        R"(\u12)", R"([\u])", R"(\xff)", "*", R"(\)", "(?<n", "[:x", "[[:nope:]]", "[[a]"}) {
    EXPECT_EQ(CodeOfError(pattern), ErrorCode::kInvalidFile) << pattern;
  }
  EXPECT_EQ(CodeOfError(std::string(100'000, '(')), ErrorCode::kInvalidFile);
  EXPECT_EQ(CodeOfError(std::string(100'000, '[')), ErrorCode::kInvalidFile);
  EXPECT_EQ(CodeOfError(R"(a\y)"), ErrorCode::kUnsupported);
  EXPECT_EQ(CodeOfError(R"(\X)"), ErrorCode::kUnsupported);
}

TEST(RegexTest, EndlessBacktrackingIsAnError) {
  const Regex regex("(a|aa)+[bc]", "test");
  RegexScratch scratch;
  Regex::Match match;
  try {
    regex.Find(std::string(5000, 'a'), 0, &scratch, &match);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
  }
}

TEST(RegexTest, LongRunsOfWhitespace) {
  // Both alternatives look at the whole run; the stack must not grow with it.
  const std::string text = std::string(1 << 20, ' ') + "x";
  EXPECT_EQ(Matches(R"(\s*[\r\n]+|\s+(?!\S)|\s+)", text).size(), 2u);
}

}  // namespace
}  // namespace dualfp
