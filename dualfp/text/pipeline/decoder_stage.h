// What the stages of a decoder share.

#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>

#include "dualfp/text/pipeline/decoder.h"

namespace dualfp {

// Collects a token that arrives in pieces for a stage that needs it whole.
class CollectRun final : public DecoderRun {
 public:
  explicit CollectRun(std::unique_ptr<DecoderRun> stage) : stage_(std::move(stage)) {}
  void Push(std::string_view piece, const TextSink&) override { whole_ += piece; }
  void Finish(const TextSink& sink) override {
    stage_->Push(whole_, sink);
    stage_->Finish(sink);
  }

 private:
  std::unique_ptr<DecoderRun> stage_;
  std::string whole_;
};

// The decoder of a stage: its configuration, and how to start it. FusedRun is the stage for input
// in pieces; void where there is none.
template <typename Run, typename FusedRun = void, bool kFuses = false>
class StageDecoder final : public TokenDecoder {
 public:
  explicit StageDecoder(typename Run::Config config) : config_(std::move(config)) {}

  std::unique_ptr<DecoderRun> Start() const override { return std::make_unique<Run>(config_); }
  std::unique_ptr<DecoderRun> StartFused() const override {
    if constexpr (std::is_void_v<FusedRun>) {
      return std::make_unique<CollectRun>(Start());
    } else {
      return std::make_unique<FusedRun>(config_);
    }
  }
  bool fuses() const override { return kFuses; }

 private:
  typename Run::Config config_;
};

struct NoConfig {};

template <typename Run, typename FusedRun = void, bool kFuses = false>
std::unique_ptr<const TokenDecoder> MakeStage(const JsonFields& fields) {
  using Stage = StageDecoder<Run, FusedRun, kFuses>;
  if constexpr (std::is_same_v<typename Run::Config, NoConfig>) {
    return std::make_unique<Stage>(NoConfig{});
  } else {
    return std::make_unique<Stage>(typename Run::Config(fields));
  }
}

// The decoders that put words together from their parts (word_decoders.cc).
std::unique_ptr<const TokenDecoder> MakeBpeDecoder(const JsonFields& fields);
std::unique_ptr<const TokenDecoder> MakeWordPieceDecoder(const JsonFields& fields);
std::unique_ptr<const TokenDecoder> MakeCtcDecoder(const JsonFields& fields);

}  // namespace dualfp
