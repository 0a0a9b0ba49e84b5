#include <immintrin.h>

#include "dualfp/kernels/cpu/nest_inner.h"

namespace dualfp::cpu {
namespace {

#define DUALFP_NEST_INLINE [[gnu::always_inline]] inline

// 32 weights: FP16 bits, and the bytes of the two planes as words.
struct SplitWords {
  __m512i upper;
  __m512i lower;
};

DUALFP_NEST_INLINE __m512i Magnitude(__m512i fp16) {
  return _mm512_and_si512(fp16, _mm512_set1_epi16(0x7fff));
}

DUALFP_NEST_INLINE bool AnyOutside(__m512i fp16) {
  return _mm512_cmpgt_epu16_mask(Magnitude(fp16), _mm512_set1_epi16(0x3f00)) != 0;
}

DUALFP_NEST_INLINE SplitWords Split(__m512i fp16) {
  const __m512i v = Magnitude(fp16);
  // v / 128, to nearest even: add 63, and one more where the quotient is odd.
  const __m512i odd = _mm512_and_si512(_mm512_srli_epi16(v, 7), _mm512_set1_epi16(1));
  const __m512i rounded =
      _mm512_srli_epi16(_mm512_add_epi16(v, _mm512_add_epi16(odd, _mm512_set1_epi16(63))), 7);
  // rounded | (fp16 >> 8 & 0x80)
  const __m512i upper =
      _mm512_ternarylogic_epi32(rounded, _mm512_srli_epi16(fp16, 8), _mm512_set1_epi16(0x80), 0xf8);
  const __m512i lower =
      _mm512_and_si512(_mm512_add_epi16(v, _mm512_set1_epi16(64)), _mm512_set1_epi16(0xff));
  return {upper, lower};
}

DUALFP_NEST_INLINE void StoreBytes(uint8_t* p, __m512i words) {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), _mm512_cvtepi16_epi8(words));
}

DUALFP_NEST_INLINE __m512i LoadBytes(const uint8_t* p) {
  return _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
}

// Rounds 16 floats to FP16 and notes the error.
DUALFP_NEST_INLINE __m256i ToFp16(__m512 w, NestCounts& counts, __m512& largest) {
  const __m256i fp16 = _mm512_cvtps_ph(w, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 back = _mm512_cvtph_ps(fp16);
  const __mmask16 inexact = _mm512_cmp_ps_mask(back, w, _CMP_NEQ_UQ);
  if (inexact != 0) [[unlikely]] {
    counts.rounded += __builtin_popcount(inexact);
    const __m512 error = _mm512_abs_ps(_mm512_div_ps(_mm512_sub_ps(w, back), w));
    largest = _mm512_mask_max_ps(largest, inexact, error, largest);
  }
  return fp16;
}

template <DType kDType>
DUALFP_NEST_INLINE __m512i Load32(const char* source, int64_t i, NestCounts& counts,
                                  __m512& largest) {
  if constexpr (kDType == DType::kF16) {
    return _mm512_loadu_si512(source + 2 * i);
  } else {
    __m512 w[2];
    if constexpr (kDType == DType::kBF16) {
      const __m512i bits = _mm512_loadu_si512(source + 2 * i);
      w[0] = _mm512_castsi512_ps(
          _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_castsi512_si256(bits)), 16));
      w[1] = _mm512_castsi512_ps(
          _mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm512_extracti64x4_epi64(bits, 1)), 16));
    } else {
      w[0] = _mm512_loadu_ps(source + 4 * i);
      w[1] = _mm512_loadu_ps(source + 4 * i + 64);
    }
    const __m256i low = ToFp16(w[0], counts, largest);
    const __m256i high = ToFp16(w[1], counts, largest);
    return _mm512_inserti64x4(_mm512_castsi256_si512(low), high, 1);
  }
}

template <DType kDType>
int64_t SplitRows(const char* source, int64_t size, uint8_t* upper, uint8_t* lower,
                  NestCounts& counts) {
  __m512 largest = _mm512_setzero_ps();
  int64_t i = 0;
  for (; i < size; i += kNestGroup) {
    // Counted only if the whole group is split here.
    NestCounts group;
    __m512 group_largest = largest;
    const __m512i a = Load32<kDType>(source, i, group, group_largest);
    const __m512i b = Load32<kDType>(source, i + 32, group, group_largest);
    if (AnyOutside(a) || AnyOutside(b)) [[unlikely]] {
      break;
    }
    const SplitWords first = Split(a);
    const SplitWords second = Split(b);
    StoreBytes(upper + i, first.upper);
    StoreBytes(lower + i, first.lower);
    StoreBytes(upper + i + 32, second.upper);
    StoreBytes(lower + i + 32, second.lower);
    counts.rounded += group.rounded;
    largest = group_largest;
  }
  const float most = _mm512_reduce_max_ps(largest);
  if (most > counts.largest_relative_error) {
    counts.largest_relative_error = most;
  }
  return i;
}

int64_t SplitAny(const void* source, DType dtype, int64_t size, uint8_t* upper, uint8_t* lower,
                 NestCounts& counts) {
  const auto* bytes = static_cast<const char*>(source);
  if (dtype == DType::kF16) {
    return SplitRows<DType::kF16>(bytes, size, upper, lower, counts);
  }
  if (dtype == DType::kBF16) {
    return SplitRows<DType::kBF16>(bytes, size, upper, lower, counts);
  }
  return SplitRows<DType::kF32>(bytes, size, upper, lower, counts);
}

DUALFP_NEST_INLINE __m512i Merge32(__m512i upper, __m512i lower) {
  // ((upper >> 1 & 0x3f) << 8 | lower) - 64
  const __m512i high = _mm512_and_si512(_mm512_slli_epi16(upper, 7), _mm512_set1_epi16(0x3f00));
  const __m512i v = _mm512_sub_epi16(_mm512_or_si512(high, lower), _mm512_set1_epi16(64));
  const __m512i sign = _mm512_slli_epi16(upper, 8);
  // The sign from `sign`, the rest from v.
  return _mm512_ternarylogic_epi32(_mm512_set1_epi16(static_cast<int16_t>(0x8000)), sign, v, 0xca);
}

void Merge(const uint8_t* upper, const uint8_t* lower, int64_t size, uint16_t* fp16) {
  for (int64_t i = 0; i < size; i += 32) {
    _mm512_storeu_si512(fp16 + i, Merge32(LoadBytes(upper + i), LoadBytes(lower + i)));
  }
}

int64_t CountValid(const uint8_t* upper, const uint8_t* lower, int64_t size) {
  for (int64_t i = 0; i < size; i += 32) {
    const __m512i u = LoadBytes(upper + i);
    const __m512i e = LoadBytes(lower + i);
    const __m512i fp16 = Merge32(u, e);
    const SplitWords again = Split(fp16);
    if (AnyOutside(fp16) || _mm512_cmpneq_epi16_mask(again.upper, u) != 0 ||
        _mm512_cmpneq_epi16_mask(again.lower, e) != 0) {
      return i / kNestGroup * kNestGroup;
    }
  }
  return size;
}

}  // namespace

const NestInner kAvx512NestInner = {SplitAny, Merge, CountValid};

}  // namespace dualfp::cpu
