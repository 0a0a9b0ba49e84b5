#include "dualfp/kernels/machine_probe.h"

#include <atomic>
#include <cstdint>

#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/cpu/probe_inner.h"

namespace dualfp {
namespace {

constexpr int64_t kReadStep = 256;
constexpr int64_t kRounds = 300000;  // about a millisecond

// Where results go, so that no compiler drops the work.
std::atomic<uint64_t> sink;

}  // namespace

int64_t ProbeRead(ThreadPool& threads, const void* data, int64_t size) {
  const cpu::ProbeInner& inner = *BestBackend(DeviceType::kCpu).probe;
  const int64_t part = size / threads.num_threads() / kReadStep * kReadStep;
  threads.RunOnAll([&](int thread) {
    sink.fetch_or(inner.read(static_cast<const char*>(data) + thread * part, part));
  });
  return part * threads.num_threads();
}

int64_t ProbeMultiplyAdd(ThreadPool& threads) {
  const cpu::ProbeInner& inner = *BestBackend(DeviceType::kCpu).probe;
  threads.RunOnAll([&](int) { sink.fetch_or(static_cast<uint64_t>(inner.multiply_add(kRounds))); });
  return inner.operations_per_round * kRounds * threads.num_threads();
}

}  // namespace dualfp
