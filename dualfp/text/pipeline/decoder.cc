#include "dualfp/text/pipeline/decoder.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <string>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/text/pipeline/byte_alphabet.h"
#include "dualfp/text/pipeline/decoder_stage.h"
#include "dualfp/text/pipeline/normalizer.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

// Without a decoder: tokens with spaces between them.
class JoinRun final : public DecoderRun {
 public:
  using Config = NoConfig;
  explicit JoinRun(const Config&) {}
  void Push(std::string_view token, const TextSink& sink) override {
    if (!std::exchange(first_, false)) {
      sink(" ");
    }
    sink(token);
  }
  void Finish(const TextSink&) override {}

 private:
  bool first_ = true;
};

class FuseRun final : public DecoderRun {
 public:
  using Config = NoConfig;
  explicit FuseRun(const Config&) {}
  void Push(std::string_view token, const TextSink& sink) override { sink(token); }
  void Finish(const TextSink&) override {}
};

// A token in GPT-2's alphabet stands for bytes, any other for itself.
class ByteLevelRun final : public DecoderRun {
 public:
  using Config = NoConfig;
  explicit ByteLevelRun(const Config&) {}
  void Push(std::string_view token, const TextSink& sink) override {
    out_.clear();
    if (AlphabetToBytes(token, &bytes_)) {
      token = bytes_;
    }
    utf8_.Push(token, &out_);
    if (!out_.empty()) {
      sink(out_);
    }
  }
  void Finish(const TextSink& sink) override {
    out_.clear();
    utf8_.Finish(&out_);
    if (!out_.empty()) {
      sink(out_);
    }
  }

 private:
  Utf8Stream utf8_;
  std::string bytes_;
  std::string out_;
};

// Runs of tokens <0xNN> become the text they spell, or one U+FFFD a byte when they spell none.
// Whether they do is only known when the run has ended, so it is held back until then.
class ByteFallbackRun final : public DecoderRun {
 public:
  using Config = NoConfig;
  explicit ByteFallbackRun(const Config&) {}

  void Push(std::string_view token, const TextSink& sink) override {
    if (const std::optional<uint8_t> byte = ParseByte(token)) {
      run_ += static_cast<char>(*byte);
      return;
    }
    Finish(sink);
    sink(token);
  }

  void Finish(const TextSink& sink) override {
    if (run_.empty()) {
      return;
    }
    if (IsValidUtf8(run_)) {
      sink(run_);
    } else {
      for (size_t i = 0; i < run_.size(); ++i) {
        sink(kReplacement);
      }
    }
    run_.clear();
  }

 private:
  static std::optional<uint8_t> ParseByte(std::string_view token) {
    if (token.size() != 6 || !token.starts_with("<0x") || token.back() != '>') {
      return std::nullopt;
    }
    // As Rust's from_str_radix, which lets a plus sign stand before the digits.
    const char* begin = token.data() + 3 + (token[3] == '+' ? 1 : 0);
    const char* end = token.data() + 5;
    uint8_t byte = 0;
    const auto [parsed, error] = std::from_chars(begin, end, byte, 16);
    return error == std::errc() && parsed == end ? std::optional(byte) : std::nullopt;
  }

  std::string run_;
};

class MetaspaceRun final : public DecoderRun {
 public:
  struct Config {
    explicit Config(const JsonFields& fields) : replacement(fields.GetString("replacement")) {
      if (CountCodePoints(replacement) != 1) {
        fields.FailExpected("replacement", "one character");
      }
      const bool never = fields.FindString("prepend_scheme").value_or("always") == "never";
      strip_first = !never && fields.FindBool("add_prefix_space").value_or(true);
    }
    std::string replacement;
    bool strip_first;  // drop the replacements of the first token
  };
  explicit MetaspaceRun(const Config& config) : config_(config) {}

  void Push(std::string_view token, const TextSink& sink) override {
    const bool drop = std::exchange(first_, false) && config_.strip_first;
    out_.clear();
    for (size_t i = 0; i < token.size();) {
      const size_t at = std::min(token.find(config_.replacement, i), token.size());
      out_ += token.substr(i, at - i);
      if (at < token.size() && !drop) {
        out_ += ' ';
      }
      i = at + config_.replacement.size();
    }
    sink(out_);
  }
  void Finish(const TextSink&) override {}

 private:
  const Config& config_;
  bool first_ = true;
  std::string out_;
};

class ReplaceRun final : public DecoderRun {
 public:
  struct Config {
    explicit Config(const JsonFields& fields)
        : pattern(fields), content(fields.GetString("content")) {}
    Pattern pattern;
    std::string content;
  };
  explicit ReplaceRun(const Config& config) : config_(config) {}
  void Push(std::string_view token, const TextSink& sink) override {
    sink(config_.pattern.Replace(token, config_.content, &scratch_));
  }
  void Finish(const TextSink&) override {}

 private:
  const Config& config_;
  RegexScratch scratch_;
};

