#include <immintrin.h>

#include "dualfp/kernels/cpu/rows_simd.h"

namespace dualfp::cpu {
namespace {

#define DUALFP_ROW_INLINE [[gnu::always_inline]] static inline

struct Simd256 {
  using Vector = __m256;
  using Floats = F32x8;
  static constexpr int kLanes = 8;

  DUALFP_ROW_INLINE Vector Broadcast(float x) { return _mm256_set1_ps(x); }
  DUALFP_ROW_INLINE Vector Add(Vector a, Vector b) { return _mm256_add_ps(a, b); }
  DUALFP_ROW_INLINE Vector Mul(Vector a, Vector b) { return _mm256_mul_ps(a, b); }
  DUALFP_ROW_INLINE Vector Div(Vector a, Vector b) { return _mm256_div_ps(a, b); }
  DUALFP_ROW_INLINE Vector Abs(Vector v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
  DUALFP_ROW_INLINE Vector LoadF32(const void* p) {
    return _mm256_loadu_ps(static_cast<const float*>(p));
  }
  DUALFP_ROW_INLINE Vector LoadF16(const void* p) {
    return _mm256_cvtph_ps(_mm_loadu_si128(static_cast<const __m128i*>(p)));
  }
  DUALFP_ROW_INLINE Vector LoadBf16(const void* p) {
    const __m128i bits = _mm_loadu_si128(static_cast<const __m128i*>(p));
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16));
  }
  DUALFP_ROW_INLINE void StoreF32(void* p, Vector v) {
    _mm256_storeu_ps(static_cast<float*>(p), v);
  }
  DUALFP_ROW_INLINE void StoreF16(void* p, Vector v) {
    _mm_storeu_si128(static_cast<__m128i*>(p),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }
  // The low words of 8 integers below 2^16.
  DUALFP_ROW_INLINE __m128i PackWords(__m256i v) {
    return _mm_packus_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  }
  DUALFP_ROW_INLINE void StoreBf16(void* p, Vector v) {
    const __m256i bits = _mm256_castps_si256(v);
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
    const __m256i rounded =
        _mm256_add_epi32(bits, _mm256_add_epi32(odd, _mm256_set1_epi32(0x7fff)));
    // Rounding could carry a NaN into infinity or zero.
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x7fc00000));
    const __m256i result = _mm256_blendv_epi8(rounded, quiet, nan);
    _mm_storeu_si128(static_cast<__m128i*>(p), PackWords(_mm256_srli_epi32(result, 16)));
  }

  DUALFP_ROW_INLINE Vector MaxMagnitude(Vector acc, Vector v) {
    return _mm256_max_ps(Abs(v), acc);  // the second operand where the first is NaN
  }

  // Adding 2^(e + 20) to a magnitude in [2^e, 2^(e+1)) rounds it to 3 mantissa bits; below 2^-6,
  // where E4M3 is subnormal, its spacing stays that of e = -6.
  DUALFP_ROW_INLINE Vector RoundToE4m3(Vector v) {
    const Vector largest = _mm256_set1_ps(448.0f);
    const Vector magnitude = _mm256_min_ps(largest, Abs(v));  // NaN stays
    const __m256i bits =
        _mm256_min_epu32(_mm256_castps_si256(magnitude), _mm256_castps_si256(largest));
    const __m256i exponent = _mm256_max_epu32(_mm256_and_si256(bits, _mm256_set1_epi32(0x7f800000)),
                                              _mm256_set1_epi32((127 - 6) << 23));
    const Vector shifter =
        _mm256_castsi256_ps(_mm256_add_epi32(exponent, _mm256_set1_epi32(20 << 23)));
    const Vector rounded = _mm256_sub_ps(_mm256_add_ps(magnitude, shifter), shifter);
    return _mm256_or_ps(rounded, _mm256_and_ps(v, _mm256_set1_ps(-0.0f)));
  }
  // An E4M3 value / 256 in FP16 has the code's bits, seven places up, and the sign eight.
  DUALFP_ROW_INLINE void StoreE4m3(uint8_t* p, Vector v) {
    const __m128i half = _mm256_cvtps_ph(_mm256_mul_ps(v, _mm256_set1_ps(1.0f / 256)),
                                         _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    const __m128i magnitude = _mm_and_si128(_mm_srli_epi16(half, 7), _mm_set1_epi16(0x7f));
    const __m128i sign = _mm_and_si128(_mm_srli_epi16(half, 8), _mm_set1_epi16(0x80));
    const __m256i nan = _mm256_castps_si256(_mm256_cmp_ps(v, v, _CMP_UNORD_Q));
    const __m128i nan_code =
        _mm_and_si128(PackWords(_mm256_srli_epi32(nan, 16)), _mm_set1_epi16(0x7f));
    const __m128i code = _mm_or_si128(_mm_or_si128(magnitude, sign), nan_code);
    _mm_storel_epi64(reinterpret_cast<__m128i*>(p), _mm_packus_epi16(code, code));
  }

  DUALFP_ROW_INLINE void Deinterleave(Vector a, Vector b, Vector& even, Vector& odd) {
    // Within 128-bit lanes, then the middle quarters swap.
    const auto in_order = [](__m256 v) {
      return _mm256_castpd_ps(_mm256_permute4x64_pd(_mm256_castps_pd(v), 0xd8));
    };
    even = in_order(_mm256_shuffle_ps(a, b, 0x88));
    odd = in_order(_mm256_shuffle_ps(a, b, 0xdd));
  }
};

}  // namespace

const RowInner kAvx2RowInner = MakeRowInner<Simd256>();

}  // namespace dualfp::cpu
