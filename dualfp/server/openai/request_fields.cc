#include "dualfp/server/openai/request_fields.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "dualfp/base/check.h"

namespace dualfp {

Json ParseRequestBody(std::string_view body) {
  Json json;
  try {
    json = ParseJson(body, "request body", JsonOptions{.max_depth = 64});
  } catch (const Error& error) {
    throw ApiError(400, error.what(), "", "invalid_json");
  }
  if (!json.is_object()) {
    throw ApiError(400, StrCat("request body: expected a JSON object, got ", DescribeJson(json)),
                   "", "invalid_json");
  }
  return json;
}

std::optional<int64_t> JsonToInt(const Json& element, int64_t min, int64_t max) {
  int64_t value = 0;
  if (element.is_number_unsigned()) {
    if (element.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return std::nullopt;
    }
    value = element.get<int64_t>();
  } else if (element.is_number_integer()) {
    value = element.get<int64_t>();
  } else if (element.is_number_float()) {
    const double number = element.get<double>();
    constexpr double kExact = 9007199254740992.0;  // 2^53
    if (std::trunc(number) != number || std::abs(number) > kExact) {
      return std::nullopt;
    }
    value = static_cast<int64_t>(number);
  } else {
    return std::nullopt;
  }
  return value >= min && value <= max ? std::optional(value) : std::nullopt;
}

RequestFields::RequestFields(const Json& json, std::string path)
    : object_(&json), path_(std::move(path)), asked_(json.size()) {}

const Json* RequestFields::Find(std::string_view key) {
  size_t index = 0;
  for (const auto& [name, value] : object_->get_ref<const Json::object_t&>()) {
    if (name == key) {
      asked_[index] = true;
      return value.is_null() ? nullptr : &value;
    }
    ++index;
  }
  return nullptr;
}

const Json* RequestFields::FindObject(std::string_view key) {
  const Json* value = Find(key);
  if (value != nullptr && !value->is_object()) {
    FailExpected(key, "an object", *value);
  }
  return value;
}

std::optional<int64_t> RequestFields::Int(std::string_view key, int64_t min, int64_t max) {
  const Json* value = Find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const std::optional<int64_t> result = JsonToInt(*value, min, max);
  if (!result) {
    FailExpected(key, StrCat("an integer in [", min, ", ", max, "]"), *value);
  }
  return result;
}

std::optional<double> RequestFields::Number(std::string_view key, double min, double max) {
  const Json* value = Find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const double number =
      value->is_number() ? value->get<double>() : std::numeric_limits<double>::quiet_NaN();
  if (!(number >= min && number <= max)) {
    FailExpected(key, StrCat("a number in [", min, ", ", max, "]"), *value);
  }
  return number;
}

std::optional<bool> RequestFields::Bool(std::string_view key) {
  const Json* value = Find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_boolean()) {
    FailExpected(key, "true or false", *value);
  }
  return value->get<bool>();
}

std::optional<std::string> RequestFields::String(std::string_view key, size_t max_bytes) {
  const Json* value = Find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_string()) {
    FailExpected(key, "a string", *value);
  }
  const auto& text = value->get_ref<const std::string&>();
  if (text.size() > max_bytes) {
    Fail(key, StrCat("expected at most ", max_bytes, " bytes, got ", text.size()));
  }
  return text;
}

std::optional<std::vector<std::string>> RequestFields::Strings(std::string_view key,
                                                               size_t max_count, size_t max_bytes) {
  const Json* value = Find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  std::vector<std::string> strings;
  if (value->is_string()) {
    strings.push_back(value->get<std::string>());
  } else if (value->is_array()) {
    if (value->size() > max_count) {
      Fail(key, StrCat("expected at most ", max_count, " strings, got ", value->size()));
    }
    for (const Json& element : *value) {
      if (!element.is_string()) {
        FailExpected(key, "a string or an array of strings", element);
      }
      strings.push_back(element.get<std::string>());
    }
  } else {
    FailExpected(key, "a string or an array of strings", *value);
  }
  for (const std::string& text : strings) {
    if (text.size() > max_bytes) {
      Fail(key, StrCat("expected at most ", max_bytes, " bytes a string, got ", text.size()));
    }
  }
  return strings;
}

std::optional<std::vector<int32_t>> RequestFields::TokenIds(std::string_view key, size_t max_count,
                                                            int64_t vocab_size) {
  const Json* value = Find(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_array()) {
    FailExpected(key, "an array of token ids", *value);
  }
  if (value->size() > max_count) {
    Fail(key, StrCat("expected at most ", max_count, " token ids, got ", value->size()));
  }
  std::vector<int32_t> ids;
  ids.reserve(value->size());
  for (const Json& element : *value) {
    const std::optional<int64_t> id = JsonToInt(element, 0, vocab_size - 1);
    if (!id) {
      FailExpected(key, StrCat("token ids in [0, ", vocab_size - 1, "]"), element);
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

void RequestFields::Refuse(std::string_view key, std::string_view why) {
  const Json* value = Find(key);
  if (value == nullptr || (value->is_boolean() && !value->get<bool>()) ||
      (value->is_number() && value->get<double>() == 0.0) ||
      ((value->is_structured() || value->is_string()) && value->empty()) ||
      (value->is_string() && value->get_ref<const std::string&>().empty())) {
    return;
  }
  throw ApiError(400, StrCat(path_, key, ": ", why), StrCat(path_, key), "unsupported_value");
}

std::vector<std::string> RequestFields::Unknown() const {
  std::vector<std::string> names;
  size_t index = 0;
  for (const auto& [name, value] : object_->get_ref<const Json::object_t&>()) {
    if (!asked_[index++]) {
      names.push_back(path_ + name);
    }
  }
  return names;
}

void RequestFields::FailExpected(std::string_view key, std::string_view expected,
                                 const Json& got) const {
  Fail(key, StrCat("expected ", expected, ", got ", DescribeJson(got)));
}

void RequestFields::Fail(std::string_view key, std::string_view message) const {
  const std::string name = StrCat(path_, key);
  throw ApiError(400, StrCat(name, ": ", message), name, "invalid_value");
}

}  // namespace dualfp
