#include <immintrin.h>

#include "dualfp/kernels/cpu/nest12_inner.h"

namespace dualfp::cpu {
namespace {

#define DUALFP_NEST_INLINE [[gnu::always_inline]] inline

DUALFP_NEST_INLINE __m256i Magnitude(__m256i bf16) {
  return _mm256_and_si256(bf16, _mm256_set1_epi16(0x7fff));
}

// Nested12Bias() of each word's column.
DUALFP_NEST_INLINE __m256i Bias() { return _mm256_set1_epi32(7 << 16 | 8); }

DUALFP_NEST_INLINE __m256i LoadWords(const uint16_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

uint16_t Largest(const uint16_t* bf16, int64_t size) {
  __m256i largest = _mm256_setzero_si256();
  for (int64_t i = 0; i < size; i += 16) {
    largest = _mm256_max_epu16(largest, Magnitude(LoadWords(bf16 + i)));
  }
  alignas(32) uint16_t lanes[16];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), largest);
  uint16_t most = 0;
  for (const uint16_t lane : lanes) {
    most = lane > most ? lane : most;
  }
  return most;
}

// The lowest bytes of 16 + 16 words or 8 + 8 dwords are packed within 128-bit lanes; the middle
// quarters swap back.
DUALFP_NEST_INLINE __m256i PackWords(__m256i low, __m256i high) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xd8);
}

int64_t Split(const uint16_t* bf16, int64_t size, int shift, uint8_t* upper, uint8_t* nibbles) {
  const __m256i special = _mm256_set1_epi16(static_cast<int16_t>(Nest12LargestSpecial(shift)));
  const __m256i move =
      _mm256_set1_epi16(static_cast<int16_t>(128 * shift - static_cast<int>(kNested12BaseBits)));
  const __m256i zero = _mm256_setzero_si256();
  for (int64_t i = 0; i < size; i += kNest12Group) {
    __m256i bytes[2];
    __m256i pairs[2];
    __m256i known = _mm256_set1_epi16(-1);
#pragma GCC unroll 2
    for (int half = 0; half < 2; ++half) {
      const __m256i w = LoadWords(bf16 + i + 16 * half);
      const __m256i magnitude = Magnitude(w);
      // Signed: magnitudes are below 0x8000, and so is `special`.
      const __m256i ordinary = _mm256_cmpgt_epi16(magnitude, special);
      known =
          _mm256_and_si256(known, _mm256_or_si256(ordinary, _mm256_cmpeq_epi16(magnitude, zero)));
      const __m256i moved =
          _mm256_add_epi16(_mm256_and_si256(_mm256_add_epi16(magnitude, move), ordinary), Bias());
      const __m256i sign = _mm256_and_si256(_mm256_srli_epi16(w, 8), _mm256_set1_epi16(0x80));
      bytes[half] = _mm256_or_si256(_mm256_srli_epi16(moved, 4), sign);
      const __m256i nibble = _mm256_and_si256(moved, _mm256_set1_epi16(15));
      // In each dword the low word; the high one is cleared for packing.
      pairs[half] = _mm256_and_si256(_mm256_or_si256(nibble, _mm256_srli_epi32(nibble, 12)),
                                     _mm256_set1_epi32(0xff));
    }
    if (_mm256_movemask_epi8(known) != -1) [[unlikely]] {
      return i;
    }
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(upper + i), PackWords(bytes[0], bytes[1]));
    const __m256i words = PackWords(pairs[0], pairs[1]);  // 16 words of a byte and a zero
    const __m256i packed = PackWords(words, words);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(nibbles + i / 2), _mm256_castsi256_si128(packed));
  }
  return size;
}

DUALFP_NEST_INLINE __m256i LoadBytes(const uint8_t* p) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// C of 16 weights; negative for bits that no weight has.
DUALFP_NEST_INLINE __m256i Codes(__m256i upper, const uint8_t* nibbles) {
  const __m256i bytes =
      _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(nibbles)));
  // Low nibbles to even words, high ones to odd words.
  const __m256i nibble = _mm256_and_si256(_mm256_or_si256(bytes, _mm256_slli_epi32(bytes, 12)),
                                          _mm256_set1_epi32(0x000f000f));
  const __m256i high = _mm256_slli_epi16(_mm256_and_si256(upper, _mm256_set1_epi16(0x7f)), 4);
  return _mm256_sub_epi16(_mm256_or_si256(high, nibble), Bias());
}

int64_t Merge(const uint8_t* upper, const uint8_t* nibbles, int64_t size, int shift,
              uint16_t* bf16) {
  // The patterns up to this one come from C below 128 or are subnormal.
  const __m256i special = _mm256_set1_epi16(static_cast<int16_t>(Nest12LargestSpecial(shift)));
  const __m256i move =
      _mm256_set1_epi16(static_cast<int16_t>(static_cast<int>(kNested12BaseBits) - 128 * shift));
  const __m256i zero = _mm256_setzero_si256();
  for (int64_t i = 0; i < size; i += 16) {
    const __m256i u = LoadBytes(upper + i);
    const __m256i code = Codes(u, nibbles + i / 2);
    const __m256i magnitude = _mm256_add_epi16(code, move);
    const __m256i ordinary = _mm256_cmpgt_epi16(magnitude, special);
    const __m256i known = _mm256_or_si256(ordinary, _mm256_cmpeq_epi16(code, zero));
    if (_mm256_movemask_epi8(known) != -1) [[unlikely]] {
      return i / kNest12Group * kNest12Group;
    }
    const __m256i sign =
        _mm256_and_si256(_mm256_slli_epi16(u, 8), _mm256_set1_epi16(static_cast<int16_t>(0x8000)));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(bf16 + i),
                        _mm256_or_si256(sign, _mm256_and_si256(magnitude, ordinary)));
  }
  return size;
}

int64_t CountValid(const uint8_t* upper, const uint8_t* nibbles, int64_t size) {
  for (int64_t i = 0; i < size; i += 16) {
    const __m256i code = Codes(LoadBytes(upper + i), nibbles + i / 2);
    const __m256i outside =
        _mm256_or_si256(_mm256_cmpgt_epi16(_mm256_setzero_si256(), code),
                        _mm256_cmpgt_epi16(code, _mm256_set1_epi16(kNested12MaxCode)));
    if (_mm256_movemask_epi8(outside) != 0) {
      return i / kNest12Group * kNest12Group;
    }
  }
  return size;
}

}  // namespace

const Nest12Inner kAvx2Nest12Inner = {Largest, Split, Merge, CountValid};

}  // namespace dualfp::cpu
