#include "dualfp/server/openai/api_error.h"

#include "dualfp/server/openai/json_writer.h"

namespace dualfp {

std::string_view ApiError::type() const {
  if (status_ == 401) {
    return "authentication_error";
  }
  if (status_ == 429) {
    return "rate_limit_error";
  }
  return status_ >= 500 ? "server_error" : "invalid_request_error";
}

std::string ApiError::ToJson() const {
  JsonWriter json;
  json.BeginObject().Key("error").BeginObject();
  json.Key("message").String(what());
  json.Key("type").String(type());
  json.Key("param");
  param_.empty() ? json.Null() : json.String(param_);
  json.Key("code");
  code_.empty() ? json.Null() : json.String(code_);
  json.EndObject().EndObject();
  return json.Take();
}

ApiError ToApiError(const Error& error) {
  switch (error.code()) {
    case ErrorCode::kInvalidArgument:
    case ErrorCode::kInvalidFile:  // what the JSON parser calls a broken text
      return {400, error.what(), "", "invalid_value"};
    case ErrorCode::kUnsupported:
      return {400, error.what(), "", "unsupported_value"};
    case ErrorCode::kNotFound:
      return {404, error.what(), "", "not_found"};
    case ErrorCode::kResourceExhausted:
      return {429, error.what(), "", "rate_limit_exceeded"};
    case ErrorCode::kCancelled:
      return {503, error.what(), "", "shutting_down"};
    case ErrorCode::kIo:
    case ErrorCode::kInternal:
      break;
  }
  return {500, error.what(), "", "internal_error"};
}

}  // namespace dualfp
