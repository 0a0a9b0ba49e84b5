#include "dualfp/text/detokenizer.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

// Byte fallback: tokens <0x00> ... <0xFF> are ids 0 to 255, then "▁" and "a".
Tokenizer ByteFallbackTokenizer() {
  Json vocab = Json::object();
  constexpr char kHex[] = "0123456789ABCDEF";
  for (int byte = 0; byte < 256; ++byte) {
    vocab[std::string("<0x") + kHex[byte >> 4] + kHex[byte & 15] + ">"] = byte;
  }
  vocab["\xe2\x96\x81"] = 256;
  vocab["a"] = 257;
  const Json document = {
      {"model",
       {{"type", "BPE"}, {"byte_fallback", true}, {"vocab", vocab}, {"merges", Json::array()}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Replace"}, {"pattern", {{"String", "\xe2\x96\x81"}}}, {"content", " "}},
          {{"type", "ByteFallback"}},
          {{"type", "Fuse"}},
          {{"type", "Strip"}, {"content", " "}, {"start", 1}, {"stop", 0}}}}}}};
  return Tokenizer::FromJson(document.dump(), "t");
}

std::vector<std::string> Stream(const Tokenizer& tokenizer, const std::vector<int32_t>& ids) {
  std::vector<std::string> parts;
  Detokenizer detokenizer(tokenizer);
  for (const int32_t id : ids) {
    parts.push_back(detokenizer.Push(id));
    EXPECT_TRUE(IsValidUtf8(parts.back()));
  }
  parts.push_back(detokenizer.Finish());
  return parts;
}

using Strings = std::vector<std::string>;

TEST(DetokenizerTest, HoldsCharactersOfSeveralTokens) {
  const Tokenizer tokenizer = ByteFallbackTokenizer();
  EXPECT_EQ(Stream(tokenizer, {256, 257, 256, 0xe2, 0x82, 0xac, 257}),
            (Strings{"", "a", " ", "", "", "",
                     "\xe2\x82\xac"
                     "a",
                     ""}));
}

TEST(DetokenizerTest, UnfinishedCharactersComeAtTheEnd) {
  const Tokenizer tokenizer = ByteFallbackTokenizer();
  EXPECT_EQ(Stream(tokenizer, {257, 0xe2, 0x82}),
            (Strings{"a", "", "", "\xef\xbf\xbd\xef\xbf\xbd"}));
}

TEST(DetokenizerTest, ABrokenRunIsOneReplacementAByte) {
  // Decoding whole, the stray byte spoils the euro sign before it; so it must when streaming.
  const Tokenizer tokenizer = ByteFallbackTokenizer();
  const std::vector<int32_t> ids = {0xe2, 0x82, 0xac, 0x80, 257};
  std::string joined;
  for (const std::string& part : Stream(tokenizer, ids)) {
    joined += part;
  }
  EXPECT_EQ(joined, tokenizer.Decode(ids));
  EXPECT_EQ(joined,
            "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"
            "a");
}

TEST(DetokenizerTest, OnlyTheFirstSpaceIsStripped) {
  const Tokenizer tokenizer = ByteFallbackTokenizer();
  EXPECT_EQ(Stream(tokenizer, {256, 256, 257, 256}), (Strings{"", " ", "a", " ", ""}));
}

TEST(DetokenizerTest, StripAtTheEndWaits) {
  Json document = {
      {"model", {{"type", "BPE"}, {"vocab", {{"x", 0}, {"a", 1}}}, {"merges", Json::array()}}},
      {"decoder",
       {{"type", "Sequence"},
        {"decoders",
         {{{"type", "Fuse"}}, {{"type", "Strip"}, {"content", "x"}, {"start", 0}, {"stop", 2}}}}}}};
  const Tokenizer tokenizer = Tokenizer::FromJson(document.dump(), "t");
  const std::vector<int32_t> ids = {0, 1, 0, 0, 0, 1, 0, 0, 0};
  EXPECT_EQ(Stream(tokenizer, ids), (Strings{"", "xa", "", "", "x", "xxa", "", "", "x", ""}));
  EXPECT_EQ(tokenizer.Decode(ids), "xaxxxax");
}

}  // namespace
}  // namespace dualfp
