// The dualfp command: parses the subcommand and turns every dualfp::Error into one line on stderr.

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <exception>
#include <memory>

#include "apps/commands.h"
#include "apps/help_formatter.h"

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
  dualfp::AddServeCommand(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::fprintf(stderr, "dualfp: error: %s\n", error.what());
    return 1;
  }
  return 0;
}
