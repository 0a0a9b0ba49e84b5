#include "dualfp/server/request_id.h"

#include <fmt/format.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <random>

namespace dualfp {
namespace {

constexpr size_t kMaxGivenBytes = 128;

}  // namespace

std::string NewRequestId(std::string_view prefix) {
  static const uint64_t process = [] {
    std::random_device device;
    return (uint64_t{device()} << 32) | device();
  }();
  static std::atomic<uint64_t> counter{0};
  return fmt::format("{}{:016x}{:016x}", prefix, process, counter.fetch_add(1));
}

std::string RequestIdOr(std::string_view given) {
  const bool usable =
      !given.empty() && given.size() <= kMaxGivenBytes &&
      std::all_of(given.begin(), given.end(), [](char c) { return c > ' ' && c < 0x7f; });
  return usable ? std::string(given) : NewRequestId();
}

}  // namespace dualfp
