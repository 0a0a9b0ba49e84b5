#include "dualfp/io/json.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json_internal.h"

namespace dualfp {
namespace {

std::string EscapeForMessage(std::string_view text, size_t max_bytes) {
  constexpr char kHex[] = "0123456789abcdef";
  std::string escaped;
  for (const char c : text.substr(0, max_bytes)) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte >= 0x7f) {
      escaped += {'\\', 'x', kHex[byte >> 4], kHex[byte & 15]};
    } else {
      escaped += c;
    }
  }
  return text.size() > max_bytes ? escaped + "..." : escaped;
}

bool IsInteger(std::string_view number) {
  return number.find_first_of(".eE") == std::string_view::npos;
}

// Builds the document from parse events. nlohmann's own builder searches an ordered object for
// each new key, and copies the whole subtree of every member when an object grows; here members
// are collected first and moved once, so that time and memory stay linear.
class DocumentBuilder : public JsonHandler {
 public:
  DocumentBuilder(std::string_view text, std::string_view origin, const JsonOptions& options)
      : JsonHandler(text, origin), options_(options) {}

  Json Take() { return std::move(root_); }

  bool null() { return Add(nullptr); }
  bool boolean(bool value) { return Add(value); }
  bool number_integer(Json::number_integer_t value) { return Add(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return Add(value); }
  // An integer beyond 64 bits is kept as it is written: a binary value that holds its digits.
  bool number_float(Json::number_float_t value, const std::string& text) {
    return IsInteger(text) ? Add(Json::binary({text.begin(), text.end()})) : Add(value);
  }
  bool string(std::string& value) { return Add(std::move(value)); }

  bool start_object(size_t) { return Open(true); }
  bool start_array(size_t) { return Open(false); }
  bool key(std::string& name) {
    frames_.back().members.emplace_back(std::move(name), nullptr);
    return true;
  }

  bool end_array() {
    Json value = Json::array();
    value.get_ref<Json::array_t&>() = std::move(frames_.back().elements);
    return Close(std::move(value));
  }

  bool end_object() {
    Members& members = frames_.back().members;
    ResolveDuplicates(members);
    Json value = Json::object();
    auto& object = value.get_ref<Json::object_t&>();
    object.reserve(members.size());
    for (auto& [name, member] : members) {
      // The vector's own emplace_back: the map's searches for the key first.
      static_cast<std::vector<Json::object_t::value_type>&>(object).emplace_back(std::move(name),
                                                                                 std::move(member));
    }
    return Close(std::move(value));
  }

 private:
  using Members = std::vector<std::pair<std::string, Json>>;

  struct Frame {
    bool is_object;
    Members members;
    Json::array_t elements;
  };

  template <typename Value>
  bool Add(Value&& value) {
    if (frames_.empty()) {
      root_ = std::forward<Value>(value);
    } else if (frames_.back().is_object) {
      frames_.back().members.back().second = std::forward<Value>(value);
    } else {
      frames_.back().elements.emplace_back(std::forward<Value>(value));
    }
    return true;
  }

  bool Open(bool is_object) {
    if (frames_.size() >= static_cast<size_t>(options_.max_depth)) {
      FailHere(StrCat("JSON nested more than ", options_.max_depth, " levels deep"));
    }
    frames_.push_back(Frame{is_object, {}, {}});
    return true;
  }

  bool Close(Json value) {
    frames_.pop_back();
    return Add(std::move(value));
  }

  // Sorting rather than hashing: no crafted set of keys can make it quadratic.
  void ResolveDuplicates(Members& members) {
    std::vector<size_t> order(members.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::stable_sort(order.begin(), order.end(),
                     [&](size_t a, size_t b) { return members[a].first < members[b].first; });
    std::vector<bool> dropped;
    for (size_t i = 1; i < order.size(); ++i) {
      if (members[order[i - 1]].first != members[order[i]].first) {
        continue;
      }
      if (options_.duplicate_keys == DuplicateKeys::kReject) {
        FailHere(StrCat("duplicate key ", QuoteForMessage(members[order[i]].first)));
      }
      dropped.resize(members.size());
      dropped[order[i - 1]] = true;
    }
    if (!dropped.empty()) {
      size_t kept = 0;
      for (size_t i = 0; i < members.size(); ++i) {
        if (!dropped[i]) {
          if (kept != i) {
            members[kept] = std::move(members[i]);
          }
          ++kept;
        }
      }
      members.resize(kept);
    }
  }

  const JsonOptions& options_;
  std::vector<Frame> frames_;
  Json root_;
};

std::string DigitsOf(const Json& big_integer) {
  const auto& bytes = big_integer.get_binary();
  return {bytes.begin(), bytes.end()};
}

std::optional<int64_t> AsInt(const Json& value, int64_t min, int64_t max) {
  int64_t result = 0;
  if (value.is_number_unsigned()) {
    if (value.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return std::nullopt;
    }
    result = value.get<int64_t>();
  } else if (value.is_number_integer()) {
    result = value.get<int64_t>();
  } else if (value.is_number_float()) {
    const double number = value.get<double>();
    // 2^53: beyond it a double no longer names one integer.
    if (std::trunc(number) != number || std::abs(number) > 9007199254740992.0) {
      return std::nullopt;
    }
    result = static_cast<int64_t>(number);
  } else {
    return std::nullopt;
  }
  if (result < min || result > max) {
    return std::nullopt;
  }
  return result;
}

std::optional<double> AsNumber(const Json& value, double min, double max) {
  if (!value.is_number() && !value.is_binary()) {
    return std::nullopt;
  }
  const double number =
      value.is_binary() ? std::strtod(DigitsOf(value).c_str(), nullptr) : value.get<double>();
  if (!(number >= min && number <= max)) {
    return std::nullopt;
  }
  return number;
}

std::string ExpectedInt(int64_t min, int64_t max) {
  return StrCat("an integer in [", min, ", ", max, "]");
}

std::string ExpectedNumber(double min, double max) {
  return StrCat("a number in [", min, ", ", max, "]");
}

std::string Element(std::string_view key, size_t index) { return StrCat(key, "[", index, "]"); }

}  // namespace

bool JsonHandler::parse_error(size_t, const std::string&,
                              const nlohmann::detail::exception& error) {
  // "[json.exception.parse_error.101] parse error at line 1, column 7: syntax error while ..."
  std::string_view message = error.what();
  for (const std::string_view prefix_end : {"] ", ": "}) {
    const size_t position = message.find(prefix_end);
    if (position != std::string_view::npos) {
      message.remove_prefix(position + prefix_end.size());
    }
  }
  FailHere(StrCat("not valid JSON: ", EscapeForMessage(message, 160)));
}

void JsonHandler::RejectNul() {
  const char* nul = std::find(begin_, end_, '\0');
  if (nul != end_) {
    furthest_ = nul;
    FailHere("not valid JSON: NUL byte");
  }
}

void JsonHandler::FailHere(std::string_view message) const {
  Fail(ErrorCode::kInvalidFile, origin_, ": near byte ",
       first_byte_ + static_cast<uint64_t>(furthest_ - begin_), ": ", message);
}

Json ParseJson(std::string_view text, std::string_view origin, const JsonOptions& options) {
  DocumentBuilder builder(text, origin, options);
  RunJsonParser(builder);
  return builder.Take();
}

Json ParseJsonFile(const std::filesystem::path& path, const JsonOptions& options,
                   int64_t max_bytes) {
  return ParseJson(ReadFile(path, max_bytes), path.string(), options);
}

std::string QuoteForMessage(std::string_view text) {
  return StrCat("\"", EscapeForMessage(text, 80), "\"");
}

std::string DescribeJson(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return "an object";
    case Json::value_t::array:
      return StrCat("an array of ", value.size());
    case Json::value_t::string:
      return QuoteForMessage(value.get_ref<const std::string&>());
    case Json::value_t::binary:
      return DigitsOf(value);
    default:
      return value.dump();
  }
}

