#include "dualfp/text/tokenizer.h"

#include <algorithm>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/log.h"
#include "dualfp/io/file.h"
#include "dualfp/text/detokenizer.h"
#include "dualfp/text/tokenizer_internal.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{256} << 20;
constexpr size_t kLongText = size_t{64} << 10;

}  // namespace

EncodeScratchPool::Lease::Lease(EncodeScratchPool* pool, const TokenModel& model,
                                std::string_view text)
    : pool_(pool), is_kept_(text.size() <= kLongText) {
  {
    const std::lock_guard<std::mutex> lock(pool_->mutex_);
    if (!pool_->free_.empty()) {
      scratch_ = std::move(pool_->free_.back());
      pool_->free_.pop_back();
    }
  }
  if (scratch_ == nullptr) {
    scratch_ = std::make_unique<EncodeScratch>();
    scratch_->model = model.NewScratch();
  }
}

EncodeScratchPool::Lease::~Lease() {
  if (!is_kept_) {
    return;
  }
  const std::lock_guard<std::mutex> lock(pool_->mutex_);
  pool_->free_.push_back(std::move(scratch_));
}

Tokenizer::Impl::Impl(const JsonFields& fields, TokenizerConfig tokenizer_config)
    : config(std::move(tokenizer_config)) {
  const std::string version = fields.FindString("version").value_or("1.0");
  if (version != "1.0") {
    fields.FailUnsupported("version", StrCat("expected \"1.0\", got ", QuoteForMessage(version)));
  }
  if (const auto part = fields.FindObject("normalizer")) {
    normalizer = MakeNormalizer(*part);
  }
  if (const auto part = fields.FindObject("pre_tokenizer")) {
    pre_tokenizer = MakePreTokenizer(*part, &byte_level);
  }
  model = MakeModel(fields.GetObject("model"), byte_level);
  if (const auto part = fields.FindObject("post_processor")) {
    post_processor = MakePostProcessor(*part);
  }
  const std::optional<JsonFields> decoder_fields = fields.FindObject("decoder");
  decoder = MakeDecoder(decoder_fields ? &*decoder_fields : nullptr);
  LoadAddedTokens(fields);
  BuildTokenTable();
  for (const std::vector<int32_t>* ids : {&post_processor.prefix, &post_processor.suffix}) {
    for (const int32_t id : *ids) {
      if (Find(id) == nullptr) {
        fields.FailField("post_processor", StrCat("id ", id, " is no token's"));
      }
    }
  }
}

void Tokenizer::Impl::LoadAddedTokens(const JsonFields& fields) {
  RegexScratch scratch;
  const auto add = [&](const AddedToken& token, int64_t declared_id) {
    const std::optional<int32_t> id =
        added.Add(token, model->vocabulary(), normalizer.get(), &scratch);
    if (id && *id != declared_id) {
      LogWarning(StrCat(fields.origin(), ": added token ", QuoteForMessage(token.content),
                        " is declared as id ", declared_id, " but gets ", *id,
                        ", the next free one"));
    }
  };
  if (fields.Has("added_tokens")) {
    for (const JsonFields& entry : fields.GetObjects("added_tokens")) {
      AddedToken token;
      token.content = entry.GetString("content");
      token.single_word = entry.GetBool("single_word");
      token.lstrip = entry.GetBool("lstrip");
      token.rstrip = entry.GetBool("rstrip");
      token.normalized = entry.GetBool("normalized");
      token.special = entry.GetBool("special");
      add(token, entry.GetInt("id", 0, INT32_MAX));
    }
  }
  // What only tokenizer_config.json knows comes after it, as in transformers.
  for (const TokenizerConfig::DeclaredToken& declared : config.added_tokens) {
    if (!added.Find(declared.token.content)) {
      add(declared.token, declared.id);
    }
  }
  for (const auto& [role, token] : config.special_tokens) {
    if (!added.Find(token.content)) {
      added.Add(token, model->vocabulary(), normalizer.get(), &scratch);
    }
  }
  added.Finish();
}

