// Models by their Hugging Face Hub id ("org/name"), as far as a client of the Hub has already
// brought them onto this machine. Nothing here uses a network.

#pragma once

#include <filesystem>
#include <string>

namespace dualfp {

// The folder of the Hub's cache: HF_HUB_CACHE, HF_HOME/hub, XDG_CACHE_HOME/huggingface/hub, or
// ~/.cache/huggingface/hub, whichever is the first that is set.
std::filesystem::path HubCacheDirectory();

// `model` where it is a path that exists, else the cached snapshot that the Hub id's branch "main"
// points to. Throws kNotFound, saying how to get it, where there is neither.
std::filesystem::path FindModelDirectory(const std::string& model);

}  // namespace dualfp
