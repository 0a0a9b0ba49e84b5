// The "decoder" of tokenizer.json: how tokens become text again.
//
// A decoder is a chain of stages, each of which takes tokens one at a time and passes tokens on as
// soon as it knows them. Decoding a whole sequence and decoding it token by token are therefore
// the same computation and give the same text.

#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "dualfp/io/json.h"

namespace dualfp {

// A reference to a callable that receives text; valid while the callable lives.
class TextSink {
 public:
  template <typename Callable>
  TextSink(const Callable& callable)  // NOLINT: implicit, so that lambdas can be passed
      : callable_(&callable), call_([](const void* target, std::string_view text) {
          (*static_cast<const Callable*>(target))(text);
        }) {}

  void operator()(std::string_view text) const { call_(callable_, text); }

 private:
  const void* callable_;
  void (*call_)(const void*, std::string_view);
};

// One decoding in progress.
class DecoderRun {
 public:
  virtual ~DecoderRun() = default;
  virtual void Push(std::string_view token, const TextSink& sink) = 0;
  // The input has ended.
  virtual void Finish(const TextSink& sink) = 0;
};

class TokenDecoder {
 public:
  virtual ~TokenDecoder() = default;
  // The run must not outlive the decoder.
  virtual std::unique_ptr<DecoderRun> Start() const = 0;
  // For input that is one token handed over in pieces.
  virtual std::unique_ptr<DecoderRun> StartFused() const = 0;
  // The output is one token, handed over in pieces.
  virtual bool fuses() const = 0;
};

// `fields` may be null: tokens are then joined by spaces. Throws kUnsupported for a type it does
// not know, naming it. Known: ByteLevel, Metaspace, ByteFallback, Fuse, Strip, Replace, WordPiece,
// CTC, BPEDecoder, Sequence.
std::unique_ptr<const TokenDecoder> MakeDecoder(const JsonFields* fields);

}  // namespace dualfp
