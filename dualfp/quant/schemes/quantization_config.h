// quantization_config as the methods' own tools write it, with every name resolved.

#pragma once

#include <string>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/quant/schemes/checkpoint_scheme.h"

namespace dualfp {

// Layers that are encoded alike.
struct QuantizedGroup {
  LinearEncoding encoding;
  std::vector<std::string> modules;
};

// The config of a checkpoint with these groups, all of one method; several only with
// compressed-tensors, where their targets are then the names of their modules. `ignored` are the
// linear layers that stay as they are; `fp8_kv_cache`: keys and values have scales. Throws
// kUnsupported where the method cannot say that.
Json QuantizationConfigJson(const std::vector<QuantizedGroup>& groups,
                            const std::vector<std::string>& ignored, bool fp8_kv_cache);

// What hf_quant_config.json says beside it: ModelOpt's readers want that file too. null for other
// methods.
Json HfQuantConfigJson(const std::vector<QuantizedGroup>& groups,
                       const std::vector<std::string>& ignored, bool fp8_kv_cache);

}  // namespace dualfp
