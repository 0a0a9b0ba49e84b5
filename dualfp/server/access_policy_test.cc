#include "dualfp/server/access_policy.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

using ::testing::Contains;
using ::testing::IsEmpty;
using ::testing::Pair;

bool Answers(const ServerConfig& config, std::string host, std::string local_address = "",
             std::string origin = "") {
  HttpRequest request;
  request.host = std::move(host);
  request.local_address = std::move(local_address);
  request.origin = std::move(origin);
  return AccessPolicy(&config).AnswersTo(request);
}

TEST(AccessPolicy, HostsByDefault) {
  ServerConfig config;
  for (const char* host :
       {"localhost", "LOCALHOST:8000", "127.0.0.1:8000", "127.9.9.9", "[::1]:1", "app.localhost"}) {
    EXPECT_TRUE(Answers(config, host, "127.0.0.1")) << host;
    EXPECT_TRUE(Answers(config, host, "127.0.0.1", "http://localhost:3000")) << host;
  }
  // HTTP/1.0 has no Host, and containers know each other by short names; no page does.
  for (const char* host : {"llm:8000", "x", ""}) {
    EXPECT_TRUE(Answers(config, host, "127.0.0.1")) << host;
    EXPECT_FALSE(Answers(config, host, "127.0.0.1", "http://llm:8000")) << host;
  }
  for (const char* host : {"evil.example", "evil.example:8000", "localhost.evil.example",
                           "127.0.0.1.evil.example", "10.0.0.1", "localhost.", "0.0.0.0"}) {
    EXPECT_FALSE(Answers(config, host, "127.0.0.1")) << host;
  }
}

TEST(AccessPolicy, HostsOfWhereItIsBound) {
  ServerConfig config;
  config.host = "10.0.0.5";
  EXPECT_TRUE(Answers(config, "10.0.0.5:80", "10.0.0.5"));
  EXPECT_FALSE(Answers(config, "10.0.0.6", "10.0.0.5"));
  // A port that is forwarded from elsewhere; no DNS leads a page to an address.
  config.host = "0.0.0.0";
  EXPECT_TRUE(Answers(config, "192.168.1.7:8000", "172.17.0.2"));
  EXPECT_FALSE(Answers(config, "evil.example", "172.17.0.2"));
  config.host = "llm.example.org";
  EXPECT_TRUE(Answers(config, "LLM.example.org:8000", "10.0.0.5"));
}

TEST(AccessPolicy, HostsThatAreNamed) {
  ServerConfig config;
  config.allowed_hosts = {"llm.example.org", "*.internal"};
  EXPECT_TRUE(Answers(config, "llm.example.org:443"));
  EXPECT_TRUE(Answers(config, "a.b.INTERNAL"));
  EXPECT_FALSE(Answers(config, "internal"));
  EXPECT_FALSE(Answers(config, "evilinternal"));
  EXPECT_FALSE(Answers(config, "localhost"));
  config.allowed_hosts = {"*"};
  EXPECT_TRUE(Answers(config, "evil.example"));
  config.allowed_hosts.clear();
  config.api_keys = {"k"};
  EXPECT_TRUE(Answers(config, "llm.example.org")) << "a key is enough";
}

TEST(AccessPolicy, BearerAsTheRfcHasIt) {
  ServerConfig config;
  config.api_keys = {"sk-1", "sk-2"};
  const AccessPolicy policy(&config);
  for (const char* good : {"Bearer sk-1", "bearer sk-1", "BEARER sk-2", "Bearer   sk-1"}) {
    EXPECT_TRUE(policy.MayGenerate(good)) << good;
  }
  for (const char* bad : {"", "Bearer", "Bearer ", "Bearersk-1", "Bearer\tsk-1", "Bearer sk-1 ",
                          "Basic sk-1", "Bearer sk-1sk-1", "Bearer sk-", "sk-1"}) {
    EXPECT_FALSE(policy.MayGenerate(bad)) << bad;
  }
}

