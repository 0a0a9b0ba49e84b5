#include "dualfp/kernels/reference/probe.h"

#include <algorithm>
#include <cstring>
#include <iterator>
#include <numeric>

namespace dualfp::reference {
namespace {

uint64_t Read(const void* data, size_t size) {
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

float MultiplyAdd(int64_t rounds) {
  float acc[16];
  std::fill(std::begin(acc), std::end(acc), 1.0f);
  for (int64_t round = 0; round < rounds; ++round) {
    for (float& a : acc) {
      a = a * 0.5f + 0.5f;
    }
  }
  return std::accumulate(std::begin(acc), std::end(acc), 0.0f);
}

}  // namespace

const cpu::ProbeInner kProbeInner = {Read, MultiplyAdd, 2 * 16};

}  // namespace dualfp::reference
