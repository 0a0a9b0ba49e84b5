// Vectors of floats, one type per instruction set, so that an op is written once as a template.
//
// Included only by files that are compiled for one instruction set. Everything is force-inlined:
// an out-of-line copy could be shared by the linker with code that runs on lesser machines.

#pragma once

#include <immintrin.h>

#include <cstdint>

#define DUALFP_INLINE [[gnu::always_inline]] inline

namespace dualfp::cpu {

#if defined(__AVX2__) && !defined(__AVX512F__)

struct F32x8 {
  static constexpr int kLanes = 8;
  __m256 v;

  DUALFP_INLINE static F32x8 Zero() { return {_mm256_setzero_ps()}; }
  DUALFP_INLINE static F32x8 Broadcast(float x) { return {_mm256_set1_ps(x)}; }
  DUALFP_INLINE static F32x8 Load(const float* p) { return {_mm256_loadu_ps(p)}; }
  DUALFP_INLINE static F32x8 LoadF16(const uint16_t* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  // E4M3 value / 256: its bits, moved to where FP16 has them.
  DUALFP_INLINE static F32x8 LoadE4m3Over256(const uint8_t* p) {
    const __m128i x = _mm_cvtepu8_epi16(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(p)));
    const __m128i magnitude = _mm_slli_epi16(_mm_and_si128(x, _mm_set1_epi16(0x7f)), 7);
    const __m128i sign = _mm_slli_epi16(_mm_and_si128(x, _mm_set1_epi16(0x80)), 8);
    return {_mm256_cvtph_ps(_mm_or_si128(magnitude, sign))};
  }
  DUALFP_INLINE void Store(float* p) const { _mm256_storeu_ps(p, v); }
  DUALFP_INLINE void StoreF16(uint16_t* p) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(p),
                     _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  // this * b + c
  DUALFP_INLINE F32x8 MulAdd(F32x8 b, F32x8 c) const { return {_mm256_fmadd_ps(v, b.v, c.v)}; }
  // c - this * b
  DUALFP_INLINE F32x8 NegMulAdd(F32x8 b, F32x8 c) const { return {_mm256_fnmadd_ps(v, b.v, c.v)}; }
  // The second operand where either is NaN.
  DUALFP_INLINE static F32x8 Max(F32x8 a, F32x8 b) { return {_mm256_max_ps(a.v, b.v)}; }
  DUALFP_INLINE static F32x8 Min(F32x8 a, F32x8 b) { return {_mm256_min_ps(a.v, b.v)}; }
  DUALFP_INLINE F32x8 Round() const {
    return {_mm256_round_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  // this * 2^n for integral n in [-126, 127] and a result that is a normal number.
  DUALFP_INLINE F32x8 ScaleByPowerOf2(F32x8 n) const {
    const __m256i exponent = _mm256_slli_epi32(_mm256_cvtps_epi32(n.v), 23);
    return {_mm256_castsi256_ps(_mm256_add_epi32(_mm256_castps_si256(v), exponent))};
  }
  // this where x >= limit (or x is NaN), else 0.
  DUALFP_INLINE F32x8 ZeroWhereLess(F32x8 x, F32x8 limit) const {
    return {_mm256_andnot_ps(_mm256_cmp_ps(x.v, limit.v, _CMP_LT_OQ), v)};
  }
  DUALFP_INLINE float Sum() const {
    __m128 half = _mm_add_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_add_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_add_ss(half, _mm_movehdup_ps(half)));
  }
  DUALFP_INLINE float Largest() const {
    __m128 half = _mm_max_ps(_mm256_castps256_ps128(v), _mm256_extractf128_ps(v, 1));
    half = _mm_max_ps(half, _mm_movehl_ps(half, half));
    return _mm_cvtss_f32(_mm_max_ss(half, _mm_movehdup_ps(half)));
  }

  DUALFP_INLINE friend F32x8 operator+(F32x8 a, F32x8 b) { return {_mm256_add_ps(a.v, b.v)}; }
  DUALFP_INLINE friend F32x8 operator-(F32x8 a, F32x8 b) { return {_mm256_sub_ps(a.v, b.v)}; }
  DUALFP_INLINE friend F32x8 operator*(F32x8 a, F32x8 b) { return {_mm256_mul_ps(a.v, b.v)}; }
  DUALFP_INLINE friend F32x8 operator/(F32x8 a, F32x8 b) { return {_mm256_div_ps(a.v, b.v)}; }
};

#endif

#if defined(__AVX512F__)

struct F32x16 {
  static constexpr int kLanes = 16;
  __m512 v;

