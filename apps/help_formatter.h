// CLI11's help text with single blank lines, so that a subcommand's help fits a screen.

#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace dualfp {

class HelpFormatter : public CLI::Formatter {
 public:
  HelpFormatter() { column_width(30); }

  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
    for (size_t at = 0; (at = text.find("\n\n\n", at)) != std::string::npos;) {
      text.erase(at, 1);
    }
    return text;
  }
};

}  // namespace dualfp
