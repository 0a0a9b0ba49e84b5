// Filters that shorten, count or encode text, as in jinja2/filters.py.

#include <algorithm>

#include "dualfp/base/check.h"
#include "dualfp/text/jinja/builtins/filters_internal.h"
#include "dualfp/text/jinja/builtins/format.h"
#include "dualfp/text/jinja/strings.h"
#include "dualfp/text/unicode.h"

namespace dualfp::jinja {
namespace {

// urllib.parse.quote()
void AppendQuoted(std::string_view text, bool is_query, std::string* out) {
  for (const char c : text) {
    const bool is_plain = (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
                          (c >= 'a' && c <= 'z') || c == '_' || c == '.' || c == '-' || c == '~' ||
                          (c == '/' && !is_query);
    if (is_plain) {
      *out += c;
    } else if (c == ' ' && is_query) {
      *out += '+';
    } else {
      constexpr char kHex[] = "0123456789ABCDEF";
      const auto byte = static_cast<uint8_t>(c);
      *out += {'%', kHex[byte >> 4], kHex[byte & 15]};
    }
  }
}

}  // namespace

Value Truncate(FilterCall& call) {
  const int64_t length = call.reader.GetInt("length", 255);
  const bool cut_words = call.reader.GetBool("killwords", false);
  const std::string_view end = call.reader.GetString("end", "...");
  const Value leeway = call.reader.GetOr("leeway", Value::None());
  call.reader.Finish();
  const auto end_length = static_cast<int64_t>(CountCodePoints(end));
  const int64_t tolerated = leeway.is_int() ? leeway.as_int() : 5;
  if (length < end_length || tolerated < 0) {
    FailRuntime(StrCat("truncate() expects a length of at least ", end_length,
                       " and a leeway that is not negative"));
  }
  const std::string_view text = call.Text();
  if (static_cast<int64_t>(CountCodePoints(text)) - length <= tolerated) {
    return call.Result(std::string(text));
  }
  std::string_view kept =
      text.substr(0, CodePointOffset(text, static_cast<size_t>(length - end_length)));
  if (!cut_words) {
    kept = kept.substr(0, kept.rfind(' '));
  }
  return call.Result(StrCat(kept, end));
}

// Runs of letters, marks, digits and underscores.
Value WordCount(FilterCall& call) {
  call.reader.Finish();
  const std::string_view text = call.Text();
  call.heap.ChargeText(text.size());
  int64_t count = 0;
  bool in_word = false;
  for (size_t i = 0; i < text.size();) {
    const char32_t c = DecodeUtf8(text, &i);
    const bool is_word = c == '_' || IsLetter(c) || IsInCategory(c, "N");
    count += is_word && !in_word ? 1 : 0;
    in_word = is_word;
  }
  return Value::Int(count);
}

Value StripTags(FilterCall& call) {
  call.reader.Finish();
  std::string text(call.Text());
  call.heap.ChargeText(text.size() * 2);
  for (const auto& [open, close] : {std::pair("<!--", "-->"), std::pair("<", ">")}) {
    std::string kept;
    size_t copied = 0;
    for (size_t at = text.find(open); at != std::string::npos; at = text.find(open, copied)) {
      const size_t end = text.find(close, at);
      if (end == std::string::npos) {
        break;
      }
      kept.append(text, copied, at - copied);
      copied = end + std::string_view(close).size();
    }
    kept.append(text, copied);
    text = std::move(kept);
  }
  std::string joined;
  for (const std::string_view word : SplitWhitespace(text, -1, false)) {
    joined += joined.empty() ? "" : " ";
    joined += word;
  }
  return call.heap.NewString(std::move(joined));
}

Value UrlEncode(FilterCall& call) {
  call.reader.Finish();
  std::string out;
  if (call.operand.is_string() || !(call.operand.is_dict() || call.operand.is_sequence())) {
    AppendQuoted(call.Text(), /*is_query=*/false, &out);
    return call.heap.NewString(std::move(out));
  }
  const auto append = [&](const Value& key, const Value& value) {
    out += out.empty() ? "" : "&";
    AppendQuoted(ToString(call.heap, key), /*is_query=*/true, &out);
    out += '=';
    AppendQuoted(ToString(call.heap, value), /*is_query=*/true, &out);
  };
  if (call.operand.is_dict()) {
    for (const auto& [key, value] : call.operand.dict().items) {
      append(key, value);
    }
  } else {
    for (const Value& pair : call.operand.items()) {
      const std::vector<Value> parts = Iterate(call.heap, pair);
      if (parts.size() != 2) {
        FailRuntime("urlencode() expects pairs");
      }
      append(parts[0], parts[1]);
    }
  }
  return call.heap.NewString(std::move(out));
}

Value FileSize(FilterCall& call) {
  const bool binary = call.reader.GetBool("binary", false);
  call.reader.Finish();
  if (!call.operand.is_number()) {
    FailRuntime("filesizeformat() expects a number");
  }
  const double bytes = call.operand.as_double();
  const double base = binary ? 1024 : 1000;
  if (bytes == 1) {
    return Value::String("1 Byte");
  }
  if (bytes < base) {
    return call.heap.NewString(
        StrCat(ToString(call.heap, Value::Int(static_cast<int64_t>(bytes))), " Bytes"));
  }
  constexpr std::string_view kUnits = "kMGTPEZY";
  double unit = base;
  size_t i = 0;
  while (i + 1 < kUnits.size() && bytes >= unit * base) {
    unit *= base;
    ++i;
  }
  const std::string prefix = binary && i == 0 ? "K" : std::string(1, kUnits[i]);
  return call.heap.NewString(StrCat(FormatValue(call.heap, Value::Float(bytes / unit), ".1f"), " ",
                                    prefix, binary ? "iB" : "B"));
}

}  // namespace dualfp::jinja
