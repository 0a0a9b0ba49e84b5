// What quantizing a 16-bit checkpoint to FP8 does with each of its tensors.

#pragma once

#include <map>
#include <string>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/io/name_pattern.h"
#include "dualfp/io/safetensors.h"
#include "dualfp/quant/conversion/conversion.h"
#include "dualfp/quant/schemes/checkpoint_scheme.h"
#include "dualfp/quant/schemes/recipe.h"

namespace dualfp {

// Static scales, by calibration (calibration/calibrate.h).
struct StaticScales {
  std::map<std::string, float> inputs;  // of linear layers by module
  std::map<std::string, float> keys;    // of attention layers: "model.layers.0.self_attn"
  std::map<std::string, float> values;
};

struct QuantizePlanOptions {
  LinearEncoding encoding;        // of layers that no rule is for
  std::vector<SchemeRule> rules;  // the first that matches counts
  std::vector<NamePattern> ignore;
  StaticScales scales;  // of every layer with static inputs; keys: write KV scales
};

// `config` is config.json of the checkpoint, which must outlive the result. Embeddings are no
// linear layers; lm_head and routers stay as they are unless a rule names them. In blocks of
// quant_method fp8, layers that blocks do not tile stay too, and with them those that are loaded in
// one matrix with them (q, k and v; gate and up). Throws kUnsupported for a checkpoint that is
// quantized already or has nothing to quantize, and kInvalidArgument for schemes without a spelling
// in their method and layers without the static scale that they need.
Conversion PlanQuantization(const Checkpoint& checkpoint, const Json& config,
                            const QuantizePlanOptions& options);

}  // namespace dualfp
