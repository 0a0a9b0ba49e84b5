// Decoding and accumulating in 512-bit vectors; Traits of gemm_tile.h. See there for linkage.

#pragma once

#include <immintrin.h>

#include <bit>

#include "dualfp/kernels/cpu/gemm_tile.h"
#include "dualfp/numeric/fp8.h"

namespace dualfp::cpu {
namespace {  // NOLINT(google-build-namespaces): see the comment on linkage

// The sums over lanes of up to 16 vectors, transposing as it adds: lane j to j + 8, to j + 4, to
// j + 2, to j + 1. out[i] belongs to a[i].
DUALFP_GEMM_INLINE __m512 Reduce16(const __m512* a) {
  __m512 u[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 lower = _mm512_add_ps(_mm512_shuffle_f32x4(a[j], a[4 + j], 0x44),
                                       _mm512_shuffle_f32x4(a[j], a[4 + j], 0xee));
    const __m512 upper = _mm512_add_ps(_mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0x44),
                                       _mm512_shuffle_f32x4(a[8 + j], a[12 + j], 0xee));
    u[j] = _mm512_add_ps(_mm512_shuffle_f32x4(lower, upper, 0x88),
                         _mm512_shuffle_f32x4(lower, upper, 0xdd));
  }
  __m512 v[2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const __m512d p = _mm512_castps_pd(u[2 * j]);
    const __m512d q = _mm512_castps_pd(u[2 * j + 1]);
    v[j] = _mm512_add_ps(_mm512_castpd_ps(_mm512_unpacklo_pd(p, q)),
                         _mm512_castpd_ps(_mm512_unpackhi_pd(p, q)));
  }
  return _mm512_add_ps(_mm512_shuffle_ps(v[0], v[1], 0x88), _mm512_shuffle_ps(v[0], v[1], 0xdd));
}

// The same for 8 vectors.
DUALFP_GEMM_INLINE __m256 Reduce8(const __m512* a) {
  __m256 u[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    const __m512 t = _mm512_add_ps(_mm512_shuffle_f32x4(a[j], a[4 + j], 0x44),
                                   _mm512_shuffle_f32x4(a[j], a[4 + j], 0xee));
    const __m256 p = _mm512_castps512_ps256(t);
    const __m256 q = _mm512_extractf32x8_ps(t, 1);
    u[j] = _mm256_add_ps(_mm256_permute2f128_ps(p, q, 0x20), _mm256_permute2f128_ps(p, q, 0x31));
  }
  __m256 v[2];
#pragma GCC unroll 2
  for (int j = 0; j < 2; ++j) {
    const __m256d p = _mm256_castps_pd(u[2 * j]);
    const __m256d q = _mm256_castps_pd(u[2 * j + 1]);
    v[j] = _mm256_add_ps(_mm256_castpd_ps(_mm256_unpacklo_pd(p, q)),
                         _mm256_castpd_ps(_mm256_unpackhi_pd(p, q)));
  }
  return _mm256_add_ps(_mm256_shuffle_ps(v[0], v[1], 0x88), _mm256_shuffle_ps(v[0], v[1], 0xdd));
}

// sums[i] += sum of a[i], for kCount vectors. Touches sums up to kCount rounded up to 8 or 16.
template <int kCount>
DUALFP_GEMM_INLINE void AddReducedTo(const __m512* a, float* sums) {
  constexpr int kWhole = kCount / 16 * 16;
  constexpr int kRest = kCount % 16;
#pragma GCC unroll 2
  for (int i = 0; i < kWhole; i += 16) {
    _mm512_storeu_ps(sums + i, _mm512_add_ps(_mm512_loadu_ps(sums + i), Reduce16(a + i)));
  }
  if constexpr (kRest > 0) {
    __m512 rest[16];
#pragma GCC unroll 16
    for (int j = 0; j < 16; ++j) {
      rest[j] = j < kRest ? a[kWhole + j] : _mm512_setzero_ps();
    }
    float* out = sums + kWhole;
    if constexpr (kRest > 8) {
      _mm512_storeu_ps(out, _mm512_add_ps(_mm512_loadu_ps(out), Reduce16(rest)));
    } else {
      _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), Reduce8(rest)));
    }
  }
}

