#include <immintrin.h>

#include "dualfp/kernels/cpu/probe_inner.h"

namespace dualfp::cpu {
namespace {

// Enough independent chains to hide the latency of a multiply-add.
constexpr int kChains = 12;

uint64_t Read(const void* data, size_t size) {
  const char* p = static_cast<const char*>(data);
  __m512i seen[4] = {};
  for (size_t i = 0; i < size; i += 256) {
#pragma GCC unroll 4
    for (int line = 0; line < 4; ++line) {
      seen[line] = _mm512_or_si512(seen[line], _mm512_loadu_si512(p + i + 64 * line));
    }
  }
  return static_cast<uint64_t>(_mm512_reduce_or_epi64(
      _mm512_or_si512(_mm512_or_si512(seen[0], seen[1]), _mm512_or_si512(seen[2], seen[3]))));
}

float MultiplyAdd(int64_t rounds) {
  __m512 acc[kChains];
  for (auto& a : acc) {
    a = _mm512_set1_ps(1.0f);
  }
  // Converges to 1, so that no value ever becomes special.
  const __m512 half = _mm512_set1_ps(0.5f);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      acc[i] = _mm512_fmadd_ps(acc[i], half, half);
    }
  }
  __m512 sum = acc[0];
  for (int i = 1; i < kChains; ++i) {
    sum = _mm512_add_ps(sum, acc[i]);
  }
  return _mm512_reduce_add_ps(sum);
}

}  // namespace

const ProbeInner kAvx512ProbeInner = {Read, MultiplyAdd, 2 * 16 * kChains};

}  // namespace dualfp::cpu
