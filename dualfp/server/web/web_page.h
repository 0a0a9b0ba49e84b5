// The page at "/": one file, made of page.html, page.css and page.js, compiled in.

#pragma once

#include <string_view>

namespace dualfp {

std::string_view WebPage();

}  // namespace dualfp