// The first `size` of 64 lanes of a mask.
DUALFP_GEMM_INLINE __mmask64 FirstLanes(int64_t size) {
  return size >= 64 ? ~uint64_t{0} : size <= 0 ? 0 : (uint64_t{1} << size) - 1;
}

DUALFP_GEMM_INLINE __m256i LoadHalf(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

DUALFP_GEMM_INLINE void PrefetchLine(const uint8_t* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}

// A row's own next lines into the L1 cache, which the hardware does not fetch across pages.
DUALFP_GEMM_INLINE void PrefetchNear(const uint8_t* p) {
  constexpr int kBytesAhead = 512;
  _mm_prefetch(reinterpret_cast<const char*>(p + kBytesAhead), _MM_HINT_T0);
}

struct OnePlaneRow {
  const uint8_t* values;
  OnePlaneRow() = default;
  [[gnu::always_inline]] OnePlaneRow(const WeightRows& w, int64_t n)
      : values(w.values + n * w.row_bytes) {}
};

// Traits that multiply floats, 64 weights at a time; Row, Pack and Unpack come from derived types.
struct FloatTraits512 {
  using Vector = __m512;
  using Operand = __m512;
  using Element = float;
  static constexpr int kVectorElements = 16;
  static constexpr int kGroupVectors = 4;
  static constexpr int kTailElements = 16;
  static constexpr int kBlockK = 512;
  static constexpr float kValueScale = 1.0f;

  static constexpr bool kKeepsOrder = true;

  DUALFP_GEMM_INLINE int64_t Position(int64_t k) { return k; }
  DUALFP_GEMM_INLINE void Arrange(const float* values, float* x) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      _mm512_store_ps(x + 16 * v, _mm512_loadu_ps(values + 16 * v));
    }
  }
  DUALFP_GEMM_INLINE float ToFloat(float x) { return x; }
  DUALFP_GEMM_INLINE Vector Zero() { return _mm512_setzero_ps(); }
  DUALFP_GEMM_INLINE Operand Load(const float* p) { return _mm512_loadu_ps(p); }
  DUALFP_GEMM_INLINE void Store(float* p, Operand w) { _mm512_store_ps(p, w); }
  DUALFP_GEMM_INLINE Vector MulAdd(Vector acc, Operand x, Operand w) {
    return _mm512_fmadd_ps(x, w, acc);
  }
  DUALFP_GEMM_INLINE void Pin(Operand& x) { asm("" : "+v"(x)); }
  template <int kCount>
  DUALFP_GEMM_INLINE void AddReduced(const Vector* acc, float* sums) {
    AddReducedTo<kCount>(acc, sums);
  }
};

// 64 weights of 16 bits.
struct Words512 {
  __m256i words[4];
};

struct PlainF16Traits512 : FloatTraits512 {
  using Row = OnePlaneRow;
  using Packed = Words512;

  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    const uint8_t* p = row.values + 2 * k;
    return {{LoadHalf(p), LoadHalf(p + 32), LoadHalf(p + 64), LoadHalf(p + 96)}};
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    Packed packed;
    const __mmask64 mask = FirstLanes(size);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      packed.words[v] = _mm256_maskz_loadu_epi16(static_cast<__mmask16>(mask >> 16 * v),
                                                 row.values + 2 * k + 32 * v);
    }
    return packed;
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm512_cvtph_ps(packed.words[v]);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    PrefetchLine(row.values + 2 * k);
    PrefetchLine(row.values + 2 * k + 64);
  }
};

struct PlainBf16Traits512 : PlainF16Traits512 {
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(packed.words[v]), 16));
  }
};

