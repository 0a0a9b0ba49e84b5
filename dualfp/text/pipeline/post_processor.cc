#include "dualfp/text/pipeline/post_processor.h"

#include <limits>
#include <optional>
#include <string>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max() - 1;

// What the processors so far make of a text: encodings next to each other, of token ids and the
// text.
using Encoding = std::vector<int32_t>;
constexpr int32_t kText = -1;

// "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, ...], with the ids of
// the special tokens in "special_tokens". Every piece becomes an encoding of its own. "pair" is for
// the two encodings that a processor before this one may have made.
void ApplyTemplate(const JsonFields& fields, std::vector<Encoding>* encodings) {
  if (encodings->size() > 2) {
    fields.FailUnsupported("type", "a template after processors that make more than two parts");
  }
  std::vector<Encoding> pieces;
  const JsonFields special_tokens = fields.GetObject("special_tokens");
  for (const JsonFields& piece : fields.GetObjects(encodings->size() == 1 ? "single" : "pair")) {
    if (piece.Has("Sequence")) {
      const std::string id = piece.GetObject("Sequence").GetString("id");
      const size_t index = id == "A" ? 0 : 1;
      if (index >= encodings->size()) {
        fields.FailUnsupported("single", "expected the text as sequence A");
      }
      pieces.push_back((*encodings)[index]);
      continue;
    }
    const JsonFields token =
        special_tokens.GetObject(piece.GetObject("SpecialToken").GetString("id"));
    const Json* ids = token.FindRaw("ids");
    if (ids == nullptr || !ids->is_array()) {
      token.FailExpected("ids", "an array of token ids");
    }
    const std::vector<int64_t> token_ids = *token.FindIntOrInts("ids", 0, kMaxId);
    pieces.emplace_back(token_ids.begin(), token_ids.end());
  }
  *encodings = std::move(pieces);
}

// ["<s>", 0]
int32_t TokenOfPair(const JsonFields& fields, std::string_view key) {
  const Json* pair = fields.FindRaw(key);
  if (pair == nullptr || !pair->is_array() || pair->size() != 2 ||
      !(*pair)[1].is_number_integer() || (*pair)[1].get<int64_t>() < 0 ||
      (*pair)[1].get<int64_t>() > kMaxId) {
    fields.FailExpected(key, "a token and its id");
  }
  return (*pair)[1].get<int32_t>();
}

// BERT's [CLS] A [SEP] B [SEP], and RoBERTa's <s> A </s> </s> B </s>.
void ApplyPair(const JsonFields& fields, bool sep_before_others, std::vector<Encoding>* encodings) {
  const int32_t cls = TokenOfPair(fields, "cls");
  const int32_t sep = TokenOfPair(fields, "sep");
  for (size_t i = 0; i < encodings->size(); ++i) {
    Encoding& encoding = (*encodings)[i];
    if (i == 0 || sep_before_others) {
      encoding.insert(encoding.begin(), i == 0 ? cls : sep);
    }
    encoding.push_back(sep);
  }
}

void Apply(const JsonFields& fields, std::vector<Encoding>* encodings) {
  const std::string type = fields.GetString("type");
  if (type == "ByteLevel") {
    return;  // It moves offsets, which we do not report.
  }
  if (type == "TemplateProcessing") {
    ApplyTemplate(fields, encodings);
  } else if (type == "RobertaProcessing" || type == "BertProcessing") {
    ApplyPair(fields, type == "RobertaProcessing", encodings);
  } else if (type == "Sequence") {
    for (const JsonFields& step : fields.GetObjects("processors")) {
      Apply(step, encodings);
    }
  } else {
    fields.FailUnsupported("type", StrCat("unknown post-processor ", QuoteForMessage(type)));
  }
}

}  // namespace

PostProcessor MakePostProcessor(const JsonFields& fields) {
  std::vector<Encoding> encodings = {{kText}};
  Apply(fields, &encodings);
  PostProcessor processor;
  int texts = 0;
  for (const Encoding& encoding : encodings) {
    for (const int32_t id : encoding) {
      if (id == kText) {
        ++texts;
      } else {
        (texts > 0 ? processor.suffix : processor.prefix).push_back(id);
      }
    }
  }
  if (texts != 1) {
    fields.FailUnsupported("single", "expected the text exactly once, as sequence A");
  }
  return processor;
}

}  // namespace dualfp
