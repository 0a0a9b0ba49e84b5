#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/text/pipeline/decoder_stage.h"

namespace dualfp {
namespace {

std::string ReplaceText(std::string_view text, std::string_view before, std::string_view after) {
  std::string out;
  size_t copied = 0;
  for (size_t at = before.empty() ? std::string_view::npos : text.find(before);
       at != std::string_view::npos; at = text.find(before, copied)) {
    out += text.substr(copied, at - copied);
    out += after;
    copied = at + before.size();
  }
  out += text.substr(copied);
  return out;
}

// "</w>" ends a word: a space, except in the last token.
class BpeDecoderRun final : public DecoderRun {
 public:
  struct Config {
    explicit Config(const JsonFields& fields) : suffix(fields.GetString("suffix")) {
      if (suffix.empty()) {
        fields.FailExpected("suffix", "a string that is not empty");
      }
    }
    std::string suffix;
  };
  explicit BpeDecoderRun(const Config& config) : config_(config) {}
  void Push(std::string_view token, const TextSink& sink) override {
    Emit(" ", sink);
    last_ = token;
  }
  void Finish(const TextSink& sink) override { Emit("", sink); }

 private:
  void Emit(std::string_view replacement, const TextSink& sink) {
    if (!last_) {
      return;
    }
    const std::string out = ReplaceText(*last_, config_.suffix, replacement);
    last_.reset();
    sink(out);
  }

  const Config& config_;
  std::optional<std::string> last_;
};

// Undoes the spaces that English text does not have before punctuation and contractions.
std::string CleanUp(std::string_view token) {
  constexpr std::pair<std::string_view, std::string_view> kReplacements[] = {
      {" .", "."},   {" ?", "?"},     {" !", "!"},     {" ,", ","},
      {" ' ", "'"},  {" n't", "n't"}, {" 'm", "'m"},   {" do not", " don't"},
      {" 's", "'s"}, {" 've", "'ve"}, {" 're", "'re"},
  };
  std::string text(token);
  for (const auto& [before, after] : kReplacements) {
    text = ReplaceText(text, before, after);
  }
  return text;
}

// A token with the prefix continues the word before it; any other starts one.
class WordPieceRun final : public DecoderRun {
 public:
  struct Config {
    explicit Config(const JsonFields& fields)
        : prefix(fields.GetString("prefix")), cleanup(fields.GetBool("cleanup")) {}
    std::string prefix;
    bool cleanup;
  };
  explicit WordPieceRun(const Config& config) : config_(config) {}
  void Push(std::string_view token, const TextSink& sink) override {
    std::string out;
    if (std::exchange(first_, false)) {
      out = token;
    } else if (token.starts_with(config_.prefix)) {
      out = token.substr(config_.prefix.size());
    } else {
      out = StrCat(" ", token);
    }
    sink(config_.cleanup ? CleanUp(out) : out);
  }
  void Finish(const TextSink&) override {}

 private:
  const Config& config_;
  bool first_ = true;
};

// Connectionist temporal classification: repeated tokens are one, padding is nothing.
class CtcRun final : public DecoderRun {
 public:
  struct Config {
    explicit Config(const JsonFields& fields)
        : pad_token(fields.GetString("pad_token")),
          word_delimiter(fields.GetString("word_delimiter_token")),
          cleanup(fields.GetBool("cleanup")) {}
    std::string pad_token;
    std::string word_delimiter;
    bool cleanup;
  };
  explicit CtcRun(const Config& config) : config_(config) {}
  void Push(std::string_view token, const TextSink& sink) override {
    if (last_ == token) {
      return;
    }
    last_ = token;
    std::string out = ReplaceText(token, config_.pad_token, "");
    if (config_.cleanup) {
      out = ReplaceText(CleanUp(out), config_.word_delimiter, " ");
    }
    if (!out.empty()) {
      sink(out);
    }
  }
  void Finish(const TextSink&) override {}

 private:
  const Config& config_;
  std::optional<std::string> last_;
};

}  // namespace

std::unique_ptr<const TokenDecoder> MakeBpeDecoder(const JsonFields& fields) {
  return MakeStage<BpeDecoderRun>(fields);
}
std::unique_ptr<const TokenDecoder> MakeWordPieceDecoder(const JsonFields& fields) {
  return MakeStage<WordPieceRun>(fields);
}
std::unique_ptr<const TokenDecoder> MakeCtcDecoder(const JsonFields& fields) {
  return MakeStage<CtcRun>(fields);
}

}  // namespace dualfp