struct PlainF32Traits512 : FloatTraits512 {
  using Row = OnePlaneRow;
  struct Packed {
    __m512 w[4];
  };

  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    const uint8_t* p = row.values + 4 * k;
    return {{_mm512_loadu_ps(p), _mm512_loadu_ps(p + 64), _mm512_loadu_ps(p + 128),
             _mm512_loadu_ps(p + 192)}};
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    Packed packed;
    const __mmask64 mask = FirstLanes(size);
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      packed.w[v] = _mm512_maskz_loadu_ps(static_cast<__mmask16>(mask >> 16 * v),
                                          row.values + 4 * k + 64 * v);
    }
    return packed;
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) { return packed.w[v]; }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
#pragma GCC unroll 4
    for (int line = 0; line < 4; ++line) {
      PrefetchLine(row.values + 4 * k + 64 * line);
    }
  }
};

struct NestedTraits512 : FloatTraits512 {
  struct Row {
    const uint8_t* upper;
    const uint8_t* lower;
    Row() = default;
    [[gnu::always_inline]] Row(const WeightRows& w, int64_t n)
        : upper(w.values + n * w.row_bytes), lower(w.lower + n * w.row_bytes) {}
  };
  struct Packed {
    __m512i words[2];
  };

  // The high byte of FP16: the sign, a zero and (upper >> 1).
  DUALFP_GEMM_INLINE __m512i HighByte(__m512i upper) {
    // Bit 7 of upper, the others of upper >> 1; then bit 6, another byte's or a second sign,
    // cleared.
    const __m512i merged = _mm512_ternarylogic_epi32(_mm512_set1_epi8(static_cast<char>(0x80)),
                                                     upper, _mm512_srli_epi16(upper, 1), 0xca);
    return _mm512_and_si512(merged, _mm512_set1_epi8(static_cast<char>(0xbf)));
  }
  // FP16 bits: the high byte, and lower as the low byte, - 64.
  template <typename Derived>
  DUALFP_GEMM_INLINE Packed Merge(__m512i upper, __m512i lower) {
    // Unpacking works within 128-bit lanes; with the bytes dealt out first, it leaves words 0..31
    // and 32..63 in order.
    const __m512i deal = _mm512_setr_epi64(0, 4, 1, 5, 2, 6, 3, 7);
    const __m512i high = Derived::HighByte(_mm512_permutexvar_epi64(deal, upper));
    const __m512i low = _mm512_permutexvar_epi64(deal, lower);
    const __m512i bias = _mm512_set1_epi16(64);
    return {{_mm512_sub_epi16(_mm512_unpacklo_epi8(low, high), bias),
             _mm512_sub_epi16(_mm512_unpackhi_epi8(low, high), bias)}};
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return Merge<NestedTraits512>(_mm512_loadu_si512(row.upper + k),
                                  _mm512_loadu_si512(row.lower + k));
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    // A zero weight's bytes are 0 and 64.
    const __mmask64 mask = FirstLanes(size);
    return Merge<NestedTraits512>(
        _mm512_maskz_loadu_epi8(mask, row.upper + k),
        _mm512_mask_loadu_epi8(_mm512_set1_epi8(64), mask, row.lower + k));
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    const __m512i words = packed.words[v / 2];
    return _mm512_cvtph_ps(v % 2 == 0 ? _mm512_castsi512_si256(words)
                                      : _mm512_extracti64x4_epi64(words, 1));
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    PrefetchLine(row.upper + k);
    PrefetchLine(row.lower + k);
  }
};

// With the high byte as one product of bit matrices. Faster where decoding bounds the loop; where
// registers do, its constant costs more than it saves.
struct NestedFewRowsTraits512 : NestedTraits512 {
  DUALFP_GEMM_INLINE __m512i HighByte(__m512i upper) {
    return _mm512_gf2p8affine_epi64_epi8(upper, _mm512_set1_epi64(0x0204081020400080), 0);
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return Merge<NestedFewRowsTraits512>(_mm512_loadu_si512(row.upper + k),
                                         _mm512_loadu_si512(row.lower + k));
  }
};

