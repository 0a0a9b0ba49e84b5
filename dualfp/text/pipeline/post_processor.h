// The "post_processor" of tokenizer.json: the special tokens around an encoded text. Only single
// texts are encoded here, so a processor comes down to the tokens before and those after.

#pragma once

#include <cstdint>
#include <vector>

#include "dualfp/io/json.h"

namespace dualfp {

struct PostProcessor {
  std::vector<int32_t> prefix;
  std::vector<int32_t> suffix;
};

// Throws kUnsupported for a type it does not know, naming it. Known: TemplateProcessing,
// ByteLevel, RobertaProcessing, BertProcessing, Sequence.
PostProcessor MakePostProcessor(const JsonFields& fields);

}  // namespace dualfp
