// Flags that several subcommands of measurements share. Mistakes are usage errors (exit status 2).

#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "bench/gemm_lab/report/shapes.h"

namespace dualfp {

CLI::Validator MultipleOf16();

// A list as ParseSizes() reads it.
CLI::Option* AddSizesOption(CLI::App& app, const std::string& name, std::vector<int>& sizes,
                            const std::string& help);

// "N,K", repeatable.
CLI::Option* AddShapesOption(CLI::App& app, const std::string& name, std::vector<GemmShape>& shapes,
                             const std::string& help);

// "N,K,M": checked, kept as text.
CLI::Option* AddTripleOption(CLI::App& app, const std::string& name, std::string& triple,
                             const std::string& help);
std::vector<int> ParseTriple(const std::string& text);

// The command as it was typed, for records: its name and the options that were given, but those
// that name files.
std::string CommandLine(const CLI::App& command);

}  // namespace dualfp
