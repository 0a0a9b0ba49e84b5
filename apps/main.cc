// The dualfp command: parses the subcommand and turns every dualfp::Error into one line on stderr.

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>
#include <string>
#include <vector>

#include "apps/commands.h"
#include "apps/help_formatter.h"

namespace {

// CLI11 would only say that a subcommand is required.
void CheckCommands(const CLI::App& app, int argc, char** argv) {
  const CLI::App* level = &app;
  for (int i = 1; i < argc && argv[i][0] != '-'; ++i) {
    const auto commands = level->get_subcommands([](const CLI::App*) { return true; });
    if (commands.empty()) {
      return;
    }
    const auto named = [&](const CLI::App* command) { return command->get_name() == argv[i]; };
    const auto found = std::find_if(commands.begin(), commands.end(), named);
    if (found == commands.end()) {
      throw CLI::ParseError(level->get_name() + " has no command \"" + argv[i] + "\"", 2);
    }
    level = *found;
  }
}

// In the parser's order, the last first. vLLM's short name has two letters, which CLI11 has not.
std::vector<std::string> Arguments(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  for (std::string& argument : arguments) {
    if (argument == "-tp" || argument.rfind("-tp=", 0) == 0) {
      argument.replace(0, 3, "--tensor-parallel-size");
    }
  }
  std::reverse(arguments.begin(), arguments.end());
  return arguments;
}

}  // namespace

int main(int argc, char** argv) {
  // A write beyond the file size limit is then an error that names the file, not a dead process.
  std::signal(SIGXFSZ, SIG_IGN);

  CLI::App app("Run large language models at low and switchable precision.", "dualfp");
  app.require_subcommand(1);
  app.formatter(std::make_shared<dualfp::HelpFormatter>());
  dualfp::AddGenerateCommand(app);
  dualfp::AddEvalCommand(app);
  dualfp::AddInspectCommand(app);
  dualfp::AddBenchCommand(app);
  dualfp::AddQuantizeCommand(app);
  dualfp::AddServeCommand(app);
  dualfp::AddTuneCommand(app);
  try {
    CheckCommands(app, argc, argv);
    app.parse(Arguments(argc, argv));
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dualfp: error: %s\n", error.what());
    return 1;
  }
  return 0;
}
