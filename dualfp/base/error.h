// The one exception type of the library.
//
// Everything a caller can get wrong (files, shapes, flags, requests) ends in a dualfp::Error
// thrown at an API edge. Its message names the file, tensor or field concerned and what was
// expected there, in one line, so that an application can print it unchanged.

#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

namespace dualfp {

enum class ErrorCode {
  kInvalidArgument,    // a caller's value is out of range or of the wrong shape
  kNotFound,           // a file, tensor or name does not exist
  kInvalidFile,        // a file's content breaks its format
  kUnsupported,        // valid, but not something this build or device can do
  kResourceExhausted,  // memory, disk or a bounded queue is full
  kCancelled,          // the caller asked to stop
  kIo,                 // the operating system refused a read or write
  kInternal,           // a broken invariant: a bug in dualfp
};

// "invalid_argument", "not_found", ...: stable, for logs and for the C ABI.
std::string_view ErrorCodeName(ErrorCode code);

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, const std::string& message) : std::runtime_error(message), code_(code) {}

  ErrorCode code() const { return code_; }

 private:
  ErrorCode code_;
};

}  // namespace dualfp
