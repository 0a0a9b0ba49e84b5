#include "dualfp/base/watchdog.h"

#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <thread>

namespace dualfp {
namespace {

using std::chrono::milliseconds;

TEST(WatchdogDeathTest, WhatTakesTooLongEndsTheProcessAndIsNamed) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_EXIT(
      {
        Watchdog dog(milliseconds(40));
        const Watchdog::Watch slow(dog, [] { std::fputs("HUNG: slow\n", stderr); });
        {
          const Watchdog::Watch over(dog, [] { std::fputs("HUNG: over\n", stderr); });
        }
        std::this_thread::sleep_for(std::chrono::seconds(30));
      },
      ::testing::ExitedWithCode(1), "^HUNG: slow\n$");
}

TEST(Watchdog, WhatEndsInTimeIsLeftAlone) {
  Watchdog dog(std::chrono::minutes(10));
  bool expired = false;
  for (int i = 0; i < 100; ++i) {
    const Watchdog::Watch watch(dog, [&] { expired = true; });
  }
  EXPECT_FALSE(expired);
}

}  // namespace
}  // namespace dualfp
