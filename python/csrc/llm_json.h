// What the engine takes and gives, as JSON.

#pragma once

#include "dualfp/engine/engine.h"
#include "dualfp/io/json.h"
#include "dualfp/llm/llm.h"

namespace dualfp::python {

// All throw kInvalidFile, naming the field, for one of the wrong type or range, and
// kInvalidArgument for one that is not known.
LlmOptions ReadOptions(const Json& json);
Request ReadRequest(const Json& json);
PrecisionSetting ReadPrecision(const Json& json);

Json ToJson(const RequestOutput& output);
Json ToJson(const PrecisionStatus& status);
Json InfoOf(const Llm& llm);

}  // namespace dualfp::python
