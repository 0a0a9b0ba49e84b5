#include "dualfp/base/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <numeric>
#include <stdexcept>
#include <thread>
#include <vector>

namespace dualfp {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, RunsEveryThreadOnce) {
  ThreadPool pool(GetParam());
  EXPECT_EQ(pool.num_threads(), GetParam());
  for (int round = 0; round < 200; ++round) {
    std::vector<std::atomic<int>> calls(pool.num_threads());
    pool.RunOnAll([&](int thread) { calls[thread].fetch_add(1); });
    for (const auto& count : calls) {
      EXPECT_EQ(count.load(), 1);
    }
  }
}

TEST_P(ThreadPoolTest, ParallelForCoversTheRangeOnce) {
  ThreadPool pool(GetParam());
  for (int64_t count : {0, 1, 7, 64, 1001}) {
    for (int64_t grain : {0, 1, 3, 64, 5000}) {
      std::vector<std::atomic<int>> hits(count);
      pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) {
          hits[i].fetch_add(1);
        }
      });
      for (const auto& hit : hits) {
        EXPECT_EQ(hit.load(), 1);
      }
    }
  }
}

TEST_P(ThreadPoolTest, RethrowsAndStaysUsable) {
  ThreadPool pool(GetParam());
  EXPECT_THROW(pool.RunOnAll([](int) { throw std::runtime_error("body"); }), std::runtime_error);
  std::atomic<int> calls{0};
  pool.RunOnAll([&](int) { calls.fetch_add(1); });
  EXPECT_EQ(calls.load(), GetParam());
}

TEST_P(ThreadPoolTest, WakesSleepingWorkers) {
  ThreadPool pool(GetParam());
  for (int round = 0; round < 20; ++round) {
    std::this_thread::sleep_for(std::chrono::milliseconds(1));
    std::atomic<int> calls{0};
    pool.RunOnAll([&](int) { calls.fetch_add(1); });
    EXPECT_EQ(calls.load(), GetParam());
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

}  // namespace
}  // namespace dualfp