void Tokenizer::Impl::BuildTokenTable() {
  const VocabularyTable& vocabulary = model->vocabulary();
  tokens.resize(static_cast<size_t>(std::max(vocabulary.id_limit(), added.id_limit())));
  for (int32_t id = 0; id < vocabulary.id_limit(); ++id) {
    if (vocabulary.HasId(id)) {
      const std::string_view text = vocabulary.Token(id);
      tokens[static_cast<size_t>(id)] = {text, text, true, added.IsSpecial(text)};
    }
  }
  added.ForEach([&](int32_t id, const AddedToken& token) {
    const std::string_view decoded = added.DecodedText(id);
    tokens[static_cast<size_t>(id)] = {token.content, decoded, true, added.IsSpecial(decoded)};
  });
}

std::optional<int32_t> Tokenizer::Impl::IdOf(const std::optional<std::string>& token) const {
  if (!token) {
    return std::nullopt;
  }
  const std::optional<int32_t> id = added.Find(*token);
  return id ? id : model->vocabulary().Find(*token);
}

void Tokenizer::Impl::EncodeText(std::string_view text, bool parse_special, EncodeScratch* scratch,
                                 std::vector<int32_t>* ids) const {
  if (!added.HasTokens(/*normalized=*/false)) {
    EncodeSection(text, true, parse_special, scratch, ids);
    return;
  }
  scratch->raw_sections.clear();
  added.Split(text, /*normalized=*/false, parse_special, &scratch->raw_sections);
  for (const AddedTokens::Section& section : scratch->raw_sections) {
    if (section.id >= 0) {
      ids->push_back(section.id);
    } else {
      EncodeSection(text.substr(section.begin, section.end - section.begin), section.begin == 0,
                    parse_special, scratch, ids);
    }
  }
}

void Tokenizer::Impl::EncodeSection(std::string_view text, bool from_origin, bool parse_special,
                                    EncodeScratch* scratch, std::vector<int32_t>* ids) const {
  std::string normalized;
  if (normalizer != nullptr) {
    normalized = text;
    normalizer->Apply(&normalized, &from_origin, &scratch->regex);
    text = normalized;
  }
  scratch->sections.clear();
  if (added.HasTokens(/*normalized=*/true)) {
    added.Split(text, /*normalized=*/true, parse_special, &scratch->sections);
  } else if (!text.empty()) {
    scratch->sections.push_back({-1, 0, text.size()});
  }
  for (const AddedTokens::Section& section : scratch->sections) {
    if (section.id >= 0) {
      ids->push_back(section.id);
      continue;
    }
    const std::string_view part = text.substr(section.begin, section.end - section.begin);
    if (pre_tokenizer == nullptr) {
      model->Encode(part, scratch->model.get(), ids);
      continue;
    }
    PieceList& pieces = scratch->pieces;
    pieces.text = part;
    pieces.pieces.assign(1, {0, part.size(), from_origin && section.begin == 0});
    pre_tokenizer->Apply(&pieces, &scratch->regex);
    for (const PieceList::Piece& piece : pieces.pieces) {
      model->Encode(pieces.Text(piece), scratch->model.get(), ids);
    }
  }
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::FromDirectory(const std::filesystem::path& directory) {
  const std::filesystem::path path = directory / "tokenizer.json";
  return FromJson(ReadFile(path, kMaxFileBytes), path.string(), LoadTokenizerConfig(directory));
}

Tokenizer Tokenizer::FromJson(std::string_view json, std::string_view origin,
                              TokenizerConfig config) {
  const Json document = ParseJson(json, origin);
  return Tokenizer(std::make_unique<const Impl>(JsonFields(document, origin), std::move(config)));
}

std::vector<int32_t> Tokenizer::Encode(std::string_view text, const EncodeOptions& options) const {
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = ReplaceInvalidUtf8(text);
    text = repaired;
  }
  const PostProcessor none;
  const PostProcessor& around = options.add_special_tokens ? impl_->post_processor : none;
  std::vector<int32_t> ids = around.prefix;
  EncodeScratchPool::Lease scratch(&impl_->scratch_pool, *impl_->model, text);
  impl_->EncodeText(text, options.parse_special_tokens, &*scratch, &ids);

  if (options.max_length) {
    const auto special = static_cast<int64_t>(around.prefix.size() + around.suffix.size());
    Check(*options.max_length >= special, ErrorCode::kInvalidArgument,
          "max_length: expected at "
          "least ",
          special, " (the special tokens around a text), got ", *options.max_length);
    const auto room = static_cast<size_t>(*options.max_length - special);
    const size_t count = ids.size() - around.prefix.size();
    if (count > room) {
      const auto begin = ids.begin() + static_cast<std::ptrdiff_t>(around.prefix.size());
      if (options.truncation_side == EncodeOptions::Side::kLeft) {
        ids.erase(begin, begin + static_cast<std::ptrdiff_t>(count - room));
      } else {
        ids.resize(around.prefix.size() + room);
      }
    }
  }
  ids.insert(ids.end(), around.suffix.begin(), around.suffix.end());
  return ids;
}