TEST(AccessPolicy, Administration) {
  ServerConfig config;
  EXPECT_TRUE(AccessPolicy(&config).MayAdminister("")) << "only this machine reaches it";
  config.host = "localhost";
  EXPECT_TRUE(AccessPolicy(&config).MayAdminister(""));
  for (const char* host : {"0.0.0.0", "::", "10.0.0.5", "llm.example.org"}) {
    config.host = host;
    EXPECT_FALSE(AccessPolicy(&config).MayAdminister("")) << host;
    EXPECT_FALSE(AccessPolicy(&config).HasAdministrator());
    EXPECT_TRUE(AccessPolicy(&config).MayGenerate(""));
  }
  config.uds = "/tmp/socket";
  EXPECT_TRUE(AccessPolicy(&config).MayAdminister(""));
  config.api_keys = {"user"};
  EXPECT_TRUE(AccessPolicy(&config).MayAdminister("Bearer user"));
  config.admin_keys = {"root"};
  EXPECT_FALSE(AccessPolicy(&config).MayAdminister("Bearer user"));
  EXPECT_TRUE(AccessPolicy(&config).MayAdminister("Bearer root"));
  EXPECT_TRUE(AccessPolicy(&config).MayGenerate("Bearer root"));
}

TEST(AccessPolicy, KeysThatNoClientCanSend) {
  for (const char* key : {"", "a b", "a\n", "\x7f"}) {
    ServerConfig config;
    config.api_keys = {key};
    EXPECT_THROW(AccessPolicy{&config}, Error) << key;
    config.api_keys.clear();
    config.admin_keys = {key};
    EXPECT_THROW(AccessPolicy{&config}, Error) << key;
  }
}

TEST(AccessPolicy, Origins) {
  HttpRequest request;
  request.origin = "http://localhost:3000";
  request.requested_method = "POST";
  request.requested_headers = "authorization, X-Stainless-Arch";
  ServerConfig config;
  EXPECT_THAT(AccessPolicy(&config).CorsHeaders(request), IsEmpty());
  EXPECT_THAT(AccessPolicy(&config).PreflightHeaders(request, "POST"), IsEmpty());

  config.allowed_origins = {"http://localhost:3000"};
  EXPECT_THAT(AccessPolicy(&config).CorsHeaders(request),
              Contains(Pair("Access-Control-Allow-Origin", "http://localhost:3000")));
  EXPECT_THAT(AccessPolicy(&config).CorsHeaders(request), Contains(Pair("Vary", "Origin")));
  const auto preflight = AccessPolicy(&config).PreflightHeaders(request, "POST");
  EXPECT_THAT(preflight, Contains(Pair("Access-Control-Allow-Methods", "POST")));
  EXPECT_THAT(preflight,
              Contains(Pair("Access-Control-Allow-Headers", "authorization, X-Stainless-Arch")));
  request.requested_headers = "x\r\nSet-Cookie: a";
  EXPECT_THAT(AccessPolicy(&config).PreflightHeaders(request, "POST"),
              Contains(Pair("Access-Control-Allow-Headers", "authorization, content-type")));
  request.origin = "http://localhost:3001";
  EXPECT_THAT(AccessPolicy(&config).CorsHeaders(request), IsEmpty());
  request.origin = "";
  EXPECT_THAT(AccessPolicy(&config).CorsHeaders(request), IsEmpty());

  config.allowed_origins = {"*"};
  request.origin = "null";
  request.requests_private_network = true;
  EXPECT_THAT(AccessPolicy(&config).CorsHeaders(request),
              Contains(Pair("Access-Control-Allow-Origin", "*")));
  EXPECT_THAT(AccessPolicy(&config).PreflightHeaders(request, "POST"),
              Contains(Pair("Access-Control-Allow-Private-Network", "true")));
}

}  // namespace
}  // namespace dualfp
