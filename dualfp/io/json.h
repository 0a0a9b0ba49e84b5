// JSON from untrusted files: a bounded parser and typed access to the fields of an object.
//
// The parser itself is nlohmann-json's; what is added here are a depth limit, linear time and
// memory for any input, duplicate-key policies, and errors that name the file and the byte or the
// field. All failures throw kInvalidFile.

#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dualfp {

// Keeps members in file order. Looking up a key takes time linear in the number of members: walk
// large objects (a vocabulary) with items() instead.
using Json = nlohmann::ordered_json;

enum class DuplicateKeys : uint8_t {
  kLastWins,  // as in Python's json module
  kReject,
};

struct JsonOptions {
  int max_depth = 256;  // of nested objects and arrays
  DuplicateKeys duplicate_keys = DuplicateKeys::kLastWins;
};

// Parses exactly one JSON value: no comments, no NaN, nothing after it, valid UTF-8 throughout.
// `origin` is what errors call the text: the file's path.
Json ParseJson(std::string_view text, std::string_view origin, const JsonOptions& options = {});

// Throws kNotFound or kIo when the file cannot be read, kInvalidFile when it is larger than
// max_bytes. The largest published tokenizers take 35 MB, the largest shard indexes 15 MB; a
// document takes at most about 21 times its text in memory ("[[],[],[]...").
Json ParseJsonFile(const std::filesystem::path& path, const JsonOptions& options = {},
                   int64_t max_bytes = 100'000'000);

// Untrusted text for an error message: in double quotes, shortened to about 80 bytes, and with
// everything but printable ASCII escaped.
std::string QuoteForMessage(std::string_view text);

// A value in an error message: "abc" (shortened), 12, "an array of 3", "an object".
std::string DescribeJson(const Json& value);

// Reads one object field by field. A wrong type or range throws kInvalidFile like
//   config.json: field num_attention_heads: expected an integer in [1, 65536], got "abc"
// where nested fields are written rope_scaling.factor and layers[3].name.
//
// Find...() returns nothing for an absent or null field (Hugging Face files write null for "use
// the default"); Get...() makes it an error. Refers to the Json, which must outlive it.
class JsonFields {
 public:
  // Throws when `value` is not an object. `path` names the object inside the file.
  JsonFields(const Json& value, std::string_view origin, std::string_view path = "");

  const std::string& origin() const { return origin_; }
  const Json& json() const { return *object_; }

  // The member, null included; nullptr when absent.
  const Json* FindRaw(std::string_view key) const;

  // Present and not null.
  bool Has(std::string_view key) const;

  // Integers may also be written as 4096.0, which some tools emit.
  std::optional<int64_t> FindInt(std::string_view key, int64_t min, int64_t max) const;
  std::optional<double> FindNumber(std::string_view key, double min, double max) const;
  std::optional<bool> FindBool(std::string_view key) const;
  std::optional<std::string> FindString(std::string_view key) const;
  std::optional<JsonFields> FindObject(std::string_view key) const;
  // An array; each element is checked like the scalar of that type. Elements are never null.
  std::optional<std::vector<double>> FindNumbers(std::string_view key, double min,
                                                 double max) const;
  std::optional<std::vector<std::string>> FindStrings(std::string_view key) const;
  std::optional<std::vector<JsonFields>> FindObjects(std::string_view key) const;
  // One integer or an array of them.
  std::optional<std::vector<int64_t>> FindIntOrInts(std::string_view key, int64_t min,
                                                    int64_t max) const;

  int64_t GetInt(std::string_view key, int64_t min, int64_t max) const;
  double GetNumber(std::string_view key, double min, double max) const;
  bool GetBool(std::string_view key) const;
  std::string GetString(std::string_view key) const;
  JsonFields GetObject(std::string_view key) const;
  std::vector<double> GetNumbers(std::string_view key, double min, double max) const;
  std::vector<std::string> GetStrings(std::string_view key) const;
  std::vector<JsonFields> GetObjects(std::string_view key) const;

  // Throws "ORIGIN: field PATH.KEY: expected EXPECTED, got <the value, shortened>".
  [[noreturn]] void FailExpected(std::string_view key, std::string_view expected) const;
  // Throws "ORIGIN: field PATH.KEY: MESSAGE".
  [[noreturn]] void FailField(std::string_view key, std::string_view message) const;
  // As FailField, with code kUnsupported: well-formed, but nothing dualfp knows.
  [[noreturn]] void FailUnsupported(std::string_view key, std::string_view message) const;

 private:
  const Json* FindNonNull(std::string_view key) const;
  std::string FieldPath(std::string_view key) const;

  const Json* object_;
  std::string origin_;
  std::string path_;
};

}  // namespace dualfp
