// The edge of the C interface: exceptions end here and become a status and a message.

#pragma once

#include <concepts>
#include <exception>
#include <string_view>

#include "capi/dualfp.h"
#include "dualfp/base/error.h"

namespace dualfp::capi {

// What dualfp_last_error() of the calling thread returns from here on.
void SetLastError(std::string_view message) noexcept;

// Of the exception in flight.
dualfp_status TakeException() noexcept;

template <std::invocable Body>
dualfp_status Guarded(Body&& body) noexcept {
  try {
    body();
    return DUALFP_OK;
  } catch (...) {
    return TakeException();
  }
}

}  // namespace dualfp::capi
