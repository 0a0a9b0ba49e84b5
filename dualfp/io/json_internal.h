// The part that every JSON reader of this folder shares: running the parser and saying where in
// the file something is wrong.

#pragma once

#include <cstddef>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "dualfp/base/check.h"

namespace dualfp {

// Base of handlers for nlohmann's SAX interface. Derived classes add the value events.
class JsonHandler {
 public:
  // Errors count bytes from `first_byte`, the position of `text` in its file.
  JsonHandler(std::string_view text, std::string_view origin, uint64_t first_byte = 0)
      : begin_(text.data()),
        end_(text.data() + text.size()),
        furthest_(begin_),
        origin_(origin),
        first_byte_(first_byte) {}

  bool parse_error(size_t, const std::string&, const nlohmann::detail::exception& error);
  bool binary(nlohmann::json::binary_t&) { return false; }  // not in JSON text

 protected:
  ~JsonHandler() = default;

  // Throws kInvalidFile "ORIGIN: near byte N: MESSAGE". The parser has read at most one byte more
  // than the value or key that it reported last.
  [[noreturn]] void FailHere(std::string_view message) const;

  std::string_view origin() const { return origin_; }

 private:
  template <typename Handler>
  friend void RunJsonParser(Handler& handler);

  // The parser would take a NUL byte for the end of the text.
  void RejectNul();

  const char* begin_;
  const char* end_;
  const char* furthest_;
  std::string_view origin_;
  uint64_t first_byte_;
};

// Feeds the parser and remembers how far it has read, which it does not tell its handler.
class JsonInputIterator {
 public:
  using iterator_category = std::input_iterator_tag;
  using value_type = char;
  using difference_type = std::ptrdiff_t;
  using pointer = const char*;
  using reference = char;

  JsonInputIterator(const char* position, const char** furthest)
      : position_(position), furthest_(furthest) {}

  char operator*() const { return *position_; }
  JsonInputIterator& operator++() {
    *furthest_ = ++position_;
    return *this;
  }
  JsonInputIterator operator++(int) {
    JsonInputIterator old = *this;
    ++*this;
    return old;
  }
  friend bool operator==(const JsonInputIterator& a, const JsonInputIterator& b) {
    return a.position_ == b.position_;
  }

 private:
  const char* position_;
  const char** furthest_;
};

// Parses the handler's whole text, strictly: one value and nothing but white space after it. The
// parser keeps its own stack, so that depth costs no recursion.
template <typename Handler>
void RunJsonParser(Handler& handler) {
  JsonHandler& base = handler;
  base.RejectNul();
  nlohmann::json::sax_parse(JsonInputIterator(base.begin_, &base.furthest_),
                            JsonInputIterator(base.end_, &base.furthest_), &handler);
}

}  // namespace dualfp