JsonFields::JsonFields(const Json& value, std::string_view origin, std::string_view path)
    : object_(&value), origin_(origin), path_(path) {
  Check(value.is_object(), ErrorCode::kInvalidFile, origin_, ": ",
        path_.empty() ? "" : StrCat("field ", path_, ": "), "expected an object, got ",
        DescribeJson(value));
}

const Json* JsonFields::FindRaw(std::string_view key) const {
  for (const auto& [name, value] : object_->get_ref<const Json::object_t&>()) {
    if (name == key) {
      return &value;
    }
  }
  return nullptr;
}

const Json* JsonFields::FindNonNull(std::string_view key) const {
  const Json* value = FindRaw(key);
  return value != nullptr && !value->is_null() ? value : nullptr;
}

bool JsonFields::Has(std::string_view key) const { return FindNonNull(key) != nullptr; }

std::optional<int64_t> JsonFields::FindInt(std::string_view key, int64_t min, int64_t max) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const std::optional<int64_t> result = AsInt(*value, min, max);
  if (!result) {
    FailExpected(key, ExpectedInt(min, max));
  }
  return result;
}

std::optional<double> JsonFields::FindNumber(std::string_view key, double min, double max) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  const std::optional<double> result = AsNumber(*value, min, max);
  if (!result) {
    FailExpected(key, ExpectedNumber(min, max));
  }
  return result;
}

std::optional<bool> JsonFields::FindBool(std::string_view key) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_boolean()) {
    FailExpected(key, "true or false");
  }
  return value->get<bool>();
}

std::optional<std::string> JsonFields::FindString(std::string_view key) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_string()) {
    FailExpected(key, "a string");
  }
  return value->get<std::string>();
}