// The upper two bytes of each non-negative E4M3 value as a float, which are its bfloat16.
struct alignas(64) E4m3Bytes {
  uint8_t low[128];
  uint8_t high[128];
};

consteval E4m3Bytes MakeE4m3Bytes() {
  E4m3Bytes bytes{};
  for (int code = 0; code < 128; ++code) {
    const auto bits = std::bit_cast<uint32_t>(E4m3ToFloat(static_cast<uint8_t>(code)));
    bytes.low[code] = static_cast<uint8_t>(bits >> 16);
    bytes.high[code] = static_cast<uint8_t>(bits >> 24);
  }
  return bytes;
}

constexpr E4m3Bytes kE4m3Bytes = MakeE4m3Bytes();

// 64 E4M3 codes as bfloat16. Unpacking leaves the first 8 of each 16 in pairs[0] and the others in
// pairs[1].
struct E4m3Pairs {
  __m512i pairs[2];
};

DUALFP_GEMM_INLINE E4m3Pairs E4m3ToPairs(__m512i codes) {
  // A look-up takes the low 7 bits of a code as its index.
  const __m512i low = _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3Bytes.low), codes,
                                               _mm512_load_si512(kE4m3Bytes.low + 64));
  const __m512i magnitude = _mm512_permutex2var_epi8(_mm512_load_si512(kE4m3Bytes.high), codes,
                                                     _mm512_load_si512(kE4m3Bytes.high + 64));
  // magnitude | (codes & 0x80)
  const __m512i high =
      _mm512_ternarylogic_epi32(magnitude, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
  return {{_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)}};
}

struct alignas(64) SubnormalBytes {
  uint8_t low[64];
  uint8_t high[64];
};

consteval SubnormalBytes MakeSubnormalBytes() {
  SubnormalBytes bytes{};
  for (int code = 0; code < 8; ++code) {
    bytes.low[code] = kE4m3Bytes.low[code];
    bytes.high[code] = kE4m3Bytes.high[code];
  }
  return bytes;
}

constexpr SubnormalBytes kSubnormalBytes = MakeSubnormalBytes();

// E4m3ToPairs() for finite codes, in fewer of the operations that Intel's CPUs have one port for.
// But for subnormal codes, every bit of a bfloat16 is a bit of the code or its opposite: a product
// of bit matrices.
DUALFP_GEMM_INLINE E4m3Pairs FiniteE4m3ToPairs(__m512i codes) {
  // Sign, exponent bits 3, !3, !3, !3, !3, 2, 1; and exponent bit 0, mantissa.
  __m512i high = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(0x1020404040404080), 0x3c);
  __m512i low = _mm512_gf2p8affine_epi64_epi8(codes, _mm512_set1_epi64(0x0000000001020408), 0);
  const __mmask64 subnormal = _mm512_testn_epi8_mask(codes, _mm512_set1_epi8(0x78));
  low = _mm512_mask_permutexvar_epi8(low, subnormal, codes, _mm512_load_si512(kSubnormalBytes.low));
  high =
      _mm512_mask_permutexvar_epi8(high, subnormal, codes, _mm512_load_si512(kSubnormalBytes.high));
  // high | (codes & 0x80), which a subnormal still lacks
  high = _mm512_ternarylogic_epi32(high, codes, _mm512_set1_epi8(static_cast<char>(0x80)), 0xf8);
  return {{_mm512_unpacklo_epi8(low, high), _mm512_unpackhi_epi8(low, high)}};
}

struct E4m3Traits512 : FloatTraits512 {
  using Row = OnePlaneRow;
  using Packed = E4m3Pairs;

