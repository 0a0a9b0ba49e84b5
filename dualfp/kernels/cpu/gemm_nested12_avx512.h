// Decoding Nested12 weights in 512-bit vectors; Traits of gemm_tile.h. See there for linkage.

#pragma once

#include "dualfp/kernels/cpu/gemm_avx512.h"

namespace dualfp::cpu {
namespace {  // NOLINT(google-build-namespaces): see the comment on linkage

// FP16 bits, 8 C: sign and U7 of the upper byte where they belong, plus 8 (nibble - bias).
struct Nested12Traits512 : FloatTraits512 {
  struct Row {
    const uint8_t* upper;
    const uint8_t* nibbles;
    Row() = default;
    [[gnu::always_inline]] Row(const WeightRows& w, int64_t n)
        : upper(w.values + n * w.row_bytes), nibbles(w.lower + n * ((w.k + 1) / 2)) {}
  };
  struct Packed {
    __m512i words[2];
  };

  DUALFP_GEMM_INLINE __m512i Merge(__m256i upper, __m128i nibbles) {
    const __m512i u = _mm512_slli_epi16(_mm512_cvtepi8_epi16(upper), 7);
    // Low nibbles to even words, high ones to odd words: (n << 3 | n << 15) & mask.
    const __m512i n = _mm512_cvtepu8_epi32(nibbles);
    const __m512i nibble = _mm512_ternarylogic_epi32(
        _mm512_slli_epi32(n, 3), _mm512_slli_epi32(n, 15), _mm512_set1_epi16(0x78), 0xa8);
    // u & mask | nibble. The sign stands in bits 15 and 14; bit 14 must be clear.
    const __m512i words =
        _mm512_ternarylogic_epi32(u, _mm512_set1_epi16(static_cast<int16_t>(0xbf80)), nibble, 0xea);
    return _mm512_sub_epi16(words, _mm512_set1_epi32(56 << 16 | 64));
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    const uint8_t* upper = row.upper + k;
    const auto* nibbles = reinterpret_cast<const __m128i*>(row.nibbles + k / 2);
    return {{Merge(LoadHalf(upper), _mm_loadu_si128(nibbles)),
             Merge(LoadHalf(upper + 32), _mm_loadu_si128(nibbles + 1))}};
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    const __mmask64 mask = FirstLanes(size);
    const __m512i upper = _mm512_maskz_loadu_epi8(mask, row.upper + k);
    const __m256i nibbles = _mm256_maskz_loadu_epi8(
        static_cast<__mmask32>(FirstLanes((size + 1) / 2)), row.nibbles + k / 2);
    return {{_mm512_maskz_mov_epi16(
                 static_cast<__mmask32>(mask),
                 Merge(_mm512_castsi512_si256(upper), _mm256_castsi256_si128(nibbles))),
             _mm512_maskz_mov_epi16(static_cast<__mmask32>(mask >> 32),
                                    Merge(_mm512_extracti64x4_epi64(upper, 1),
                                          _mm256_extracti128_si256(nibbles, 1)))}};
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    const __m512i words = packed.words[v / 2];
    return _mm512_cvtph_ps(v % 2 == 0 ? _mm512_castsi512_si256(words)
                                      : _mm512_extracti64x4_epi64(words, 1));
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    PrefetchLine(row.upper + k);
    PrefetchLine(row.nibbles + k / 2);
  }
};

}  // namespace
}  // namespace dualfp::cpu
