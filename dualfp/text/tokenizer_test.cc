#include "dualfp/text/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <vector>

#include "dualfp/base/error.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// a b c ab abc, and what `changes` says, as a merge patch.
Json SmallTokenizer(const Json& changes = Json::object()) {
  Json document = {
      {"version", "1.0"},
      {"added_tokens", Json::array()},
      {"model",
       {{"type", "BPE"},
        {"vocab", {{"a", 0}, {"b", 1}, {"c", 2}, {"ab", 3}, {"abc", 4}}},
        {"merges", {"a b", "ab c"}}}},
  };
  document.merge_patch(changes);
  return document;
}

Tokenizer Load(const Json& document) { return Tokenizer::FromJson(document.dump(), "t.json"); }

std::string LoadError(const Json& changes, ErrorCode code) {
  try {
    Load(SmallTokenizer(changes));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), code) << error.what();
    EXPECT_THAT(error.what(), HasSubstr("t.json"));
    return error.what();
  }
  return "";
}

TEST(TokenizerTest, EncodesAndDecodes) {
  const Tokenizer tokenizer = Load(SmallTokenizer());
  EXPECT_THAT(tokenizer.Encode("abcabba"), ElementsAre(4, 3, 1, 0));
  EXPECT_THAT(tokenizer.Encode(""), ElementsAre());
  EXPECT_THAT(tokenizer.Encode("axb"), ElementsAre(3));  // no unknown token: x is dropped
  EXPECT_EQ(tokenizer.vocab_size(), 5);
  EXPECT_EQ(tokenizer.id_limit(), 5);
  EXPECT_EQ(tokenizer.TokenToId("ab"), 3);
  EXPECT_EQ(tokenizer.TokenToId("x"), std::nullopt);
  EXPECT_EQ(tokenizer.IdToToken(4), "abc");
  EXPECT_EQ(tokenizer.IdToToken(-1), "");
  EXPECT_EQ(tokenizer.IdToToken(99), "");
  const std::vector<int32_t> ids = {4, 77, -5, 0};
  EXPECT_EQ(tokenizer.Decode(ids), "abc a");
}

TEST(TokenizerTest, UnknownComponentsAreNamed) {
  const auto named = [](const char* part, const Json& value) {
    return LoadError({{part, value}}, ErrorCode::kUnsupported);
  };
  EXPECT_THAT(named("normalizer", {{"type", "Odd"}}), HasSubstr("\"Odd\""));
  EXPECT_THAT(named("pre_tokenizer", {{"type", "Odd"}}), HasSubstr("\"Odd\""));
  EXPECT_THAT(named("post_processor", {{"type", "Odd"}}), HasSubstr("\"Odd\""));
  EXPECT_THAT(named("decoder", {{"type", "Odd"}}), HasSubstr("\"Odd\""));
  EXPECT_THAT(named("model", {{"type", "Odd"}}), HasSubstr("\"Odd\""));
  EXPECT_THAT(named("model", {{"dropout", 0.1}}), HasSubstr("dropout"));
  EXPECT_THAT(named("version", "2.0"), HasSubstr("2.0"));
  EXPECT_THAT(
      named("pre_tokenizer", {{"type", "Sequence"}, {"pretokenizers", {{{"type", "Nested"}}}}}),
      HasSubstr("pre_tokenizer.pretokenizers[0].type"));
}

