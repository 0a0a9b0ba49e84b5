// What str.format() and % have in common: numbers and text with a width, a sign, a precision.

#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "dualfp/text/jinja/value.h"

namespace dualfp::jinja {

// The parts of "[[fill]align][sign][#][0][width][grouping][.precision][type]".
struct FormatOptions {
  std::string fill = " ";
  char align = '\0';     // '<', '>', '^', '=' (after the sign) or none
  char sign = '-';       // '+', ' ' or '-'
  char grouping = '\0';  // ',' or '_' between thousands
  char type = '\0';
  bool alternate = false;
  int64_t width = 0;
  int64_t precision = -1;  // -1: not given
};

// Text of a field: cut to the precision, padded to the width; left-aligned unless told otherwise.
std::string FormatText(Heap& heap, std::string_view text, const FormatOptions& options);

// An integer by the types b c d n o x X, or as a float by those of FormatFloat().
std::string FormatInteger(Heap& heap, const Value& value, const FormatOptions& options);

// By the types e E f F g G n %, or without a type like repr() with a precision.
std::string FormatFloat(Heap& heap, double value, const FormatOptions& options);

}  // namespace dualfp::jinja
