// Which layers suffer least from FP8, as `dualfp eval --per-layer --json` measured it.

#pragma once

#include <filesystem>
#include <vector>

namespace dualfp {

// The layers by ascending mean_kl of the rows "layer 0", "layer 1", ... of per_layer. Throws
// kInvalidFile when the file does not have each of the model's layers once.
std::vector<int> LayersBySensitivity(const std::filesystem::path& path, int64_t num_layers);

}  // namespace dualfp