TEST(TokenizerTest, BrokenFilesAreNamed) {
  const auto broken = [](const Json& changes) {
    return LoadError(changes, ErrorCode::kInvalidFile);
  };
  EXPECT_THAT(broken({{"model", nullptr}}), HasSubstr("model"));
  EXPECT_THAT(broken({{"model", {{"vocab", {{"x", -1}}}}}}), HasSubstr("vocab"));
  EXPECT_THAT(broken({{"model", {{"vocab", {{"x", 2'000'000'000}}}}}}), HasSubstr("vocab"));
  EXPECT_THAT(broken({{"model", {{"vocab", {{"x", "y"}}}}}}), HasSubstr("vocab"));
  EXPECT_THAT(broken({{"model", {{"vocab", 3}}}}), HasSubstr("vocab"));
  EXPECT_THAT(broken({{"model", {{"merges", {"a b c"}}}}}), HasSubstr("merges[0]"));
  EXPECT_THAT(broken({{"model", {{"merges", {"a b", "a z"}}}}}), HasSubstr("merges[1]"));
  EXPECT_THAT(broken({{"model", {{"merges", {{"a", "b", "c"}}}}}}), HasSubstr("merges[0]"));
  EXPECT_THAT(broken({{"model", {{"merges", 7}}}}), HasSubstr("merges"));
  EXPECT_THAT(broken({{"model", {{"unk_token", "<unk>"}}}}), HasSubstr("unk_token"));
  EXPECT_THAT(broken({{"model", {{"continuing_subword_prefix", "##"}}}}), HasSubstr("merges[0]"));
  EXPECT_THAT(broken({{"added_tokens", {{{"id", 5}}}}}), HasSubstr("added_tokens[0]"));
  EXPECT_THAT(broken({{"pre_tokenizer",
                       {{"type", "Split"},
                        {"pattern", {{"Regex", "("}}},
                        {"behavior", "Isolated"},
                        {"invert", false}}}}),
              HasSubstr("regular expression"));
  EXPECT_THAT(broken({{"post_processor",
                       {{"type", "BertProcessing"}, {"cls", {"c", 5}}, {"sep", {"b", 1}}}}}),
              HasSubstr("post_processor: id 5"));
  EXPECT_THAT(
      broken({{"decoder", {{"type", "Strip"}, {"content", "ab"}, {"start", 1}, {"stop", 0}}}}),
      HasSubstr("decoder.content"));
}

TEST(TokenizerTest, HostileJsonIsAnError) {
  for (const std::string& text :
       {std::string(10'000'000, '['), std::string(""), std::string("[]"), std::string("null"),
        "{\"model\":" + std::string(10'000'000, '{')}) {
    EXPECT_THROW(Tokenizer::FromJson(text, "t.json"), Error);
  }
}

TEST(TokenizerTest, MissingDirectoryIsNotFound) {
  try {
    Tokenizer::FromDirectory("/does/not/exist");
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kNotFound);
    EXPECT_THAT(error.what(), HasSubstr("/does/not/exist"));
  }
}

TEST(TokenizerTest, TruncationLeavesRoomForSpecialTokens) {
  const Tokenizer tokenizer = Load(SmallTokenizer(
      {{"post_processor", {{"type", "BertProcessing"}, {"cls", {"c", 2}}, {"sep", {"b", 1}}}}}));
  EncodeOptions options;
  options.max_length = 4;
  EXPECT_THAT(tokenizer.Encode("abcaa", options), ElementsAre(2, 4, 0, 1));
  options.truncation_side = EncodeOptions::Side::kLeft;
  EXPECT_THAT(tokenizer.Encode("abcaa", options), ElementsAre(2, 0, 0, 1));
  options.max_length = 1;
  EXPECT_THROW(tokenizer.Encode("a", options), Error);
}

TEST(TokenizerTest, OneLongWordIsNotQuadratic) {
  const Tokenizer tokenizer = Load(SmallTokenizer());
  std::string text;
  for (int i = 0; i < 300'000; ++i) {
    text += "abc";
  }
  const std::vector<int32_t> ids = tokenizer.Encode(text);
  EXPECT_EQ(ids.size(), 300'000u);
}

Json Scores(std::initializer_list<std::pair<const char*, double>> tokens) {
  Json scores = Json::array();
  for (const auto& [token, score] : tokens) {
    scores.push_back(Json::array({token, score}));
  }
  return scores;
}

Json ModelOnly(const Json& model) { return {{"version", "1.0"}, {"model", model}}; }

Json UnigramTokenizer(const Json& changes = Json::object()) {
  Json model = {{"type", "Unigram"},
                {"unk_id", 0},
                {"vocab", Scores({{"<unk>", 0.0}, {"a", -1.0}, {"b", -1.0}, {"ab", -1.5}})}};
  model.update(changes);
  return ModelOnly(model);
}

TEST(TokenizerTest, UnigramTakesTheBestScore) {
  EXPECT_THAT(Load(UnigramTokenizer()).Encode("aabb"), ElementsAre(1, 3, 2));
  EXPECT_THAT(Load(UnigramTokenizer()).Encode("axyb"), ElementsAre(1, 0, 2));
  EXPECT_THAT(Load(UnigramTokenizer({{"unk_id", 1}})).Encode("b<unk>"), ElementsAre(2, 0));
}

TEST(TokenizerTest, BrokenUnigramModelsAreNamed) {
  const auto error_of = [](const Json& changes) -> std::string {
    try {
      Load(UnigramTokenizer(changes));
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
      return error.what();
    }
    return "no error";
  };
  EXPECT_THAT(error_of({{"unk_id", 4}}), HasSubstr("model.unk_id"));
  EXPECT_THAT(error_of({{"vocab", Json::array({Json::array({"a", 0.0}), Json::array({"b"})})}}),
              HasSubstr("model.vocab[1]"));
  EXPECT_THAT(error_of({{"vocab", Json::array({Json::array({"a", "c"})})}}),
              HasSubstr("model.vocab[0]"));
  EXPECT_THAT(error_of({{"vocab", {{"a", 1}}}}), HasSubstr("model.vocab"));
}

TEST(TokenizerTest, TextWithoutATokenIsAnErrorWhereNothingStandsForIt) {
  for (const Json& json : {UnigramTokenizer({{"unk_id", nullptr}}),
                           ModelOnly({{"type", "WordLevel"}, {"vocab", {{"a", 0}}}}),
                           ModelOnly({{"type", "WordPiece"}, {"vocab", {{"a", 0}}}})}) {
    const Tokenizer tokenizer = Load(json);
    EXPECT_EQ(tokenizer.Encode("a").size(), 1u);
    try {
      tokenizer.Encode("z");
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
      EXPECT_THAT(error.what(), HasSubstr("\"z\""));
    }
  }
}

TEST(TokenizerTest, DamagedCharsmapsAreErrorsOrHarmless) {
  const auto load = [](const std::string& charsmap) {
    Json json = UnigramTokenizer();
    json["normalizer"] = {{"type", "Precompiled"}, {"precompiled_charsmap", charsmap}};
    return Load(json);
  };
  for (const char* damaged : {"", "AAAA", "A", "/////w==", "!!!!", "BAAAAA==", "AAAAAP8="}) {
    EXPECT_THROW(load(damaged), Error) << damaged;
  }
  // A trie whose only unit points far outside, and one without units.
  EXPECT_THAT(load("BAAAAP////8=").Encode("ab"), ElementsAre(3));
  EXPECT_THAT(load("AAAAAA==").Encode("ab"), ElementsAre(3));
}

TEST(TokenizerTest, ManyThreadsShareOne) {
  const Tokenizer tokenizer = Load(SmallTokenizer());
  const std::vector<int32_t> expected = tokenizer.Encode("abcab");
  std::atomic<int> wrong = 0;
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) {
        wrong += tokenizer.Encode("abcab") != expected || tokenizer.Decode(expected) != "abc ab";
      }
    });
  }
  for (std::thread& thread : threads) {
    thread.join();
  }
  EXPECT_EQ(wrong, 0);
}

TEST(TokenizerConfigTest, BrokenFilesAreNamed) {
  for (const char* json :
       {"[]", R"({"bos_token": 3})", R"({"bos_token": {}})", R"({"chat_template": 3})",
        R"({"chat_template": [3]})", R"({"added_tokens_decoder": {"x": {"content": "y"}}})",
        R"({"added_tokens_decoder": {"1": 2}})"}) {
    try {
      ParseTokenizerConfig(json, "tokenizer_config.json");
      ADD_FAILURE() << json;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
      EXPECT_THAT(error.what(), HasSubstr("tokenizer_config.json"));
    }
  }
}

TEST(TokenizerConfigTest, ChoosesTemplatesByTools) {
  const TokenizerConfig config = ParseTokenizerConfig(
      R"({"chat_template": [{"name": "default", "template": "D"},
                            {"name": "tool_use", "template": "T"}]})",
      "c");
  EXPECT_EQ(config.ChooseChatTemplate(false)->source, "D");
  EXPECT_EQ(config.ChooseChatTemplate(true)->source, "T");
  EXPECT_EQ(config.FindChatTemplate("rag"), nullptr);
  EXPECT_EQ(ParseTokenizerConfig("{}", "c").ChooseChatTemplate(true), nullptr);
}

}  // namespace
}  // namespace dualfp
