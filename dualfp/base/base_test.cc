#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "dualfp/base/check.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/base/env.h"
#include "dualfp/base/log.h"

namespace dualfp {
namespace {

using ::testing::HasSubstr;

TEST(CheckTest, ThrowsOneErrorWithCodeAndConcatenatedMessage) {
  EXPECT_NO_THROW(Check(true, ErrorCode::kInternal, "unused"));
  try {
    Check(false, ErrorCode::kInvalidFile, "model.safetensors: tensor ", 7, " is short");
    FAIL() << "Check did not throw";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidFile);
    EXPECT_STREQ(error.what(), "model.safetensors: tensor 7 is short");
    EXPECT_EQ(ErrorCodeName(error.code()), "invalid_file");
  }
}

TEST(EnvTest, IntegersAreValidatedAndNamed) {
  setenv("DUALFP_TEST_INT", "12", 1);
  EXPECT_EQ(GetEnvInt("DUALFP_TEST_INT", 1, 100), 12);
  EXPECT_EQ(GetEnvInt("DUALFP_TEST_UNSET", 1, 100), std::nullopt);
  for (const char* bad : {"0", "101", "12x", "-1", "99999999999999999999"}) {
    setenv("DUALFP_TEST_INT", bad, 1);
    try {
      GetEnvInt("DUALFP_TEST_INT", 1, 100);
      FAIL() << bad << " was accepted";
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr("DUALFP_TEST_INT"));
    }
  }
  unsetenv("DUALFP_TEST_INT");
}

TEST(CpuFeaturesTest, EnvironmentLowersTheIsaAndRejectsUnknownNames) {
  const CpuIsa hardware = DetectCpuIsa();
  setenv("DUALFP_CPU", "scalar", 1);
  EXPECT_EQ(DetectCpuIsa(), CpuIsa::kScalar);
  setenv("DUALFP_CPU", "avx512bf16", 1);
  EXPECT_LE(DetectCpuIsa(), hardware);
  setenv("DUALFP_CPU", "avx3", 1);
  EXPECT_THROW(DetectCpuIsa(), Error);
  unsetenv("DUALFP_CPU");
  EXPECT_THAT(CpuDescription(), HasSubstr(std::string(CpuIsaName(hardware))));
}

std::string g_logged;

TEST(LogTest, SinkReceivesLines) {
  SetLogSink([](LogLevel level, std::string_view line) {
    if (level == LogLevel::kWarning) {
      g_logged = line;
    }
  });
  LogInfo("ignored");
  LogWarning("seen");
  SetLogSink(nullptr);
  EXPECT_EQ(g_logged, "seen");
}

}  // namespace
}  // namespace dualfp