  // Of each pairs[i], the odd elements make vector 2i and the even ones vector 2i + 1: the order of
  // a dot product of BF16 pairs.
  DUALFP_GEMM_INLINE int64_t Position(int64_t k) {
    return k / 64 * 64 + k % 16 / 8 * 32 + (1 - k % 2) * 16 + k % 64 / 16 * 4 + k % 8 / 2;
  }
  // Quarters of `sorted` are the odd and the even elements of the first 8, then of the last 8.
  DUALFP_GEMM_INLINE void Arrange(const float* values, float* x) {
    const __m512i order = _mm512_setr_epi32(1, 3, 5, 7, 0, 2, 4, 6, 9, 11, 13, 15, 8, 10, 12, 14);
#pragma GCC unroll 4
    for (int lane = 0; lane < 4; ++lane) {
      const __m512 sorted = _mm512_permutexvar_ps(order, _mm512_loadu_ps(values + 16 * lane));
      float* out = x + 4 * lane;
      _mm_store_ps(out, _mm512_castps512_ps128(sorted));
      _mm_store_ps(out + 16, _mm512_extractf32x4_ps(sorted, 1));
      _mm_store_ps(out + 32, _mm512_extractf32x4_ps(sorted, 2));
      _mm_store_ps(out + 48, _mm512_extractf32x4_ps(sorted, 3));
    }
  }
  static constexpr int kTailElements = 64;
  static constexpr bool kKeepsOrder = false;

  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return E4m3ToPairs(_mm512_loadu_si512(row.values + k));
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    return E4m3ToPairs(_mm512_maskz_loadu_epi8(FirstLanes(size), row.values + k));
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    const __m512i pairs = packed.pairs[v / 2];
    return _mm512_castsi512_ps(v % 2 == 0 ? _mm512_and_si512(pairs, _mm512_set1_epi32(-65536))
                                          : _mm512_slli_epi32(pairs, 16));
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) { PrefetchLine(row.values + k); }
};

struct E4m3BlockedTraits512 : E4m3Traits512 {
  struct Row {
    OnePlaneRow codes;
    const float* scales;
    Row() = default;
    [[gnu::always_inline]] Row(const WeightRows& w, int64_t n)
        : codes(w, n), scales(w.block_scales + w.parts.BlockRow(n) * w.blocks_per_row) {}
  };
  struct Packed {
    E4m3Pairs pairs;
    __m512 scale;
  };

  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return {E4m3Traits512::Pack(row.codes, k), _mm512_set1_ps(row.scales[k / 128])};
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    return {E4m3Traits512::PackTail(row.codes, k, size), _mm512_set1_ps(row.scales[k / 128])};
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm512_mul_ps(E4m3Traits512::Unpack(packed.pairs, v), packed.scale);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    E4m3Traits512::Prefetch(row.codes, k);
  }
};

// A group's first 32 elements are the lower 8 lanes of every vector (E4m3Traits512::Position).
struct E4m3MxTraits512 : E4m3Traits512 {
  struct Row {
    OnePlaneRow codes;
    const uint8_t* scales;
    Row() = default;
    [[gnu::always_inline]] Row(const WeightRows& w, int64_t n)
        : codes(w, n), scales(w.group_scales + n * w.group_stride) {}
  };
  struct Packed {
    E4m3Pairs pairs;
    __m512 scale;
  };

  // Code 0 is a subnormal float, half of code 1's.
  DUALFP_GEMM_INLINE __m512 Scale(int first, int second) {
    const __m512i codes = _mm512_mask_set1_epi32(_mm512_set1_epi32(first), 0xff00, second);
    return _mm512_castsi512_ps(
        _mm512_max_epu32(_mm512_slli_epi32(codes, 23), _mm512_set1_epi32(0x00400000)));
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    const uint8_t* scales = row.scales + k / 32;
    return {E4m3Traits512::Pack(row.codes, k), Scale(scales[0], scales[1])};
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    const uint8_t* scales = row.scales + k / 32;
    return {E4m3Traits512::PackTail(row.codes, k, size),
            Scale(scales[0], size > 32 ? scales[1] : 0)};
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm512_mul_ps(E4m3Traits512::Unpack(packed.pairs, v), packed.scale);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    E4m3Traits512::Prefetch(row.codes, k);
  }
};

}  // namespace
}  // namespace dualfp::cpu