std::string Tokenizer::Decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string text;
  const auto append = [&](std::string_view part) { text += part; };
  const std::unique_ptr<DecoderRun> run = impl_->decoder->Start();
  for (const int32_t id : ids) {
    const Impl::Token* token = impl_->Find(id);
    if (token != nullptr && !(skip_special_tokens && token->special)) {
      run->Push(token->decoded, append);
    }
  }
  run->Finish(append);
  return text;
}

int64_t Tokenizer::vocab_size() const {
  int64_t size = static_cast<int64_t>(impl_->model->vocabulary().size());
  impl_->added.ForEach([&](int32_t, const AddedToken& token) {
    size += impl_->model->vocabulary().Find(token.content) ? 0 : 1;
  });
  return size;
}

int32_t Tokenizer::id_limit() const { return static_cast<int32_t>(impl_->tokens.size()); }

std::optional<int32_t> Tokenizer::TokenToId(std::string_view token) const {
  return impl_->IdOf(std::string(token));
}

std::string_view Tokenizer::IdToToken(int32_t id) const {
  const Impl::Token* token = impl_->Find(id);
  return token != nullptr ? token->text : std::string_view();
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const Impl::Token* token = impl_->Find(id);
  return token != nullptr && token->special;
}

std::optional<int32_t> Tokenizer::bos_id() const { return impl_->IdOf(impl_->config.bos_token); }
std::optional<int32_t> Tokenizer::eos_id() const { return impl_->IdOf(impl_->config.eos_token); }
std::optional<int32_t> Tokenizer::pad_id() const { return impl_->IdOf(impl_->config.pad_token); }

const TokenizerConfig& Tokenizer::config() const { return impl_->config; }

struct Detokenizer::State {
  const Tokenizer::Impl* tokenizer;
  bool skip_special_tokens;
  std::unique_ptr<DecoderRun> run;
};

Detokenizer::Detokenizer(const Tokenizer& tokenizer, bool skip_special_tokens)
    : state_(std::make_unique<State>(
          State{tokenizer.impl_.get(), skip_special_tokens, tokenizer.impl_->decoder->Start()})) {}
Detokenizer::~Detokenizer() = default;
Detokenizer::Detokenizer(Detokenizer&&) noexcept = default;
Detokenizer& Detokenizer::operator=(Detokenizer&&) noexcept = default;

std::string Detokenizer::Push(int32_t id) {
  std::string text;
  const Tokenizer::Impl::Token* token = state_->tokenizer->Find(id);
  if (token != nullptr && !(state_->skip_special_tokens && token->special)) {
    state_->run->Push(token->decoded, [&](std::string_view part) { text += part; });
  }
  return text;
}

std::string Detokenizer::Finish() {
  std::string text;
  state_->run->Finish([&](std::string_view part) { text += part; });
  return text;
}

}  // namespace dualfp
