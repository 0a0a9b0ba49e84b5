// Reads the arguments of filters, tests and functions.

#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/evaluator.h"

namespace dualfp::jinja {

// Takes parameters in order, by position or by name; Finish() refuses what was not taken.
class ArgumentReader {
 public:
  ArgumentReader(std::string_view function, const Arguments& arguments)
      : function_(function), arguments_(arguments) {}

  // Null when it was not given.
  const Value* Find(std::string_view name) {
    if (position_ < arguments_.positional.size()) {
      return &arguments_.positional[position_++];
    }
    ++position_;
    for (const auto& [keyword, value] : arguments_.keywords) {
      if (keyword == name) {
        ++keywords_taken_;
        return &value;
      }
    }
    return nullptr;
  }

  Value Get(std::string_view name) {
    const Value* value = Find(name);
    if (value == nullptr) {
      FailRuntime(StrCat(function_, "() misses the argument '", name, "'"));
    }
    return *value;
  }

  Value GetOr(std::string_view name, const Value& otherwise) {
    const Value* value = Find(name);
    return value != nullptr ? *value : otherwise;
  }

  int64_t GetInt(std::string_view name, std::optional<int64_t> otherwise = std::nullopt) {
    const Value* value = Find(name);
    if (value == nullptr && otherwise) {
      return *otherwise;
    }
    if (value == nullptr || !value->is_int()) {
      FailRuntime(StrCat(function_, "() expects an integer as '", name, "'"));
    }
    return value->as_int();
  }

  std::string_view GetString(std::string_view name,
                             std::optional<std::string_view> otherwise = std::nullopt) {
    const Value* value = Find(name);
    if (value == nullptr && otherwise) {
      return *otherwise;
    }
    if (value == nullptr || !value->is_string()) {
      FailRuntime(StrCat(function_, "() expects a string as '", name, "'"));
    }
    return value->text();
  }

  bool GetBool(std::string_view name, bool otherwise) {
    const Value* value = Find(name);
    return value != nullptr ? IsTrue(*value) : otherwise;
  }

  void Finish() const {
    if (position_ < arguments_.positional.size() || keywords_taken_ < arguments_.keywords.size()) {
      FailRuntime(StrCat(
          function_, "() got an unexpected argument",
          arguments_.keywords.empty() ? "" : StrCat(": ", arguments_.keywords.back().first)));
    }
  }

 private:
  std::string_view function_;
  const Arguments& arguments_;
  size_t position_ = 0;
  size_t keywords_taken_ = 0;
};

}  // namespace dualfp::jinja
