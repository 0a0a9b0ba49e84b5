// LoadTrace(): CSV in, requests out.

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <optional>
#include <string>

#include "bench/serving/workload/workload.h"
#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxTraceBytes = int64_t{4} << 30;
constexpr int64_t kMaxTokens = int64_t{1} << 30;

std::string_view Trim(std::string_view text) {
  constexpr std::string_view kSpace = " \t\r\"";
  const size_t first = text.find_first_not_of(kSpace);
  return first == std::string_view::npos
             ? std::string_view()
             : text.substr(first, text.find_last_not_of(kSpace) - first + 1);
}

std::string_view NextField(std::string_view* line) {
  const size_t comma = line->find(',');
  const std::string_view field = Trim(line->substr(0, comma));
  line->remove_prefix(comma == std::string_view::npos ? line->size() : comma + 1);
  return field;
}

template <typename Number>
std::optional<Number> ParseNumber(std::string_view text) {
  Number value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  return error == std::errc() && stop == end && !text.empty() ? std::optional(value) : std::nullopt;
}

// Days since 1970-01-01 of a date of the Gregorian calendar; a year begins in March, so that the
// leap day is its last.
int64_t DaysSinceEpoch(int64_t year, int month, int day) {
  year -= month <= 2 ? 1 : 0;
  const int64_t leap_days = year / 4 - year / 100 + year / 400;
  const int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
  return year * 365 + leap_days + day_of_year - 719468;
}

// Seconds: "12.5", "2023-11-16 18:15:46.680", "2024-05-10T00:00:00.009930+00:00".
std::optional<double> ParseTime(std::string_view text) {
  if (const auto seconds = ParseNumber<double>(text)) {
    return std::isfinite(*seconds) ? seconds : std::nullopt;
  }
  int year = 0, month = 0, day = 0, hour = 0, minute = 0, used = 0;
  const std::string copy(text);
  if (std::sscanf(copy.c_str(), "%4d-%2d-%2d%*1[ T]%2d:%2d:%n", &year, &month, &day, &hour, &minute,
                  &used) != 5 ||
      used == 0 || month < 1 || month > 12 || day < 1 || day > 31 || hour > 23 || minute > 59) {
    return std::nullopt;
  }
  std::string_view rest = text.substr(static_cast<size_t>(used));
  // An offset from UTC is the same in all lines of a trace.
  rest = rest.substr(0, rest.find_first_of("Z+-"));
  const auto seconds = ParseNumber<double>(rest);
  if (!seconds || !(*seconds >= 0 && *seconds < 61)) {
    return std::nullopt;
  }
  return static_cast<double>(DaysSinceEpoch(year, month, day)) * 86400 + hour * 3600 + minute * 60 +
         *seconds;
}

enum Column : uint8_t { kTime, kPrompt, kOutput, kNumColumns };

std::optional<Column> ColumnNamed(std::string_view name) {
  std::string plain;
  for (const char c : name) {
    if (c != '_' && c != ' ') {
      plain += c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c;
    }
  }
  if (plain == "timestamp" || plain == "time") {
    return kTime;
  }
  if (plain == "prompttokens" || plain == "contexttokens" || plain == "inputtokens") {
    return kPrompt;
  }
  if (plain == "outputtokens" || plain == "generatedtokens") {
    return kOutput;
  }
  return std::nullopt;
}

// Which of a line's fields holds each column.
using Layout = std::array<int, kNumColumns>;

Layout ReadHeading(std::string_view line, const std::string& origin) {
  Layout layout{-1, -1, -1};
  for (int field = 0; !line.empty(); ++field) {
    if (const auto column = ColumnNamed(NextField(&line))) {
      layout[*column] = field;
    }
  }
  for (const int field : layout) {
    Check(field >= 0, ErrorCode::kInvalidFile, origin,
          ", line 1: expected the columns timestamp, prompt_tokens and output_tokens");
  }
  return layout;
}

PlannedRequest ReadLine(std::string_view line, const Layout& layout, const std::string& where) {
  std::array<std::string_view, kNumColumns> fields;
  std::string_view rest = line;
  for (int field = 0; !rest.empty(); ++field) {
    const std::string_view text = NextField(&rest);
    for (int column = 0; column < kNumColumns; ++column) {
      if (layout[column] == field) {
        fields[column] = text;
      }
    }
  }
  PlannedRequest request;
  const auto time = ParseTime(fields[kTime]);
  Check(time.has_value(), ErrorCode::kInvalidFile, where, ": expected a time, got ",
        QuoteForMessage(fields[kTime]));
  request.at = *time;
  const auto tokens = [&](Column column, const char* name) {
    const auto value = ParseNumber<int64_t>(fields[column]);
    Check(value && *value >= 0 && *value <= kMaxTokens, ErrorCode::kInvalidFile, where,
          ": expected a number of ", name, " tokens, got ", QuoteForMessage(fields[column]));
    return std::max<int64_t>(1, *value);
  };
  request.prompt_tokens = tokens(kPrompt, "prompt");
  request.output_tokens = tokens(kOutput, "output");
  return request;
}

}  // namespace

Workload LoadTrace(const std::filesystem::path& path) {
  const std::string text = ReadFile(path, kMaxTraceBytes);
  Workload workload;
  Layout layout{0, 1, 2};
  std::string_view rest = text;
  for (int64_t number = 1; !rest.empty(); ++number) {
    const size_t end = std::min(rest.find('\n'), rest.size());
    const std::string_view line = Trim(rest.substr(0, end));
    rest.remove_prefix(std::min(rest.size(), end + 1));
    if (line.empty()) {
      continue;
    }
    if (number == 1 && (line.front() < '0' || line.front() > '9')) {
      layout = ReadHeading(line, path.string());
      continue;
    }
    workload.push_back(ReadLine(line, layout, StrCat(path.string(), ", line ", number)));
  }
  Check(!workload.empty(), ErrorCode::kInvalidFile, path.string(), ": no requests in it");
  std::stable_sort(workload.begin(), workload.end(),
                   [](const PlannedRequest& a, const PlannedRequest& b) { return a.at < b.at; });
  const double first = workload.front().at;
  for (PlannedRequest& request : workload) {
    request.at -= first;
  }
  return workload;
}

}  // namespace dualfp