struct StripConfig {
  explicit StripConfig(const JsonFields& fields)
      : content(fields.GetString("content")),
        start(fields.GetInt("start", 0, int64_t{1} << 31)),
        stop(fields.GetInt("stop", 0, int64_t{1} << 31)) {
    if (CountCodePoints(content) != 1) {
      fields.FailExpected("content", "one character");
    }
  }
  std::string content;
  int64_t start;
  int64_t stop;
};

// Removes up to `start` leading and `stop` trailing occurrences of a character from every token.
class StripRun final : public DecoderRun {
 public:
  using Config = StripConfig;
  explicit StripRun(const Config& config) : config_(config) {}
  void Push(std::string_view token, const TextSink& sink) override {
    for (int64_t i = 0; i < config_.start && token.starts_with(config_.content); ++i) {
      token.remove_prefix(config_.content.size());
    }
    for (int64_t i = 0; i < config_.stop && token.ends_with(config_.content); ++i) {
      token.remove_suffix(config_.content.size());
    }
    sink(token);
  }
  void Finish(const TextSink&) override {}

 private:
  const Config& config_;
};

class FusedStripRun final : public DecoderRun {
 public:
  explicit FusedStripRun(const StripConfig& config) : config_(config), start_left_(config.start) {}

  void Push(std::string_view piece, const TextSink& sink) override {
    while (start_left_ > 0 && !piece.empty()) {
      if (piece.starts_with(config_.content)) {
        piece.remove_prefix(config_.content.size());
        --start_left_;
      } else {
        start_left_ = 0;
      }
    }
    if (piece.empty()) {
      return;
    }
    if (config_.stop == 0) {
      sink(piece);
      return;
    }
    // What may have to be stripped from the end waits in held_.
    held_ += piece;
    std::string_view sure = held_;
    for (int64_t i = 0; i < config_.stop && sure.ends_with(config_.content); ++i) {
      sure.remove_suffix(config_.content.size());
    }
    if (!sure.empty()) {
      sink(sure);
      held_.erase(0, sure.size());
    }
  }
  // What is held now is at the very end.
  void Finish(const TextSink&) override {}

 private:
  const StripConfig& config_;
  int64_t start_left_;
  std::string held_;
};

class SequenceRun final : public DecoderRun {
 public:
  SequenceRun(const std::vector<std::unique_ptr<const TokenDecoder>>& stages, bool fused) {
    for (const auto& stage : stages) {
      runs_.push_back(fused ? stage->StartFused() : stage->Start());
      fused = fused || stage->fuses();
    }
  }

  void Push(std::string_view token, const TextSink& sink) override { PushFrom(0, token, sink); }

  void Finish(const TextSink& sink) override {
    for (size_t i = 0; i < runs_.size(); ++i) {
      runs_[i]->Finish([&](std::string_view out) { PushFrom(i + 1, out, sink); });
    }
  }

 private:
  void PushFrom(size_t stage, std::string_view token, const TextSink& sink) {
    if (stage == runs_.size()) {
      sink(token);
    } else {
      runs_[stage]->Push(token, [&](std::string_view out) { PushFrom(stage + 1, out, sink); });
    }
  }

  std::vector<std::unique_ptr<DecoderRun>> runs_;
};

class SequenceDecoder final : public TokenDecoder {
 public:
  explicit SequenceDecoder(const JsonFields& fields) {
    for (const JsonFields& stage : fields.GetObjects("decoders")) {
      stages_.push_back(MakeDecoder(&stage));
    }
  }
  std::unique_ptr<DecoderRun> Start() const override {
    return std::make_unique<SequenceRun>(stages_, false);
  }
  std::unique_ptr<DecoderRun> StartFused() const override {
    return std::make_unique<SequenceRun>(stages_, true);
  }
  bool fuses() const override {
    return std::any_of(stages_.begin(), stages_.end(),
                       [](const auto& stage) { return stage->fuses(); });
  }

 private:
  std::vector<std::unique_ptr<const TokenDecoder>> stages_;
};

}  // namespace

std::unique_ptr<const TokenDecoder> MakeDecoder(const JsonFields* fields) {
  if (fields == nullptr) {
    return std::make_unique<StageDecoder<JoinRun, void, true>>(NoConfig{});
  }
  const std::string type = fields->GetString("type");
  if (type == "ByteLevel") return MakeStage<ByteLevelRun, void, true>(*fields);
  if (type == "Metaspace") return MakeStage<MetaspaceRun>(*fields);
  if (type == "ByteFallback") return MakeStage<ByteFallbackRun>(*fields);
  if (type == "Fuse") return MakeStage<FuseRun, FuseRun, true>(*fields);
  if (type == "Strip") return MakeStage<StripRun, FusedStripRun>(*fields);
  if (type == "Replace") return MakeStage<ReplaceRun>(*fields);
  if (type == "WordPiece") return MakeWordPieceDecoder(*fields);
  if (type == "CTC") return MakeCtcDecoder(*fields);
  if (type == "BPEDecoder") return MakeBpeDecoder(*fields);
  if (type == "Sequence") return std::make_unique<SequenceDecoder>(*fields);
  fields->FailUnsupported("type", StrCat("unknown decoder ", QuoteForMessage(type)));
}

}  // namespace dualfp
