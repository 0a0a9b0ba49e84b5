// Who may ask what: keys, the names this server answers to, and pages of other origins.

#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "dualfp/server/http/http_types.h"
#include "dualfp/server/server_config.h"

namespace dualfp {

class AccessPolicy {
 public:
  // Throws kInvalidArgument for keys that no client can send: empty ones, and those with blanks or
  // control characters. `config` must outlive this.
  explicit AccessPolicy(const ServerConfig* config);

  // An `authorization` header's value (RFC 6750: "Bearer KEY", the scheme in any case).
  bool MayGenerate(std::string_view authorization) const;
  // Whether it may change what others get: by the admin key, which defaults to the API key. Without
  // any key: where only this machine reaches the server.
  bool MayAdminister(std::string_view authorization) const;
  // False: no request may, for want of a key.
  bool HasAdministrator() const;

  // Whether a request is meant for this server by its `host`, and no other site's page has been led
  // here by its DNS. Reads local_address and origin too.
  bool AnswersTo(const HttpRequest& request) const;

  // What tells a browser whether the page that asked may see the answer; nothing for other clients
  // and for origins that are not allowed.
  using Headers = std::vector<std::pair<std::string, std::string>>;
  Headers CorsHeaders(const HttpRequest& request) const;
  // The same for the question that comes before a request ("preflight"), about one of `methods`.
  Headers PreflightHeaders(const HttpRequest& request, std::string_view methods) const;

 private:
  const ServerConfig* config_;
  bool any_host_;
  bool any_origin_;
  bool local_only_;  // reachable from this machine alone
};

}  // namespace dualfp
