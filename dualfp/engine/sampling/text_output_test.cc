#include "dualfp/engine/sampling/text_output.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "dualfp/engine/testing/fake_vocabulary.h"

namespace dualfp {
namespace {

using testing::FakeVocabulary;

struct Result {
  std::string text;
  int stop = -1;
  std::vector<size_t> emitted;  // bytes after each token
};

Result RunTokens(const std::vector<std::string>& tokens, const std::vector<std::string>& stops,
                 bool include, size_t first_may_stop = 0) {
  const FakeVocabulary vocabulary(tokens);
  TextOutput output(vocabulary.NewStream({}, true), &stops, include);
  Result result;
  for (size_t i = 0; i < tokens.size() && result.stop < 0; ++i) {
    result.stop = output.Append(static_cast<int32_t>(i), i >= first_may_stop);
    output.Take(&result.text);
    result.emitted.push_back(result.text.size());
  }
  output.Finish();
  output.Take(&result.text);
  return result;
}

TEST(TextOutput, WithoutStopStringsTextFollowsTokens) {
  const Result result = RunTokens({"Hel", "lo", "", " you"}, {}, false);
  EXPECT_EQ(result.text, "Hello you");
  EXPECT_EQ(result.emitted, (std::vector<size_t>{3, 5, 5, 9}));
}

TEST(TextOutput, CutsAtAStopStringSpreadOverTokens) {
  const Result result = RunTokens({"one t", "w", "o three"}, {"two"}, false);
  EXPECT_EQ(result.text, "one ");
  EXPECT_EQ(result.stop, 0);
  EXPECT_EQ(result.emitted, (std::vector<size_t>{4, 4, 4}));
}

TEST(TextOutput, KeepsTheStopStringWhereAsked) {
  const Result result = RunTokens({"one t", "w", "o three"}, {"two"}, true);
  EXPECT_EQ(result.text, "one two");
  EXPECT_EQ(result.emitted, (std::vector<size_t>{5, 6, 7})) << "nothing is held back";
}

TEST(TextOutput, ReleasesWhatOnlyLookedLikeAStopString) {
  const Result result = RunTokens({"aa", "ab", "x", "aa"}, {"aaab!"}, false);
  EXPECT_EQ(result.text, "aaabxaa");
  EXPECT_EQ(result.emitted, (std::vector<size_t>{0, 0, 5, 5}));
}

TEST(TextOutput, FindsAStopStringThatOverlapsAFailedBeginning) {
  EXPECT_EQ(RunTokens({"abab", "abc!"}, {"ababc"}, false).text, "ab");
}

TEST(TextOutput, TheStopStringThatEndsFirstWins) {
  const Result result = RunTokens({"hello world"}, {"world", "lo w"}, false);
  EXPECT_EQ(result.text, "hel");
  EXPECT_EQ(result.stop, 1);
}

TEST(TextOutput, MinTokensLetsStopStringsPass) {
  const Result result = RunTokens({"stop ", "st", "op", " stop"}, {"stop"}, false, 3);
  EXPECT_EQ(result.text, "stop stop ");
  EXPECT_EQ(result.stop, 0);
  // One that begins before and ends after counts.
  EXPECT_EQ(RunTokens({"a st", "op b"}, {"stop"}, false, 1).text, "a ");
}

TEST(TextOutput, AnUnfinishedCharacterAtTheEndIsReplaced) {
  EXPECT_EQ(RunTokens({"caf\xC3"}, {}, false).text, "caf\xEF\xBF\xBD");
  const Result stopped = RunTokens({"caf\xC3", "\xA9!"}, {"f\xC3\xA9"}, false);
  EXPECT_EQ(stopped.text, "ca");
}

// The obvious way: look at the whole text after each token.
Result Naive(const std::vector<std::string>& tokens, const std::vector<std::string>& stops,
             bool include, size_t first_may_stop) {
  Result result;
  std::string text;
  for (size_t i = 0; i < tokens.size(); ++i) {
    const size_t before = text.size();
    text += tokens[i];
    for (size_t end = before + 1; end <= text.size() && i >= first_may_stop; ++end) {
      for (size_t stop = 0; stop < stops.size(); ++stop) {
        const size_t size = stops[stop].size();
        if (end >= size && text.compare(end - size, size, stops[stop]) == 0) {
          result.stop = static_cast<int>(stop);
          result.text = text.substr(0, include ? end : end - size);
          result.emitted.push_back(result.text.size());
          return result;
        }
      }
    }
    size_t held = 0;
    for (const std::string& stop : stops) {
      for (size_t size = 1; size < stop.size() && size <= text.size() && !include; ++size) {
        if (text.ends_with(stop.substr(0, size))) {
          held = std::max(held, size);
        }
      }
    }
    // What has been shown stays: with include it always has.
    result.emitted.push_back(text.size() - held);
  }
  result.text = text;
  return result;
}

TEST(TextOutput, AgreesWithTheNaiveSearch) {
  std::mt19937 random(1);
  const auto word = [&](size_t longest) {
    std::string text;
    for (size_t size = random() % (longest + 1); text.size() < size;) {
      text += "ab"[random() % 2];
    }
    return text;
  };
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::string> tokens;
    for (size_t count = random() % 12; tokens.size() < count;) {
      tokens.push_back(word(4));
    }
    std::vector<std::string> stops;
    for (size_t count = random() % 4; stops.size() < count;) {
      if (std::string stop = word(6); !stop.empty()) {
        stops.push_back(stop);
      }
    }
    const bool include = random() % 2 == 0;
    const size_t first = random() % 3 == 0 ? random() % 6 : 0;
    const Result expected = Naive(tokens, stops, include, first);
    const Result result = RunTokens(tokens, stops, include, first);
    ASSERT_EQ(result.text, expected.text) << round;
    ASSERT_EQ(result.stop, expected.stop) << round;
    ASSERT_EQ(result.emitted, expected.emitted) << round;
  }
}

}  // namespace
}  // namespace dualfp
