// tokenizer.json, and a text to encode with it after a NUL byte. What loads must encode and decode
// any text: with ids in range, valid UTF-8, and the same text streamed as decoded at once.

#include <string>
#include <vector>

#include "dualfp/base/log.h"
#include "dualfp/text/detokenizer.h"
#include "dualfp/text/tokenizer.h"
#include "dualfp/text/unicode.h"
#include "fuzz/fuzz.h"

using dualfp::Tokenizer;
using dualfp::fuzz::Require;

namespace {

constexpr std::string_view kDefaultText =
    "Hello  w\xc3\xb6rld 123\n\n\t\xf0\x9f\x98\x80 <s>\xff</s>'s";

void CheckStreaming(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  const std::string whole = tokenizer.Decode(ids, skip);
  Require(dualfp::IsValidUtf8(whole), "decoded text is valid UTF-8");
  dualfp::Detokenizer detokenizer(tokenizer, skip);
  std::string streamed;
  for (const int32_t id : ids) {
    const std::string part = detokenizer.Push(id);
    Require(dualfp::IsValidUtf8(part), "streamed text is valid UTF-8");
    streamed += part;
  }
  streamed += detokenizer.Finish();
  Require(streamed == whole, "streaming and decoding agree");
}

void Use(const Tokenizer& tokenizer, std::string_view text) {
  try {
    for (const bool special : {true, false}) {
      dualfp::EncodeOptions options;
      options.add_special_tokens = special;
      options.parse_special_tokens = special;
      const std::vector<int32_t> ids = tokenizer.Encode(text, options);
      // The second time from the word cache.
      Require(tokenizer.Encode(text, options) == ids, "encoding is repeatable");
      for (const int32_t id : ids) {
        Require(id >= 0 && id < tokenizer.id_limit(), "ids within the limit");
      }
      CheckStreaming(tokenizer, ids, special);
    }
    // Ids in any order, also such as have no token.
    std::vector<int32_t> ids;
    for (const char byte : text) {
      ids.push_back(static_cast<int8_t>(byte) + 100);
    }
    CheckStreaming(tokenizer, ids, false);
  } catch (const dualfp::Error& error) {
    // A pattern may backtrack without end, and text may have no token; nothing else may fail.
    Require(error.code() == dualfp::ErrorCode::kResourceExhausted ||
                error.code() == dualfp::ErrorCode::kInvalidArgument,
            "loaded tokenizers work");
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  dualfp::SetLogSink([](dualfp::LogLevel, std::string_view) {});
  const std::string_view input = dualfp::fuzz::AsText(data, size);
  const size_t separator = input.find('\0');
  const std::string_view text =
      separator == std::string_view::npos ? kDefaultText : input.substr(separator + 1);
  dualfp::fuzz::ExpectOnlyInputErrors([&] {
    const Tokenizer tokenizer = Tokenizer::FromJson(input.substr(0, separator), "tokenizer.json");
    Use(tokenizer, text);
  });
  return 0;
}
