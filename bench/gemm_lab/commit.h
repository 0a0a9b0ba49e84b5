// The commit this program was built from, for recorded measurements.

#pragma once

#include <string_view>

namespace dualfp {

// "2a76c87", "2a76c87-dirty" with uncommitted changes, "unknown" outside a checkout.
std::string_view Commit();

}  // namespace dualfp
