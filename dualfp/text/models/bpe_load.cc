// Reading a BpeModel from tokenizer.json.

#include <limits>

#include "dualfp/base/check.h"
#include "dualfp/text/models/bpe.h"
#include "dualfp/text/pipeline/byte_alphabet.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr std::string_view kMetaspace = "\xe2\x96\x81";  // U+2581

}  // namespace

BpeModel::BpeModel(const JsonFields& fields, bool byte_level) : byte_level_(byte_level) {
  if (fields.FindNumber("dropout", 0, 1).value_or(0) != 0) {
    fields.FailUnsupported("dropout", "random segmentation is for training; expected null or 0");
  }
  fuse_unk_ = fields.FindBool("fuse_unk").value_or(false);
  ignore_merges_ = fields.FindBool("ignore_merges").value_or(false);
  continuing_subword_prefix_ = fields.FindString("continuing_subword_prefix").value_or("");
  end_of_word_suffix_ = fields.FindString("end_of_word_suffix").value_or("");

  LoadVocabulary(fields);
  LoadMerges(fields);
  if (fields.FindBool("byte_fallback").value_or(false)) {
    byte_fallback_.emplace(vocabulary_);
  }

  if (const std::optional<std::string> unk = fields.FindString("unk_token")) {
    unk_id_ = vocabulary_.Find(*unk);
    if (!unk_id_) {
      fields.FailField("unk_token", StrCat(QuoteForMessage(*unk), " is not in the vocabulary"));
    }
  }
  for (size_t byte = 0; byte < 256; ++byte) {
    const char character = static_cast<char>(byte);
    byte_ids_[byte] = vocabulary_.Find(BytesToAlphabet({&character, 1})).value_or(-1);
  }
  if (byte_level_ && ignore_merges_) {
    byte_vocabulary_.Reserve(vocabulary_.size());
    std::string bytes;
    vocabulary_.ForEach([&](std::string_view token, int32_t id) {
      if (AlphabetToBytes(token, &bytes)) {
        byte_vocabulary_.Add(bytes, id);
      }
    });
  }
  FindWordBoundary();
}

void BpeModel::LoadMerges(const JsonFields& fields) {
  const Json* merges = fields.FindRaw("merges");
  if (merges == nullptr || !merges->is_array()) {
    fields.FailExpected("merges", "an array of pairs");
  }
  merges_.Reserve(merges->size());
  size_t rank = 0;
  for (const Json& merge : *merges) {
    if (merge.is_string()) {
      const std::string_view text = merge.get_ref<const std::string&>();
      const size_t space = text.find(' ');
      if (space == std::string_view::npos || text.find(' ', space + 1) != std::string_view::npos) {
        fields.FailField(StrCat("merges[", rank, "]"),
                         StrCat("expected two tokens and a space, got ", QuoteForMessage(text)));
      }
      AddMerge(fields, rank, text.substr(0, space), text.substr(space + 1));
    } else if (merge.is_array() && merge.size() == 2 && merge[0].is_string() &&
               merge[1].is_string()) {
      AddMerge(fields, rank, merge[0].get_ref<const std::string&>(),
               merge[1].get_ref<const std::string&>());
    } else {
      fields.FailField(StrCat("merges[", rank, "]"), "expected two tokens");
    }
    ++rank;
  }
}

void BpeModel::AddMerge(const JsonFields& fields, size_t rank, std::string_view left,
                        std::string_view right) {
  const auto find = [&](std::string_view token) {
    const std::optional<int32_t> id = vocabulary_.Find(token);
    if (!id) {
      fields.FailField(StrCat("merges[", rank, "]"),
                       StrCat("token ", QuoteForMessage(token), " is not in the vocabulary"));
    }
    return *id;
  };
  const int32_t left_id = find(left);
  const int32_t right_id = find(right);
  if (right.size() < continuing_subword_prefix_.size()) {
    fields.FailField(StrCat("merges[", rank, "]"),
                     StrCat("expected a second token that starts with the prefix ",
                            QuoteForMessage(continuing_subword_prefix_)));
  }
  std::string merged(left);
  merged += right.substr(continuing_subword_prefix_.size());
  merges_.Add(left_id, right_id, {static_cast<uint32_t>(rank), find(merged)});
}

// Metaspace tokenizers hand the model a whole text as one word. Where no merge makes a token with
// U+2581 after anything else, the text falls into independent words at the U+2581s.
void BpeModel::FindWordBoundary() {
  if (byte_level_ || !continuing_subword_prefix_.empty() || !end_of_word_suffix_.empty() ||
      ignore_merges_ || !vocabulary_.Find(kMetaspace)) {
    return;
  }
  bool found = false;
  vocabulary_.ForEach([&](std::string_view token, int32_t) {
    size_t at = token.find(kMetaspace);
    while (at != std::string_view::npos && !found) {
      // Runs of U+2581 are fine: they are never cut.
      found = at > 0 && !token.substr(0, at).ends_with(kMetaspace);
      at = token.find(kMetaspace, at + kMetaspace.size());
    }
  });
  if (!found) {
    word_boundary_ = kMetaspace;
  }
}

}  // namespace dualfp
