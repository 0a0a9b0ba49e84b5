#include "dualfp/text/unicode.h"

#include <gtest/gtest.h>

#include <string>

namespace dualfp {
namespace {

TEST(UnicodeTest, ReplacesMaximalInvalidParts) {
  // The examples of the Unicode standard, section 3.9, tables 3-8 to 3-11.
  const std::string bad = "\xef\xbf\xbd";
  EXPECT_EQ(ReplaceInvalidUtf8("\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41"),
            bad + bad + bad + bad + bad + bad + bad + bad + "A");
  EXPECT_EQ(ReplaceInvalidUtf8("\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41"),
            bad + bad + bad + bad + bad + bad + bad + bad + "A");
  EXPECT_EQ(ReplaceInvalidUtf8("\xf4\x91\x92\x93\xff\x41\x80\xbf\x42"),
            bad + bad + bad + bad + bad + "A" + bad + bad + "B");
  EXPECT_EQ(ReplaceInvalidUtf8("\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41"),
            bad + bad + bad + bad + "A");
}

TEST(UnicodeTest, StreamAgreesWithWholeForEveryCut) {
  const std::string text = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\xf0\x9f\xe2\x82z\xff\xc3";
  const std::string whole = ReplaceInvalidUtf8(text);
  for (size_t i = 0; i <= text.size(); ++i) {
    for (size_t j = i; j <= text.size(); ++j) {
      Utf8Stream stream;
      std::string out;
      stream.Push(text.substr(0, i), &out);
      EXPECT_TRUE(IsValidUtf8(out));
      stream.Push(text.substr(i, j - i), &out);
      EXPECT_TRUE(IsValidUtf8(out));
      stream.Push(text.substr(j), &out);
      stream.Finish(&out);
      EXPECT_EQ(out, whole) << i << " " << j;
    }
  }
}

TEST(UnicodeTest, EveryCodePointRoundTrips) {
  for (char32_t c = 0; c < 0x110000; ++c) {
    std::string text;
    AppendUtf8(c, &text);
    size_t position = 0;
    const char32_t decoded = DecodeUtf8(text, &position);
    ASSERT_EQ(decoded, c >= 0xd800 && c < 0xe000 ? char32_t{0xfffd} : c);
    ASSERT_EQ(position, text.size());
    ASSERT_TRUE(IsValidUtf8(text));
  }
}

TEST(UnicodeTest, NormalizationIsLinearInRunsOfMarks) {
  // Alternating classes: reordering by insertion would take minutes.
  std::string text = "a";
  for (int i = 0; i < 200'000; ++i) {
    text += "\xcc\x81\xcc\x96";  // U+0301 (class 230), U+0316 (class 220)
  }
  const std::string nfd = Normalize(text, NormalizationForm::kNfd);
  EXPECT_EQ(nfd.size(), text.size());
  EXPECT_EQ(nfd.substr(0, 5), "a\xcc\x96\xcc\x96");
}

TEST(UnicodeTest, Normalizes) {
  EXPECT_EQ(Normalize("e\xcc\x81", NormalizationForm::kNfc), "\xc3\xa9");
  EXPECT_EQ(Normalize("\xc3\xa9", NormalizationForm::kNfd), "e\xcc\x81");
  EXPECT_EQ(Normalize("\xef\xac\x81", NormalizationForm::kNfkc), "fi");
  EXPECT_EQ(Normalize("\xea\xb0\x80\xe1\x86\xa8", NormalizationForm::kNfc), "\xea\xb0\x81");
}

TEST(UnicodeTest, CountsAndFindsCodePoints) {
  const std::string text = "a\xc3\xa9\xf0\x9f\x98\x80z";
  EXPECT_EQ(CountCodePoints(text), 4u);
  EXPECT_EQ(CodePointOffset(text, 2), 3u);
  EXPECT_EQ(CodePointOffset(text, 9), text.size());
}

}  // namespace
}  // namespace dualfp