  DUALFP_INLINE static F32x16 Zero() { return {_mm512_setzero_ps()}; }
  DUALFP_INLINE static F32x16 Broadcast(float x) { return {_mm512_set1_ps(x)}; }
  DUALFP_INLINE static F32x16 Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  DUALFP_INLINE static F32x16 LoadF16(const uint16_t* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  DUALFP_INLINE static F32x16 LoadE4m3Over256(const uint8_t* p) {
    const __m256i x = _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
    const __m256i magnitude = _mm256_slli_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0x7f)), 7);
    const __m256i sign = _mm256_slli_epi16(_mm256_and_si256(x, _mm256_set1_epi16(0x80)), 8);
    return {_mm512_cvtph_ps(_mm256_or_si256(magnitude, sign))};
  }
  DUALFP_INLINE void Store(float* p) const { _mm512_storeu_ps(p, v); }
  DUALFP_INLINE void StoreF16(uint16_t* p) const {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(p),
                        _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
  }

  DUALFP_INLINE F32x16 MulAdd(F32x16 b, F32x16 c) const { return {_mm512_fmadd_ps(v, b.v, c.v)}; }
  DUALFP_INLINE F32x16 NegMulAdd(F32x16 b, F32x16 c) const {
    return {_mm512_fnmadd_ps(v, b.v, c.v)};
  }
  DUALFP_INLINE static F32x16 Max(F32x16 a, F32x16 b) { return {_mm512_max_ps(a.v, b.v)}; }
  DUALFP_INLINE static F32x16 Min(F32x16 a, F32x16 b) { return {_mm512_min_ps(a.v, b.v)}; }
  DUALFP_INLINE F32x16 Round() const {
    return {_mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  DUALFP_INLINE F32x16 ScaleByPowerOf2(F32x16 n) const {
    const __m512i exponent = _mm512_slli_epi32(_mm512_cvtps_epi32(n.v), 23);
    return {_mm512_castsi512_ps(_mm512_add_epi32(_mm512_castps_si512(v), exponent))};
  }
  DUALFP_INLINE F32x16 ZeroWhereLess(F32x16 x, F32x16 limit) const {
    return {_mm512_maskz_mov_ps(_knot_mask16(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ)), v)};
  }
  DUALFP_INLINE float Sum() const { return _mm512_reduce_add_ps(v); }
  DUALFP_INLINE float Largest() const { return _mm512_reduce_max_ps(v); }

  DUALFP_INLINE friend F32x16 operator+(F32x16 a, F32x16 b) { return {_mm512_add_ps(a.v, b.v)}; }
  DUALFP_INLINE friend F32x16 operator-(F32x16 a, F32x16 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  DUALFP_INLINE friend F32x16 operator*(F32x16 a, F32x16 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  DUALFP_INLINE friend F32x16 operator/(F32x16 a, F32x16 b) { return {_mm512_div_ps(a.v, b.v)}; }
};

#endif

// e^x within 2 units in the last place; 0 below -87.3 (where a float would be subnormal), and
// e^88 above 88. Range reduction to [-ln2/2, ln2/2], then the Taylor polynomial of degree 7, whose
// remainder there (r^8 / 8! < 6e-9) is below half a unit.
template <typename V>
DUALFP_INLINE V Exp(V x) {
  const V smallest = V::Broadcast(-87.3f);
  const V clamped = V::Max(smallest, V::Min(V::Broadcast(88.0f), x));  // NaN stays NaN
  const V n = (clamped * V::Broadcast(1.44269504f)).Round();
  // ln 2 in two parts, the first with few enough bits that n times it is exact.
  V r = n.NegMulAdd(V::Broadcast(0.693359375f), clamped);
  r = n.NegMulAdd(V::Broadcast(-2.12194440e-4f), r);
  V p = V::Broadcast(1.0f / 5040);
  p = p.MulAdd(r, V::Broadcast(1.0f / 720));
  p = p.MulAdd(r, V::Broadcast(1.0f / 120));
  p = p.MulAdd(r, V::Broadcast(1.0f / 24));
  p = p.MulAdd(r, V::Broadcast(1.0f / 6));
  p = p.MulAdd(r, V::Broadcast(0.5f));
  p = p.MulAdd(r, V::Broadcast(1.0f));
  p = p.MulAdd(r, V::Broadcast(1.0f));
  return p.ScaleByPowerOf2(n).ZeroWhereLess(x, smallest);
}

}  // namespace dualfp::cpu
