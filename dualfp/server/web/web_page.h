// The page at "/": page.html, compiled in.

#pragma once

#include <string_view>

namespace dualfp {

std::string_view WebPage();

}  // namespace dualfp
