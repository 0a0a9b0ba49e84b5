// The script of every code point (UAX 24).

#pragma once

#include <cstdint>

namespace dualfp {

using Script = uint8_t;
constexpr Script kNoScript = 0;  // of unassigned code points

// Scripts are numbered in no particular order; Common and Inherited count as scripts.
Script ScriptOf(char32_t code_point);

}  // namespace dualfp
