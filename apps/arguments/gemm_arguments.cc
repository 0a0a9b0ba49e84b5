#include "apps/arguments/gemm_arguments.h"

#include <set>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

// Where files lie on the machine that measures says nothing about the measurement.
const std::set<std::string> kUnrecorded = {"--output", "--log", "--json", "--plot"};

// An option whose one argument `parse` turns into a value, or throws.
template <class Parse>
CLI::Option* AddParsedOption(CLI::App& app, const std::string& name, const std::string& help,
                             const Parse& parse) {
  return app.add_option_function<std::vector<std::string>>(
      name,
      [name, parse](const std::vector<std::string>& texts) {
        try {
          parse(texts);
        } catch (const Error& error) {
          throw CLI::ValidationError(name, error.what());
        }
      },
      help);
}

}  // namespace

CLI::Validator MultipleOf16() {
  return CLI::Validator(
      [](const std::string& text) -> std::string {
        try {
          return ParseSizes(text).front() % 16 == 0 ? "" : text + " is not a multiple of 16";
        } catch (const Error& error) {
          return error.what();
        }
      },
      "");
}

CLI::Option* AddSizesOption(CLI::App& app, const std::string& name, std::vector<int>& sizes,
                            const std::string& help) {
  return AddParsedOption(
             app, name, help,
             [&sizes](const std::vector<std::string>& texts) { sizes = ParseSizes(texts.back()); })
      ->expected(1)
      ->option_text("A:B:STEP,...");
}

CLI::Option* AddShapesOption(CLI::App& app, const std::string& name, std::vector<GemmShape>& shapes,
                             const std::string& help) {
  return AddParsedOption(app, name, help,
                         [&shapes](const std::vector<std::string>& texts) {
                           shapes.clear();
                           for (const std::string& text : texts) {
                             shapes.push_back(ParseShape(text));
                           }
                         })
      ->option_text("N,K");
}

CLI::Option* AddTripleOption(CLI::App& app, const std::string& name, std::string& triple,
                             const std::string& help) {
  return AddParsedOption(app, name, help,
                         [&triple](const std::vector<std::string>& texts) {
                           ParseTriple(texts.back());
                           triple = texts.back();
                         })
      ->expected(1);
}

std::vector<int> ParseTriple(const std::string& text) {
  const size_t comma = text.rfind(',');
  Check(comma != std::string::npos, ErrorCode::kInvalidArgument, QuoteForMessage(text),
        ": expected N,K,M");
  const std::vector<int> m = ParseSizes(text.substr(comma + 1));
  Check(m.size() == 1, ErrorCode::kInvalidArgument, QuoteForMessage(text), ": expected N,K,M");
  const GemmShape shape = ParseShape(text.substr(0, comma));
  return {shape.n, shape.k, m[0]};
}

std::string CommandLine(const CLI::App& command) {
  std::string line = command.get_name();
  for (const CLI::App* app = command.get_parent(); app != nullptr; app = app->get_parent()) {
    line.insert(0, app->get_name() + " ");
  }
  for (const CLI::Option* option : command.get_options()) {
    if (option->count() == 0 || kUnrecorded.contains(option->get_name())) {
      continue;
    }
    line += " " + option->get_name();
    const char* separator = " ";
    for (const std::string& value : option->results()) {
      if (option->get_expected_max() == 0) {
        break;  // a flag
      }
      line += separator + value;
      separator = ",";
    }
  }
  return line;
}

}  // namespace dualfp
