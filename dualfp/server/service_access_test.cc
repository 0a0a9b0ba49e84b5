// What a service without a model answers: keys, and what needs none.

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dualfp/base/error.h"
#include "dualfp/server/service.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

TEST(Service, ApiKey) {
  ServerConfig config;
  config.api_keys = {"secret", "other"};
  Service service(config, [] {});
  const auto status = [&](const std::string& path, const std::string& authorization) {
    HttpRequest request;
    request.method = "GET";
    request.path = path;
    request.authorization = authorization;
    return std::get<HttpResponse>(service.Prepare(request)).status;
  };
  for (const std::string wrong : {"", "Bearer", "Bearer ", "Bearer secre", "Bearer secrets",
                                  "Bearer secretsecret", "Basic secret", "secret"}) {
    EXPECT_EQ(status("/v1/models", wrong), 401) << wrong;
    EXPECT_EQ(status("/nowhere", wrong), 401) << wrong;
    EXPECT_EQ(status("/version", wrong), 200) << wrong;
  }
  EXPECT_EQ(status("/v1/models", "Bearer secret"), 503) << "no model yet";
  EXPECT_EQ(status("/nowhere", "Bearer other"), 404);
}

TEST(Service, SettingThePrecisionNeedsTheAdminKey) {
  const auto status = [](const ServerConfig& config, const std::string& method,
                         const std::string& authorization) {
    Service service(config, [] {});
    HttpRequest request;
    request.method = method;
    request.path = "/v1/precision";
    request.content_type = "application/json";
    request.authorization = authorization;
    return std::get<HttpResponse>(service.Prepare(request)).status;
  };
  constexpr int kAllowed = 503;  // there is no model yet
  ServerConfig config;
  EXPECT_EQ(status(config, "PUT", ""), kAllowed);
  config.host = "0.0.0.0";
  EXPECT_EQ(status(config, "PUT", ""), 403);
  EXPECT_EQ(status(config, "GET", ""), kAllowed);
  config.admin_keys = {"root"};
  EXPECT_EQ(status(config, "PUT", ""), 401);
  EXPECT_EQ(status(config, "PUT", "Bearer root"), kAllowed);
  config.api_keys = {"user"};
  EXPECT_EQ(status(config, "PUT", "Bearer user"), 401);
  EXPECT_EQ(status(config, "GET", "Bearer user"), kAllowed);
  EXPECT_EQ(status(config, "GET", "Bearer root"), kAllowed);
  EXPECT_EQ(status(config, "GET", ""), 401);
}

TEST(Service, MetricsPrefix) {
  ServerConfig config;
  config.metrics_prefix = "vllm";
  Service service(config, [] {});
  HttpRequest request;
  request.method = "GET";
  request.path = "/metrics";
  const std::string text = std::get<HttpResponse>(service.Prepare(request)).body;
  EXPECT_THAT(text, HasSubstr("# TYPE vllm:http_connections gauge\n"));
  EXPECT_THAT(text, ::testing::Not(HasSubstr("dualfp:")));
  for (const char* wrong : {"", "1a", "a b", "a:b", "a\n"}) {
    config.metrics_prefix = wrong;
    EXPECT_THROW(Service(config, [] {}), Error) << wrong;
  }
}

TEST(Service, WhileLoading) {
  Service service({}, [] {});
  HttpRequest request;
  request.method = "GET";
  request.path = "/health";
  EXPECT_EQ(std::get<HttpResponse>(service.Prepare(request)).status, 503);
  request.path = "/metrics";
  EXPECT_EQ(std::get<HttpResponse>(service.Prepare(request)).status, 200);
  request.path = "/v1/models";
  EXPECT_EQ(std::get<HttpResponse>(service.Prepare(request)).status, 503);
}

}  // namespace
}  // namespace dualfp
