// The flags of every subcommand that runs the engine.

#pragma once

#include <CLI/CLI.hpp>

#include "dualfp/llm/llm.h"

namespace dualfp {

// MODEL and the flags, whose values go to `options`.
void AddEngineOptions(CLI::App& app, LlmOptions& options);

// Shows a progress bar on a terminal. `on_step`: EngineConfig's.
std::unique_ptr<Llm> LoadLlmWithProgress(const LlmOptions& options,
                                         std::function<void(const StepReport&)> on_step = {});

}  // namespace dualfp
