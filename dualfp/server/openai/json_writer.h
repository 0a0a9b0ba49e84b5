// Writes JSON from front to back into a string: what streaming needs, where a document tree per
// token would cost more than the token's text.
//
// Always valid JSON: text that is not UTF-8 is mended with U+FFFD, numbers that JSON cannot write
// become null. The caller keeps the nesting right.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace dualfp {

// Appends `text` in quotes.
void AppendJsonString(std::string_view text, std::string* out);

class JsonWriter {
 public:
  JsonWriter& BeginObject() { return Open('{'); }
  JsonWriter& EndObject() { return Close('}'); }
  JsonWriter& BeginArray() { return Open('['); }
  JsonWriter& EndArray() { return Close(']'); }

  JsonWriter& Key(std::string_view key);
  JsonWriter& String(std::string_view value);
  JsonWriter& Int(int64_t value);
  JsonWriter& Number(double value);  // shortest text that reads back as the same double
  JsonWriter& Number(float value);   // the same for a float
  JsonWriter& Bool(bool value) { return Raw(value ? "true" : "false"); }
  JsonWriter& Null() { return Raw("null"); }

  // A value, or the inside of an object or array, that is JSON already.
  JsonWriter& Raw(std::string_view json);

  const std::string& text() const { return out_; }
  std::string Take() { return std::move(out_); }

 private:
  JsonWriter& Open(char bracket);
  JsonWriter& Close(char bracket);
  void Separate();

  std::string out_;
  bool first_ = true;  // nothing yet at this level, or a key was just written
};

}  // namespace dualfp