std::optional<JsonFields> JsonFields::FindObject(std::string_view key) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  return JsonFields(*value, origin_, FieldPath(key));
}

std::optional<std::vector<double>> JsonFields::FindNumbers(std::string_view key, double min,
                                                           double max) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_array()) {
    FailExpected(key, "an array of numbers");
  }
  std::vector<double> numbers;
  for (const Json& element : *value) {
    const std::optional<double> number = AsNumber(element, min, max);
    if (!number) {
      FailField(Element(key, numbers.size()),
                StrCat("expected ", ExpectedNumber(min, max), ", got ", DescribeJson(element)));
    }
    numbers.push_back(*number);
  }
  return numbers;
}

std::optional<std::vector<std::string>> JsonFields::FindStrings(std::string_view key) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_array()) {
    FailExpected(key, "an array of strings");
  }
  std::vector<std::string> strings;
  for (const Json& element : *value) {
    if (!element.is_string()) {
      FailField(Element(key, strings.size()),
                StrCat("expected a string, got ", DescribeJson(element)));
    }
    strings.push_back(element.get<std::string>());
  }
  return strings;
}

std::optional<std::vector<JsonFields>> JsonFields::FindObjects(std::string_view key) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_array()) {
    FailExpected(key, "an array of objects");
  }
  std::vector<JsonFields> objects;
  objects.reserve(value->size());
  for (const Json& element : *value) {
    objects.emplace_back(element, origin_, FieldPath(Element(key, objects.size())));
  }
  return objects;
}

std::optional<std::vector<int64_t>> JsonFields::FindIntOrInts(std::string_view key, int64_t min,
                                                              int64_t max) const {
  const Json* value = FindNonNull(key);
  if (value == nullptr) {
    return std::nullopt;
  }
  if (!value->is_array()) {
    return std::vector<int64_t>{*FindInt(key, min, max)};
  }
  std::vector<int64_t> integers;
  for (const Json& element : *value) {
    const std::optional<int64_t> integer = AsInt(element, min, max);
    if (!integer) {
      FailField(Element(key, integers.size()),
                StrCat("expected ", ExpectedInt(min, max), ", got ", DescribeJson(element)));
    }
    integers.push_back(*integer);
  }
  return integers;
}

int64_t JsonFields::GetInt(std::string_view key, int64_t min, int64_t max) const {
  const std::optional<int64_t> value = FindInt(key, min, max);
  if (!value) {
    FailExpected(key, ExpectedInt(min, max));
  }
  return *value;
}

double JsonFields::GetNumber(std::string_view key, double min, double max) const {
  const std::optional<double> value = FindNumber(key, min, max);
  if (!value) {
    FailExpected(key, ExpectedNumber(min, max));
  }
  return *value;
}

bool JsonFields::GetBool(std::string_view key) const {
  const std::optional<bool> value = FindBool(key);
  if (!value) {
    FailExpected(key, "true or false");
  }
  return *value;
}

std::string JsonFields::GetString(std::string_view key) const {
  std::optional<std::string> value = FindString(key);
  if (!value) {
    FailExpected(key, "a string");
  }
  return *std::move(value);
}

JsonFields JsonFields::GetObject(std::string_view key) const {
  const std::optional<JsonFields> value = FindObject(key);
  if (!value) {
    FailExpected(key, "an object");
  }
  return *value;
}

std::vector<double> JsonFields::GetNumbers(std::string_view key, double min, double max) const {
  std::optional<std::vector<double>> value = FindNumbers(key, min, max);
  if (!value) {
    FailExpected(key, "an array of numbers");
  }
  return *std::move(value);
}

std::vector<std::string> JsonFields::GetStrings(std::string_view key) const {
  std::optional<std::vector<std::string>> value = FindStrings(key);
  if (!value) {
    FailExpected(key, "an array of strings");
  }
  return *std::move(value);
}

std::vector<JsonFields> JsonFields::GetObjects(std::string_view key) const {
  std::optional<std::vector<JsonFields>> value = FindObjects(key);
  if (!value) {
    FailExpected(key, "an array of objects");
  }
  return *std::move(value);
}

void JsonFields::FailExpected(std::string_view key, std::string_view expected) const {
  const Json* value = FindRaw(key);
  FailField(key,
            StrCat("expected ", expected, ", ",
                   value == nullptr ? "but it is missing" : StrCat("got ", DescribeJson(*value))));
}

void JsonFields::FailField(std::string_view key, std::string_view message) const {
  Fail(ErrorCode::kInvalidFile, origin_, ": field ", FieldPath(key), ": ", message);
}

void JsonFields::FailUnsupported(std::string_view key, std::string_view message) const {
  Fail(ErrorCode::kUnsupported, origin_, ": field ", FieldPath(key), ": ", message);
}

std::string JsonFields::FieldPath(std::string_view key) const {
  return path_.empty() ? std::string(key) : StrCat(path_, ".", key);
}

}  // namespace dualfp
