#include "dualfp/text/pipeline/post_processor.h"

#include <limits>
#include <optional>
#include <string>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxId = std::numeric_limits<int32_t>::max() - 1;

// "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}, ...], with the ids of
// the special tokens in "special_tokens".
PostProcessor MakeTemplate(const JsonFields& fields) {
  PostProcessor processor;
  bool seen_text = false;
  const JsonFields special_tokens = fields.GetObject("special_tokens");
  for (const JsonFields& piece : fields.GetObjects("single")) {
    if (piece.Has("Sequence")) {
      if (seen_text || piece.GetObject("Sequence").GetString("id") != "A") {
        fields.FailUnsupported("single", "expected the text exactly once, as sequence A");
      }
      seen_text = true;
      continue;
    }
    const std::string name = piece.GetObject("SpecialToken").GetString("id");
    const JsonFields token = special_tokens.GetObject(name);
    const Json* ids = token.FindRaw("ids");
    if (ids == nullptr || !ids->is_array()) {
      token.FailExpected("ids", "an array of token ids");
    }
    const std::optional<std::vector<int64_t>> token_ids = token.FindIntOrInts("ids", 0, kMaxId);
    for (const int64_t id : *token_ids) {
      (seen_text ? processor.suffix : processor.prefix).push_back(static_cast<int32_t>(id));
    }
  }
  if (!seen_text) {
    fields.FailUnsupported("single", "expected the text exactly once, as sequence A");
  }
  return processor;
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

}  // namespace

PostProcessor MakePostProcessor(const JsonFields& fields) {
  const std::string type = fields.GetString("type");
  if (type == "ByteLevel") {
    return {};  // It moves offsets, which we do not report.
  }
  if (type == "TemplateProcessing") {
    return MakeTemplate(fields);
  }
  if (type == "RobertaProcessing" || type == "BertProcessing") {
    return {{TokenOfPair(fields, "cls")}, {TokenOfPair(fields, "sep")}};
  }
  if (type == "Sequence") {
    PostProcessor all;
    bool seen = false;
    for (const JsonFields& step : fields.GetObjects("processors")) {
      PostProcessor one = MakePostProcessor(step);
      if (one.prefix.empty() && one.suffix.empty()) {
        continue;
      }
      if (seen) {
        fields.FailUnsupported("processors", "expected at most one that adds tokens");
      }
      seen = true;
      all = std::move(one);
    }
    return all;
  }
  fields.FailUnsupported("type", StrCat("unknown post-processor ", QuoteForMessage(type)));
}

}  // namespace dualfp
