#include "dualfp/server/access_policy.h"

#include <algorithm>
#include <boost/asio/ip/address.hpp>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

using boost::asio::ip::address;
using boost::asio::ip::make_address;

char Lower(char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c + ('a' - 'A')) : c; }

bool EqualsIgnoringCase(std::string_view a, std::string_view b) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(),
                    [](char x, char y) { return Lower(x) == Lower(y); });
}

bool EndsWithIgnoringCase(std::string_view text, std::string_view end) {
  return text.size() >= end.size() &&
         EqualsIgnoringCase(text.substr(text.size() - end.size()), end);
}

// Takes the same time wherever the two differ.
bool SameKey(std::string_view given, std::string_view key) {
  unsigned char difference = given.size() == key.size() ? 0 : 1;
  for (size_t i = 0; i < key.size(); ++i) {
    difference |=
        static_cast<unsigned char>(key[i] ^ (given.empty() ? 0 : given[i % given.size()]));
  }
  return difference == 0;
}

bool IsAmong(std::string_view authorization, const std::vector<std::string>& keys) {
  constexpr std::string_view kScheme = "bearer ";
  if (!EqualsIgnoringCase(authorization.substr(0, kScheme.size()), kScheme)) {
    return false;
  }
  authorization.remove_prefix(kScheme.size());
  authorization.remove_prefix(std::min(authorization.find_first_not_of(' '), authorization.size()));
  bool found = false;
  for (const std::string& key : keys) {
    found |= SameKey(authorization, key);
  }
  return found;
}

void CheckKeys(const std::vector<std::string>& keys, std::string_view flag) {
  for (const std::string& key : keys) {
    Check(!key.empty(), ErrorCode::kInvalidArgument, flag,
          ": the key is empty, which would leave the server open; is a variable unset?");
    const bool sendable = std::all_of(key.begin(), key.end(), [](char c) {
      return static_cast<unsigned char>(c) > ' ' && c != 0x7f;
    });
    Check(sendable, ErrorCode::kInvalidArgument, flag,
          ": a key must not have blanks or control characters, which no header carries");
  }
}

// "name", "name:port", "1.2.3.4:port", "[::1]:port", without the port and brackets.
std::string_view NameOf(std::string_view host) {
  if (host.starts_with('[')) {
    host.remove_prefix(1);
    return host.substr(0, host.find(']'));
  }
  return host.substr(0, host.find(':'));
}

bool IsAddress(std::string_view name, address* parsed) {
  boost::system::error_code error;
  *parsed = make_address(std::string(name), error);
  return !error;
}

bool Contains(const std::vector<std::string>& list, std::string_view value) {
  return std::find(list.begin(), list.end(), value) != list.end();
}

// "*.example.org" stands for every name below example.org.
bool MatchesHost(std::string_view pattern, std::string_view name) {
  return pattern.starts_with("*.") ? EndsWithIgnoringCase(name, pattern.substr(1))
                                   : EqualsIgnoringCase(pattern, name);
}

// Field names, separated by commas: what may be repeated in an answer.
bool IsFieldList(std::string_view text) {
  return !text.empty() && text.size() <= 1024 && std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_, ").find(c) != std::string_view::npos;
  });
}

bool IsLocalOnly(const ServerConfig& config) {
  address bound;
  return !config.uds.empty() || EqualsIgnoringCase(config.host, "localhost") ||
         (IsAddress(config.host, &bound) && bound.is_loopback());
}

}  // namespace

AccessPolicy::AccessPolicy(const ServerConfig* config)
    : config_(config),
      any_host_(config->allowed_hosts.empty() ? !config->api_keys.empty() || !config->uds.empty()
                                              : Contains(config->allowed_hosts, "*")),
      any_origin_(Contains(config->allowed_origins, "*")),
      local_only_(IsLocalOnly(*config)) {
  CheckKeys(config->api_keys, "--api-key");
  CheckKeys(config->admin_keys, "--admin-key");
}

bool AccessPolicy::MayGenerate(std::string_view authorization) const {
  return config_->api_keys.empty() || IsAmong(authorization, config_->api_keys) ||
         IsAmong(authorization, config_->admin_keys);
}

bool AccessPolicy::HasAdministrator() const {
  return !config_->admin_keys.empty() || !config_->api_keys.empty() || local_only_;
}

bool AccessPolicy::MayAdminister(std::string_view authorization) const {
  if (!config_->admin_keys.empty()) {
    return IsAmong(authorization, config_->admin_keys);
  }
  return config_->api_keys.empty() ? local_only_ : IsAmong(authorization, config_->api_keys);
}

bool AccessPolicy::AnswersTo(const HttpRequest& request) const {
  if (any_host_) {
    return true;
  }
  const std::string_view name = NameOf(request.host);
  const auto& allowed = config_->allowed_hosts;
  if (!allowed.empty()) {
    return std::any_of(allowed.begin(), allowed.end(), [&](const std::string& pattern) {
      return MatchesHost(NameOf(pattern), name);
    });
  }
  address named;
  if (IsAddress(name, &named)) {
    address bound;
    const bool bound_to_all = IsAddress(config_->host, &bound) && bound.is_unspecified();
    return named.is_loopback() || name == request.local_address || bound_to_all;
  }
  if (EqualsIgnoringCase(name, "localhost") || EndsWithIgnoringCase(name, ".localhost") ||
      EqualsIgnoringCase(name, config_->host)) {
    return true;
  }
  // Programs call each other by names without a dot, which are a network's own. A web page has no
  // business with them.
  return request.origin.empty() && name.find('.') == std::string_view::npos;
}

AccessPolicy::Headers AccessPolicy::CorsHeaders(const HttpRequest& request) const {
  if (request.origin.empty() ||
      !(any_origin_ || Contains(config_->allowed_origins, request.origin))) {
    return {};
  }
  Headers headers = {{"Access-Control-Allow-Origin", any_origin_ ? "*" : request.origin},
                     {"Access-Control-Expose-Headers", "X-Request-Id, Retry-After"}};
  if (!any_origin_) {
    headers.emplace_back("Vary", "Origin");
  }
  return headers;
}

AccessPolicy::Headers AccessPolicy::PreflightHeaders(const HttpRequest& request,
                                                     std::string_view methods) const {
  if (request.requested_method.empty() || CorsHeaders(request).empty()) {
    return {};
  }
  Headers headers = {{"Access-Control-Allow-Methods", std::string(methods)},
                     {"Access-Control-Allow-Headers", IsFieldList(request.requested_headers)
                                                          ? request.requested_headers
                                                          : "authorization, content-type"},
                     {"Access-Control-Max-Age", "600"}};
  if (request.requests_private_network) {
    headers.emplace_back("Access-Control-Allow-Private-Network", "true");
  }
  return headers;
}

}  // namespace dualfp
