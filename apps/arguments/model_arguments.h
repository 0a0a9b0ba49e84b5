// The flags that every subcommand which loads a model has, and loading with a progress bar.

#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "dualfp/llm/load_model.h"

namespace dualfp {

// MODEL and the flags, whose values go to `options`.
void AddModelOptions(CLI::App& app, ModelOptions& options);

// --kv-cache-dtype
void AddKvCacheDType(CLI::App& app, std::string& name, const std::string& group);

Model LoadModelWithProgress(const ModelOptions& options, const ModelConfig& config,
                            ThreadPool& threads);

}  // namespace dualfp
