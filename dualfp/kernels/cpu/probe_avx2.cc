#include <immintrin.h>

#include "dualfp/kernels/cpu/probe_inner.h"

namespace dualfp::cpu {
namespace {

// Enough independent chains to hide the latency of a multiply-add.
constexpr int kChains = 12;

uint64_t Read(const void* data, size_t size) {
  const char* p = static_cast<const char*>(data);
  __m256i seen[8] = {};
  for (size_t i = 0; i < size; i += 256) {
#pragma GCC unroll 8
    for (int part = 0; part < 8; ++part) {
      const auto* q = reinterpret_cast<const __m256i*>(p + i + 32 * part);
      seen[part] = _mm256_or_si256(seen[part], _mm256_loadu_si256(q));
    }
  }
  for (int part = 1; part < 8; ++part) {
    seen[0] = _mm256_or_si256(seen[0], seen[part]);
  }
  return static_cast<uint64_t>(_mm256_extract_epi64(seen[0], 0) | _mm256_extract_epi64(seen[0], 1) |
                               _mm256_extract_epi64(seen[0], 2) | _mm256_extract_epi64(seen[0], 3));
}

float MultiplyAdd(int64_t rounds) {
  __m256 acc[kChains];
  for (auto& a : acc) {
    a = _mm256_set1_ps(1.0f);
  }
  // Converges to 1, so that no value ever becomes special.
  const __m256 half = _mm256_set1_ps(0.5f);
  for (int64_t round = 0; round < rounds; ++round) {
#pragma GCC unroll 16
    for (int i = 0; i < kChains; ++i) {
      acc[i] = _mm256_fmadd_ps(acc[i], half, half);
    }
  }
  __m256 sum = acc[0];
  for (int i = 1; i < kChains; ++i) {
    sum = _mm256_add_ps(sum, acc[i]);
  }
  return _mm256_cvtss_f32(_mm256_hadd_ps(sum, sum));
}

}  // namespace

const ProbeInner kAvx2ProbeInner = {Read, MultiplyAdd, 2 * 8 * kChains};

}  // namespace dualfp::cpu
