// Python's two ways to format text: str.format() and the % operator.

#pragma once

#include <string>
#include <string_view>

#include "dualfp/text/jinja/evaluator.h"

namespace dualfp::jinja {

// format.format(*positional, **keywords): replacement fields with attributes, indices, conversions
// and specifications.
std::string FormatBraces(Evaluator& evaluator, std::string_view format, const Arguments& arguments);

// format % values: values is a tuple, a dict for "%(name)s", or one value.
std::string FormatPercent(Heap& heap, std::string_view format, const Value& values);

// format(value, specification), as in "{:>8.2f}".
std::string FormatValue(Heap& heap, const Value& value, std::string_view specification);

}  // namespace dualfp::jinja
