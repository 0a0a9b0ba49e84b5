#include <immintrin.h>

#include "dualfp/kernels/cpu/rows_simd.h"

namespace dualfp::cpu {
namespace {

#define DUALFP_ROW_INLINE [[gnu::always_inline]] static inline

struct Simd512 {
  using Vector = __m512;
  using Floats = F32x16;
  static constexpr int kLanes = 16;

  DUALFP_ROW_INLINE Vector Broadcast(float x) { return _mm512_set1_ps(x); }
  DUALFP_ROW_INLINE Vector Add(Vector a, Vector b) { return _mm512_add_ps(a, b); }
  DUALFP_ROW_INLINE Vector Mul(Vector a, Vector b) { return _mm512_mul_ps(a, b); }
  DUALFP_ROW_INLINE Vector Div(Vector a, Vector b) { return _mm512_div_ps(a, b); }
  DUALFP_ROW_INLINE Vector LoadF32(const void* p) { return _mm512_loadu_ps(p); }
  DUALFP_ROW_INLINE Vector LoadF16(const void* p) {
    return _mm512_cvtph_ps(_mm256_loadu_si256(static_cast<const __m256i*>(p)));
  }
  DUALFP_ROW_INLINE Vector LoadBf16(const void* p) {
    const __m256i bits = _mm256_loadu_si256(static_cast<const __m256i*>(p));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
  }
  DUALFP_ROW_INLINE void StoreF32(void* p, Vector v) { _mm512_storeu_ps(p, v); }
  DUALFP_ROW_INLINE void StoreF16(void* p, Vector v) {
    _mm256_storeu_si256(static_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  DUALFP_ROW_INLINE void StoreBf16(void* p, Vector v) {
    const __m512i bits = _mm512_castps_si512(v);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    const __m512i rounded =
        _mm512_add_epi32(bits, _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff)));
    // Rounding could carry a NaN into infinity or zero.
    const __mmask16 nan = _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q);
    const __m512i result =
        _mm512_mask_mov_epi32(rounded, nan, _mm512_or_si512(bits, _mm512_set1_epi32(0x7fc00000)));
    _mm256_storeu_si256(static_cast<__m256i*>(p),
                        _mm512_cvtepi32_epi16(_mm512_srli_epi32(result, 16)));
  }

  DUALFP_ROW_INLINE Vector MaxMagnitude(Vector acc, Vector v) {
    return _mm512_max_ps(_mm512_abs_ps(v), acc);  // the second operand where the first is NaN
  }

  // Adding 2^(e + 20) to a magnitude in [2^e, 2^(e+1)) rounds it to 3 mantissa bits; below 2^-6,
  // where E4M3 is subnormal, its spacing stays that of e = -6.
  DUALFP_ROW_INLINE Vector RoundToE4m3(Vector v) {
    const Vector largest = _mm512_set1_ps(448.0f);
    const Vector magnitude = _mm512_min_ps(largest, _mm512_abs_ps(v));  // NaN stays
    const __m512i bits =
        _mm512_min_epu32(_mm512_castps_si512(magnitude), _mm512_castps_si512(largest));
    const __m512i exponent = _mm512_max_epu32(_mm512_and_si512(bits, _mm512_set1_epi32(0x7f800000)),
                                              _mm512_set1_epi32((127 - 6) << 23));
    const Vector shifter =
        _mm512_castsi512_ps(_mm512_add_epi32(exponent, _mm512_set1_epi32(20 << 23)));
    const Vector rounded = _mm512_sub_ps(_mm512_add_ps(magnitude, shifter), shifter);
    return _mm512_or_ps(rounded, _mm512_and_ps(v, _mm512_set1_ps(-0.0f)));
  }
  // An E4M3 value / 256 in FP16 has the code's bits, seven places up, and the sign eight.
  DUALFP_ROW_INLINE void StoreE4m3(uint8_t* p, Vector v) {
    const __m256i half = _mm512_cvtps_ph(_mm512_mul_ps(v, _mm512_set1_ps(1.0f / 256)),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m512i words = _mm512_cvtepu16_epi32(half);
    const __m512i magnitude =
        _mm512_and_si512(_mm512_srli_epi32(words, 7), _mm512_set1_epi32(0x7f));
    const __m512i sign = _mm512_and_si512(_mm512_srli_epi32(words, 8), _mm512_set1_epi32(0x80));
    __m512i code = _mm512_or_si512(magnitude, sign);
    code = _mm512_mask_or_epi32(code, _mm512_cmp_ps_mask(v, v, _CMP_UNORD_Q), code,
                                _mm512_set1_epi32(0x7f));
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p), _mm512_cvtepi32_epi8(code));
  }

  DUALFP_ROW_INLINE void Deinterleave(Vector a, Vector b, Vector& even, Vector& odd) {
    const __m512i evens =
        _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
    even = _mm512_permutex2var_ps(a, evens, b);
    odd = _mm512_permutex2var_ps(a, _mm512_or_si512(evens, _mm512_set1_epi32(1)), b);
  }
};

}  // namespace

const RowInner kAvx512RowInner = MakeRowInner<Simd512>();

}  // namespace dualfp::cpu
