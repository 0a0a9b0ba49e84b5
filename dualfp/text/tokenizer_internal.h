// The inside of a Tokenizer, shared with Detokenizer.

#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/text/models/model.h"
#include "dualfp/text/pipeline/added_tokens.h"
#include "dualfp/text/pipeline/decoder.h"
#include "dualfp/text/pipeline/normalizer.h"
#include "dualfp/text/pipeline/post_processor.h"
#include "dualfp/text/pipeline/pretokenizer.h"
#include "dualfp/text/tokenizer.h"

namespace dualfp {

// What one call of Encode() needs, kept from call to call for the sake of its word cache.
struct EncodeScratch {
  RegexScratch regex;
  std::unique_ptr<ModelScratch> model;
  PieceList pieces;
  std::vector<AddedTokens::Section> raw_sections;
  std::vector<AddedTokens::Section> sections;
};

class EncodeScratchPool {
 public:
  // Takes one out for the duration of a call about `text`. After a long text it is not kept: its
  // buffers have the size of the text, and there may be as many as callers at a time.
  class Lease {
   public:
    Lease(EncodeScratchPool* pool, const TokenModel& model, std::string_view text);
    ~Lease();
    Lease(const Lease&) = delete;
    Lease& operator=(const Lease&) = delete;
    EncodeScratch& operator*() { return *scratch_; }

   private:
    EncodeScratchPool* pool_;
    bool is_kept_;
    std::unique_ptr<EncodeScratch> scratch_;
  };

 private:
  std::mutex mutex_;
  std::vector<std::unique_ptr<EncodeScratch>> free_;
};

struct Tokenizer::Impl {
  // What decoding needs to know of an id.
  struct Token {
    std::string_view text;     // empty, with known false, for an id that is no token's
    std::string_view decoded;  // what the decoder is fed with
    bool known = false;
    bool special = false;
  };

  Impl(const JsonFields& fields, TokenizerConfig tokenizer_config);

  void EncodeText(std::string_view text, bool parse_special, EncodeScratch* scratch,
                  std::vector<int32_t>* ids) const;
  void EncodeSection(std::string_view text, bool from_origin, bool parse_special,
                     EncodeScratch* scratch, std::vector<int32_t>* ids) const;
  const Token* Find(int32_t id) const {
    return id >= 0 && static_cast<size_t>(id) < tokens.size() &&
                   tokens[static_cast<size_t>(id)].known
               ? &tokens[static_cast<size_t>(id)]
               : nullptr;
  }
  std::optional<int32_t> IdOf(const std::optional<std::string>& token) const;

  TokenizerConfig config;
  std::unique_ptr<const Normalizer> normalizer;  // null: none
  bool byte_level = false;
  std::unique_ptr<const PreTokenizer> pre_tokenizer;  // null: none
  std::unique_ptr<const TokenModel> model;
  AddedTokens added;
  PostProcessor post_processor;
  std::unique_ptr<const TokenDecoder> decoder;
  std::vector<Token> tokens;  // by id
  mutable EncodeScratchPool scratch_pool;

 private:
  void LoadAddedTokens(const JsonFields& fields);
  void BuildTokenTable();
};

}  // namespace dualfp
