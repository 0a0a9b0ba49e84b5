#include "capi/guard.h"

#include <new>
#include <string>

namespace dualfp::capi {
namespace {

thread_local std::string last_error;

dualfp_status StatusOf(ErrorCode code) {
  switch (code) {
    case ErrorCode::kInvalidArgument:
      return DUALFP_INVALID_ARGUMENT;
    case ErrorCode::kNotFound:
      return DUALFP_NOT_FOUND;
    case ErrorCode::kInvalidFile:
      return DUALFP_INVALID_DATA;
    case ErrorCode::kUnsupported:
      return DUALFP_UNSUPPORTED;
    case ErrorCode::kResourceExhausted:
      return DUALFP_RESOURCE_EXHAUSTED;
    case ErrorCode::kCancelled:
      return DUALFP_CANCELLED;
    case ErrorCode::kIo:
      return DUALFP_IO;
    case ErrorCode::kInternal:
      return DUALFP_INTERNAL;
  }
  return DUALFP_INTERNAL;
}

}  // namespace

void SetLastError(std::string_view message) noexcept {
  try {
    last_error = message;
  } catch (...) {
    last_error.clear();
  }
}

dualfp_status TakeException() noexcept {
  try {
    throw;
  } catch (const Error& error) {
    SetLastError(error.what());
    return StatusOf(error.code());
  } catch (const std::bad_alloc&) {
    SetLastError("out of memory");
    return DUALFP_RESOURCE_EXHAUSTED;
  } catch (const std::exception& error) {
    SetLastError(error.what());
  } catch (...) {
    SetLastError("unknown error");
  }
  return DUALFP_INTERNAL;
}

}  // namespace dualfp::capi

const char* dualfp_last_error(void) { return dualfp::capi::last_error.c_str(); }
