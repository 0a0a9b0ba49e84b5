// Reads a server-sent event stream (WHATWG HTML, 9.2): what streaming completions come as.

#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <utility>

namespace dualfp {

class EventStreamReader {
 public:
  // `on_event` gets each event's data: its data lines, joined by line feeds. Other fields and
  // comments are ignored.
  explicit EventStreamReader(std::function<void(std::string_view data)> on_event)
      : on_event_(std::move(on_event)) {}

  // The next piece, cut anywhere.
  void Feed(std::string_view piece);

 private:
  void Line(std::string_view line);

  std::function<void(std::string_view)> on_event_;
  std::string line_;  // so far
  std::string data_;  // of the event so far, each line with its end
  bool after_return_ = false;
};

}  // namespace dualfp
