#include <immintrin.h>

#include "dualfp/kernels/cpu/nest12_inner.h"

namespace dualfp::cpu {
namespace {

#define DUALFP_NEST_INLINE [[gnu::always_inline]] inline

DUALFP_NEST_INLINE __m512i Magnitude(__m512i bf16) {
  return _mm512_and_si512(bf16, _mm512_set1_epi16(0x7fff));
}

// Nested12Bias() of each word's column.
DUALFP_NEST_INLINE __m512i Bias() { return _mm512_set1_epi32(7 << 16 | 8); }

uint16_t Largest(const uint16_t* bf16, int64_t size) {
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < size; i += 32) {
    largest = _mm512_max_epu16(largest, Magnitude(_mm512_loadu_si512(bf16 + i)));
  }
  const __m512i high = _mm512_srli_epi32(largest, 16);
  const __m512i low = _mm512_and_si512(largest, _mm512_set1_epi32(0xffff));
  return static_cast<uint16_t>(_mm512_reduce_max_epu32(_mm512_max_epu32(low, high)));
}

int64_t Split(const uint16_t* bf16, int64_t size, int shift, uint8_t* upper, uint8_t* nibbles) {
  const __m512i special = _mm512_set1_epi16(static_cast<int16_t>(Nest12LargestSpecial(shift)));
  const __m512i move = _mm512_add_epi16(
      _mm512_set1_epi16(static_cast<int16_t>(128 * shift - static_cast<int>(kNested12BaseBits))),
      Bias());
  for (int64_t i = 0; i < size; i += kNest12Group) {
    const __m512i w = _mm512_loadu_si512(bf16 + i);
    const __m512i magnitude = Magnitude(w);
    const __mmask32 zero = _mm512_testn_epi16_mask(magnitude, magnitude);
    const __mmask32 ordinary = _mm512_cmpgt_epu16_mask(magnitude, special);
    if ((zero | ordinary) != 0xffffffff) [[unlikely]] {
      return i;
    }
    const __m512i moved = _mm512_mask_add_epi16(Bias(), ordinary, magnitude, move);
    // moved >> 4 | (w >> 8 & 0x80)
    const __m512i bytes = _mm512_ternarylogic_epi32(
        _mm512_srli_epi16(moved, 4), _mm512_srli_epi16(w, 8), _mm512_set1_epi16(0x80), 0xf8);
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(upper + i), _mm512_cvtepi16_epi8(bytes));
    const __m512i nibble = _mm512_and_si512(moved, _mm512_set1_epi16(15));
    const __m512i pairs = _mm512_or_si512(nibble, _mm512_srli_epi32(nibble, 12));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(nibbles + i / 2), _mm512_cvtepi32_epi8(pairs));
  }
  return size;
}

// C of 32 weights; beyond 0x7fff where it would be negative.
DUALFP_NEST_INLINE __m512i Codes(__m512i upper, const uint8_t* nibbles) {
  const __m512i bytes =
      _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(nibbles)));
  // Low nibbles to even words, high ones to odd words.
  const __m512i nibble = _mm512_and_si512(_mm512_or_si512(bytes, _mm512_slli_epi32(bytes, 12)),
                                          _mm512_set1_epi32(0x000f000f));
  const __m512i high = _mm512_slli_epi16(_mm512_and_si512(upper, _mm512_set1_epi16(0x7f)), 4);
  return _mm512_sub_epi16(_mm512_or_si512(high, nibble), Bias());
}

DUALFP_NEST_INLINE __m512i LoadBytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

int64_t Merge(const uint8_t* upper, const uint8_t* nibbles, int64_t size, int shift,
              uint16_t* bf16) {
  // The patterns up to this one come from C below 128 or are subnormal.
  const __m512i special = _mm512_set1_epi16(static_cast<int16_t>(Nest12LargestSpecial(shift)));
  const __m512i move =
      _mm512_set1_epi16(static_cast<int16_t>(static_cast<int>(kNested12BaseBits) - 128 * shift));
  for (int64_t i = 0; i < size; i += kNest12Group) {
    const __m512i u = LoadBytes(upper + i);
    const __m512i code = Codes(u, nibbles + i / 2);
    const __m512i magnitude = _mm512_add_epi16(code, move);
    const __mmask32 zero = _mm512_testn_epi16_mask(code, code);
    const __mmask32 ordinary = _mm512_cmpgt_epi16_mask(magnitude, special);
    if ((zero | ordinary) != 0xffffffff) [[unlikely]] {
      return i;
    }
    // The sign of u << 8, the rest of the magnitude, or 0.
    _mm512_storeu_si512(
        bf16 + i, _mm512_ternarylogic_epi32(_mm512_set1_epi16(static_cast<int16_t>(0x8000)),
                                            _mm512_slli_epi16(u, 8),
                                            _mm512_maskz_mov_epi16(ordinary, magnitude), 0xca));
  }
  return size;
}

int64_t CountValid(const uint8_t* upper, const uint8_t* nibbles, int64_t size) {
  for (int64_t i = 0; i < size; i += kNest12Group) {
    const __m512i code = Codes(LoadBytes(upper + i), nibbles + i / 2);
    if (_mm512_cmpgt_epu16_mask(code, _mm512_set1_epi16(kNested12MaxCode)) != 0) {
      return i;
    }
  }
  return size;
}

}  // namespace

const Nest12Inner kAvx512Nest12Inner = {Largest, Split, Merge, CountValid};

}  // namespace dualfp::cpu
