#include "dualfp/text/regex.h"

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

TEST(RegexTest, RefusesWhatItCannotTranslate) {
  for (const char* pattern : {"[a&&b]", "[a[bc]]", R"([^\W])"}) {
    try {
      const Regex regex(pattern, "file.json");
      FAIL() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_NE(std::string(error.what()).find("file.json"), std::string::npos);
      EXPECT_NE(std::string(error.what()).find(pattern), std::string::npos);
    }
  }
}

TEST(RegexTest, BrokenPatternsAreErrors) {
  for (const char* pattern :
       {"(", "[a", "a{2", R"(\p{Nope})", R"(\p)", "*", R"(\)", "(?<n", "[:x"}) {
    try {
      const Regex regex(pattern, "file.json");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidFile) << pattern;
    }
  }
  EXPECT_THROW(Regex("(", "f"), Error);
  EXPECT_THROW(Regex(std::string(100'000, '('), "f"), Error);
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
