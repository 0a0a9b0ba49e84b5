#pragma once

#include "dualfp/io/hf_config.h"
#include "dualfp/io/json.h"

namespace dualfp {

// The RoPE part of config.json; `config` has its architecture and sizes already.
RopeConfig ParseRopeConfig(const JsonFields& fields, const ModelConfig& config);

}  // namespace dualfp
