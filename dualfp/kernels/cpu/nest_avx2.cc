#include <immintrin.h>

#include "dualfp/kernels/cpu/nest_inner.h"

namespace dualfp::cpu {
namespace {

#define DUALFP_NEST_INLINE [[gnu::always_inline]] inline

// 16 weights: FP16 bits, and the bytes of the two planes as words.
struct SplitWords {
  __m256i upper;
  __m256i lower;
};

DUALFP_NEST_INLINE __m256i Magnitude(__m256i fp16) {
  return _mm256_and_si256(fp16, _mm256_set1_epi16(0x7fff));
}

DUALFP_NEST_INLINE bool AnyOutside(__m256i fp16) {
  const __m256i outside = _mm256_cmpgt_epi16(Magnitude(fp16), _mm256_set1_epi16(0x3f00));
  return _mm256_movemask_epi8(outside) != 0;
}

DUALFP_NEST_INLINE SplitWords Split(__m256i fp16) {
  const __m256i v = Magnitude(fp16);
  // v / 128, to nearest even: add 63, and one more where the quotient is odd.
  const __m256i odd = _mm256_and_si256(_mm256_srli_epi16(v, 7), _mm256_set1_epi16(1));
  const __m256i rounded =
      _mm256_srli_epi16(_mm256_add_epi16(v, _mm256_add_epi16(odd, _mm256_set1_epi16(63))), 7);
  const __m256i sign = _mm256_and_si256(_mm256_srli_epi16(fp16, 8), _mm256_set1_epi16(0x80));
  const __m256i lower =
      _mm256_and_si256(_mm256_add_epi16(v, _mm256_set1_epi16(64)), _mm256_set1_epi16(0xff));
  return {_mm256_or_si256(rounded, sign), lower};
}

// The bytes of 32 words. Packing works within 128-bit lanes; the middle quarters swap back.
DUALFP_NEST_INLINE void StoreBytes(uint8_t* p, __m256i low, __m256i high) {
  const __m256i packed = _mm256_permute4x64_epi64(_mm256_packus_epi16(low, high), 0xd8);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(p), packed);
}

DUALFP_NEST_INLINE __m256i LoadBytes(const uint8_t* p) {
  return _mm256_cvtepu8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)));
}

// Rounds 8 floats to FP16 and notes the error.
DUALFP_NEST_INLINE __m128i ToFp16(__m256 w, NestCounts& counts, __m256& largest) {
  const __m128i fp16 = _mm256_cvtps_ph(w, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 back = _mm256_cvtph_ps(fp16);
  const __m256 inexact = _mm256_cmp_ps(back, w, _CMP_NEQ_UQ);
  const int mask = _mm256_movemask_ps(inexact);
  if (mask != 0) [[unlikely]] {
    counts.rounded += __builtin_popcount(static_cast<unsigned>(mask));
    const __m256 error =
        _mm256_andnot_ps(_mm256_set1_ps(-0.0f), _mm256_div_ps(_mm256_sub_ps(w, back), w));
    largest = _mm256_max_ps(_mm256_and_ps(error, inexact), largest);
  }
  return fp16;
}

template <DType kDType>
DUALFP_NEST_INLINE __m256i Load16(const char* source, int64_t i, NestCounts& counts,
                                  __m256& largest) {
  if constexpr (kDType == DType::kF16) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source + 2 * i));
  } else {
    __m256 w[2];
    for (int half = 0; half < 2; ++half) {
      if constexpr (kDType == DType::kBF16) {
        const auto* p = reinterpret_cast<const __m128i*>(source + 2 * i + 16 * half);
        w[half] =
            _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128(p)), 16));
      } else {
        w[half] = _mm256_loadu_ps(reinterpret_cast<const float*>(source + 4 * i + 32 * half));
      }
    }
    const __m128i low = ToFp16(w[0], counts, largest);
    const __m128i high = ToFp16(w[1], counts, largest);
    return _mm256_set_m128i(high, low);
  }
}

template <DType kDType>
int64_t SplitRows(const char* source, int64_t size, uint8_t* upper, uint8_t* lower,
                  NestCounts& counts) {
  __m256 largest = _mm256_setzero_ps();
  int64_t i = 0;
  for (; i < size; i += kNestGroup) {
    // Counted only if the whole group is split here.
    NestCounts group;
    __m256 group_largest = largest;
    __m256i fp16[4];
    bool outside = false;
    for (int part = 0; part < 4; ++part) {
      fp16[part] = Load16<kDType>(source, i + 16 * part, group, group_largest);
      outside |= AnyOutside(fp16[part]);
    }
    if (outside) [[unlikely]] {
      break;
    }
    for (int half = 0; half < 2; ++half) {
      const SplitWords first = Split(fp16[2 * half]);
      const SplitWords second = Split(fp16[2 * half + 1]);
      StoreBytes(upper + i + 32 * half, first.upper, second.upper);
      StoreBytes(lower + i + 32 * half, first.lower, second.lower);
    }
    counts.rounded += group.rounded;
    largest = group_largest;
  }
  float lanes[8];
  _mm256_storeu_ps(lanes, largest);
  for (const float lane : lanes) {
    if (lane > counts.largest_relative_error) {
      counts.largest_relative_error = lane;
    }
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

DUALFP_NEST_INLINE __m256i Merge16(__m256i upper, __m256i lower) {
  // ((upper >> 1 & 0x3f) << 8 | lower) - 64
  const __m256i high = _mm256_and_si256(_mm256_slli_epi16(upper, 7), _mm256_set1_epi16(0x3f00));
  const __m256i v = _mm256_sub_epi16(_mm256_or_si256(high, lower), _mm256_set1_epi16(64));
  const __m256i sign = _mm256_and_si256(_mm256_slli_epi16(upper, 8),
                                        _mm256_set1_epi16(static_cast<int16_t>(0x8000)));
  return _mm256_or_si256(sign, Magnitude(v));
}

void Merge(const uint8_t* upper, const uint8_t* lower, int64_t size, uint16_t* fp16) {
  for (int64_t i = 0; i < size; i += 16) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(fp16 + i),
                        Merge16(LoadBytes(upper + i), LoadBytes(lower + i)));
  }
}

int64_t CountValid(const uint8_t* upper, const uint8_t* lower, int64_t size) {
  for (int64_t i = 0; i < size; i += 16) {
    const __m256i u = LoadBytes(upper + i);
    const __m256i e = LoadBytes(lower + i);
    const __m256i fp16 = Merge16(u, e);
    const SplitWords again = Split(fp16);
    const __m256i same =
        _mm256_and_si256(_mm256_cmpeq_epi16(again.upper, u), _mm256_cmpeq_epi16(again.lower, e));
    if (AnyOutside(fp16) || _mm256_movemask_epi8(same) != -1) {
      return i / kNestGroup * kNestGroup;
    }
  }
  return size;
}

}  // namespace

const NestInner kAvx2NestInner = {SplitAny, Merge, CountValid};

}  // namespace dualfp::cpu
