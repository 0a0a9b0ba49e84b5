// An answer that is an error, in the form of OpenAI's API:
//   {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}

#pragma once

#include <stdexcept>
#include <string>
#include <string_view>

#include "dualfp/base/error.h"

namespace dualfp {

class ApiError : public std::runtime_error {
 public:
  // `param`: the field of the request that is wrong; `code`: a word for programs. Empty: null.
  ApiError(int status, const std::string& message, std::string_view param = "",
           std::string_view code = "")
      : std::runtime_error(message), status_(status), param_(param), code_(code) {}

  int status() const { return status_; }
  const std::string& param() const { return param_; }
  const std::string& code() const { return code_; }

  // By status: "invalid_request_error", "authentication_error", "rate_limit_error" or
  // "server_error".
  std::string_view type() const;

  std::string ToJson() const;

 private:
  int status_;
  std::string param_;
  std::string code_;
};

// What a caller is told when a request ends in `error`: 400 for their mistakes, 429 for a full
// queue, 503 for a server that shuts down, 500 for ours.
ApiError ToApiError(const Error& error);

}  // namespace dualfp
