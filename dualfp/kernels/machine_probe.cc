#include "dualfp/kernels/machine_probe.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <numeric>

#include "dualfp/base/cpu_features.h"
#include "dualfp/kernels/cpu/probe_inner.h"

namespace dualfp {
namespace {

constexpr int64_t kReadStep = 256;
constexpr int64_t kRounds = 300000;  // about a millisecond

// What any compiler makes of plain C++.
uint64_t ReadPlain(const void* data, size_t size) {
  const char* p = static_cast<const char*>(data);
  uint64_t seen[4] = {};
  for (size_t i = 0; i < size; i += sizeof(seen)) {
    uint64_t words[4];
    std::memcpy(words, p + i, sizeof(words));
    for (int part = 0; part < 4; ++part) {
      seen[part] |= words[part];
    }
  }
  return seen[0] | seen[1] | seen[2] | seen[3];
}

float MultiplyAddPlain(int64_t rounds) {
  float acc[16];
  std::fill(std::begin(acc), std::end(acc), 1.0f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (float& a : acc) {
      a = a * 0.5f + 0.5f;
    }
  }
  return std::accumulate(std::begin(acc), std::end(acc), 0.0f);
}

cpu::ProbeInner SelectInner() {
#if defined(__x86_64__)
  const CpuIsa isa = DetectCpuIsa();
  if (isa >= CpuIsa::kAvx512) {
    return cpu::kAvx512ProbeInner;
  }
  if (isa >= CpuIsa::kAvx2) {
    return cpu::kAvx2ProbeInner;
  }
#endif
  return {ReadPlain, MultiplyAddPlain, 2 * 16};
}

// Where results go, so that no compiler drops the work.
std::atomic<uint64_t> sink;

}  // namespace

int64_t ProbeRead(ThreadPool& threads, const void* data, int64_t size) {
  const cpu::ProbeInner inner = SelectInner();
  const int64_t part = size / threads.num_threads() / kReadStep * kReadStep;
  threads.RunOnAll([&](int thread) {
    sink.fetch_or(inner.read(static_cast<const char*>(data) + thread * part, part));
  });
  return part * threads.num_threads();
}

int64_t ProbeMultiplyAdd(ThreadPool& threads) {
  const cpu::ProbeInner inner = SelectInner();
  threads.RunOnAll([&](int) { sink.fetch_or(static_cast<uint64_t>(inner.multiply_add(kRounds))); });
  return inner.operations_per_round * kRounds * threads.num_threads();
}

}  // namespace dualfp
