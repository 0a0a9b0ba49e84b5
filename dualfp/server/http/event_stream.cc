#include "dualfp/server/http/event_stream.h"

#include <algorithm>

namespace dualfp {

void EventStreamReader::Feed(std::string_view piece) {
  for (const char c : piece) {
    // A line ends with \n, \r or both.
    if (c == '\n' && after_return_) {
      after_return_ = false;
      continue;
    }
    after_return_ = c == '\r';
    if (c != '\n' && c != '\r') {
      line_ += c;
      continue;
    }
    Line(line_);
    line_.clear();
  }
}

void EventStreamReader::Line(std::string_view line) {
  if (line.empty()) {
    if (!data_.empty()) {
      data_.pop_back();
      on_event_(data_);
      data_.clear();
    }
    return;
  }
  const std::string_view field = line.substr(0, line.find(':'));
  if (field != "data") {
    return;
  }
  std::string_view value = line.substr(std::min(line.size(), field.size() + 1));
  if (!value.empty() && value.front() == ' ') {
    value.remove_prefix(1);
  }
  data_ += value;
  data_ += '\n';
}

}  // namespace dualfp
