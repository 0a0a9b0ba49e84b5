// CLI11's help text with single blank lines, so that a subcommand's help fits a screen, and without
// the groups that only --help-all shows.

#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace dualfp {

class HelpFormatter : public CLI::Formatter {
 public:
  // Ends the name of a group for --help-all; such a command has set_help_all_flag().
  static constexpr const char* kMore = ", more";

  HelpFormatter() { column_width(30); }

  std::string make_group(std::string group, bool is_positional,
                         std::vector<const CLI::Option*> options) const override {
    const std::string_view title = group;
    if (!shows_more_ && title.ends_with(kMore)) {
      return "";
    }
    return CLI::Formatter::make_group(std::move(group), is_positional, std::move(options));
  }

  std::string make_help(const CLI::App* app, std::string name,
                        CLI::AppFormatMode mode) const override {
    shows_more_ = mode == CLI::AppFormatMode::All;
    std::string text = CLI::Formatter::make_help(app, std::move(name), mode);
    for (size_t at = 0; (at = text.find("\n\n\n", at)) != std::string::npos;) {
      text.erase(at, 1);
    }
    return text;
  }

 private:
  mutable bool shows_more_ = false;  // CLI11 tells it make_help() alone
};

}  // namespace dualfp
