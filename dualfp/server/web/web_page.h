// What the server shows about itself, compiled in. Each page is one file: nothing is loaded from
// elsewhere.

#pragma once

#include <string_view>

namespace dualfp {

std::string_view WebPage();        // page.html: load, precision and a chat
std::string_view DocsPage();       // docs.html: shows what /openapi.json says
std::string_view OpenApiSchema();  // openapi.json

}  // namespace dualfp
