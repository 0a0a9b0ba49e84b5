// The fields of a request's JSON object, read one by one, each with its type and range. A mistake
// is an ApiError 400 that names the field. What nobody asked for can be listed afterwards.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/server/openai/api_error.h"

namespace dualfp {

// The body of a request. ApiError 400 for anything but one JSON object.
Json ParseRequestBody(std::string_view body);

class RequestFields {
 public:
  // `path` is what messages call the object, as in "stream_options.". `json` must outlive this.
  explicit RequestFields(const Json& json, std::string path = "");

  // Null counts as absent, as OpenAI's clients send it. Integers may be written as 3.0.
  std::optional<int64_t> Int(std::string_view key, int64_t min, int64_t max);
  // Bounds are included. NaN and infinities never are.
  std::optional<double> Number(std::string_view key, double min, double max);
  std::optional<bool> Bool(std::string_view key);
  std::optional<std::string> String(std::string_view key, size_t max_bytes);
  // One string or an array of them.
  std::optional<std::vector<std::string>> Strings(std::string_view key, size_t max_count,
                                                  size_t max_bytes);
  std::optional<std::vector<int32_t>> TokenIds(std::string_view key, size_t max_count,
                                               int64_t vocab_size);
  // The value as it is; nullptr when absent or null.
  const Json* Find(std::string_view key);
  const Json* FindObject(std::string_view key);

  // Throws when the field is there (and neither null, false, 0 nor an empty array, object, string):
  // something that would change the answer and that this server cannot do.
  void Refuse(std::string_view key, std::string_view why);

  // Known, and of no effect here.
  void Ignore(std::string_view key) { Find(key); }

  // Names that no call above has asked for.
  std::vector<std::string> Unknown() const;

  // "FIELD: expected EXPECTED, got VALUE".
  [[noreturn]] void FailExpected(std::string_view key, std::string_view expected,
                                 const Json& got) const;
  // "FIELD: MESSAGE".
  [[noreturn]] void Fail(std::string_view key, std::string_view message) const;

 private:
  const Json* object_;
  std::string path_;
  std::vector<bool> asked_;
};

// `element` as an integer in [min, max], or nothing.
std::optional<int64_t> JsonToInt(const Json& element, int64_t min, int64_t max);

}  // namespace dualfp
