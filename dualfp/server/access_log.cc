#include "dualfp/server/access_log.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

#include "dualfp/server/openai/json_writer.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr size_t kMaxValueBytes = 200;

void AppendText(std::string_view key, std::string_view value, std::string* out) {
  const bool plain = !value.empty() && value.size() <= kMaxValueBytes &&
                     std::all_of(value.begin(), value.end(), [](char c) {
                       return c > 0x20 && c < 0x7f && c != '"' && c != '=' && c != '\\';
                     });
  *out += out->empty() ? "" : " ";
  *out += key;
  *out += '=';
  if (plain) {
    *out += value;
  } else {
    std::string quoted;
    AppendJsonString(value.substr(0, kMaxValueBytes), &quoted);
    *out += EscapeForLog(quoted);
  }
}

}  // namespace

std::string EscapeForLog(std::string_view text) {
  std::string mended;
  if (!IsValidUtf8(text)) {
    mended = ReplaceInvalidUtf8(text);
    text = mended;
  }
  std::string escaped;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    const char32_t code_point = DecodeUtf8(text, &i);
    switch (GeneralCategories()[code_point]) {
      case GeneralCategory::kCc:
      case GeneralCategory::kCf:
      case GeneralCategory::kZl:
      case GeneralCategory::kZp:
        escaped += code_point > 0xffff ? fmt::format("\\U{:08x}", uint32_t{code_point})
                                       : fmt::format("\\u{:04x}", uint32_t{code_point});
        break;
      default:
        escaped += text.substr(begin, i - begin);
    }
  }
  return escaped;
}

std::string FormatAccessRecord(const AccessRecord& record) {
  std::string line;
  AppendText("client", record.client, &line);
  AppendText("method", record.method, &line);
  AppendText("path", record.path, &line);
  fmt::format_to(std::back_inserter(line), " status={} bytes={} ms={:.1f}", record.status,
                 record.response_bytes, record.seconds * 1e3);
  AppendText("request_id", record.request_id, &line);
  if (record.client_left) {
    line += " client_left=true";
  }
  if (record.generation) {
    const GenerationSummary& generation = *record.generation;
    AppendText("id", generation.id, &line);
    fmt::format_to(std::back_inserter(line), " prompt_tokens={} completion_tokens={}",
                   generation.prompt_tokens, generation.completion_tokens);
    if (generation.ttft_seconds >= 0) {
      fmt::format_to(std::back_inserter(line), " ttft_ms={:.1f}", generation.ttft_seconds * 1e3);
    }
    if (!generation.finish_reason.empty()) {
      AppendText("finish_reason", generation.finish_reason, &line);
    }
  }
  return line;
}

}  // namespace dualfp
