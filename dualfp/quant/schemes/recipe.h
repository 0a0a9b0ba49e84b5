// Recipes: which layers get which scheme, as a JSON file.
//
//   {"rules": [{"match": "re:.*self_attn", "scheme": "fp8-channel"},
//              {"match": "*.down_proj", "scheme": "mxfp8", "scale_search": "mse"},
//              {"match": "model.layers.0.mlp.up_proj", "scheme": "none"}]}
//
// Patterns are those of io/name_pattern.h and match names of modules. The first rule that matches a
// layer counts, before --ignore and before what stays in 16 bits by default.

#pragma once

#include <filesystem>
#include <optional>
#include <vector>

#include "dualfp/io/name_pattern.h"
#include "dualfp/quant/schemes/checkpoint_scheme.h"

namespace dualfp {

// Layers of these names are encoded so; nothing: they stay as they are.
struct SchemeRule {
  NamePattern pattern;
  std::optional<LinearEncoding> encoding;
};

// `defaults` has what a rule does not say. Throws kNotFound, kIo, and kInvalidFile, naming the
// field, for what is not as above.
std::vector<SchemeRule> ReadRecipe(const std::filesystem::path& path,
                                   const LinearEncoding& defaults);

}  // namespace dualfp
