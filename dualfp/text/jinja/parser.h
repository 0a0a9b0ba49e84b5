// Parses a template. The grammar and its precedences are Jinja2's (jinja2/parser.py), with the
// loop controls and the generation tag of transformers; tags that load other templates are
// refused.

#pragma once

#include <string_view>

#include "dualfp/text/jinja/ast.h"

namespace dualfp::jinja {

// Throws kInvalidFile or kUnsupported naming `origin` and the line.
Block Parse(std::string_view source, std::string_view origin);

}  // namespace dualfp::jinja
