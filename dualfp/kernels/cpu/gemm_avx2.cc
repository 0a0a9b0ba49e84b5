// Decoding and accumulating in 256-bit vectors; Traits of gemm_tile.h.

#include <immintrin.h>

#include "dualfp/kernels/cpu/gemm_tile.h"

namespace dualfp::cpu {
namespace {

// The sums over lanes of 8 vectors, transposing as it adds: lane j to j + 4, to j + 2, to j + 1.
// out[i] belongs to a[i].
DUALFP_GEMM_INLINE __m256 Reduce8(const __m256* a) {
  __m256 u[4];
#pragma GCC unroll 4
  for (int j = 0; j < 4; ++j) {
    u[j] = _mm256_add_ps(_mm256_permute2f128_ps(a[j], a[4 + j], 0x20),
                         _mm256_permute2f128_ps(a[j], a[4 + j], 0x31));
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

struct OnePlaneRow {
  const uint8_t* values;
  OnePlaneRow() = default;
  [[gnu::always_inline]] OnePlaneRow(const WeightRows& w, int64_t n)
      : values(w.values + n * w.row_bytes) {}
};

DUALFP_GEMM_INLINE void PrefetchLine(const uint8_t* p) {
  _mm_prefetch(reinterpret_cast<const char*>(p), _MM_HINT_T1);
}

DUALFP_GEMM_INLINE __m256i LoadBytes32(const uint8_t* p) {
  return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
}

// The first `size` bytes of `kBytes`, the rest `fill`.
template <int kBytes>
struct PaddedBytes {
  [[gnu::always_inline]] PaddedBytes(const uint8_t* p, int64_t size, uint8_t fill) {
    for (int64_t i = 0; i < kBytes; ++i) {
      bytes[i] = i < size ? p[i] : fill;
    }
  }
  alignas(32) uint8_t bytes[kBytes];
};

// Traits that multiply floats, 32 weights at a time; Row, Pack and Unpack come from derived types.
struct FloatTraits256 {
  using Vector = __m256;
  using Operand = __m256;
  using Element = float;
  static constexpr int kVectorElements = 8;
  static constexpr int kGroupVectors = 4;
  static constexpr int kTailElements = 8;
  static constexpr int kBlockK = 512;
  static constexpr float kValueScale = 1.0f;
  static constexpr bool kKeepsOrder = true;

  DUALFP_GEMM_INLINE int64_t Position(int64_t k) { return k; }
  DUALFP_GEMM_INLINE void Arrange(const float* values, float* x) {
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      _mm256_store_ps(x + 8 * v, _mm256_loadu_ps(values + 8 * v));
    }
  }
  DUALFP_GEMM_INLINE float ToFloat(float x) { return x; }
  DUALFP_GEMM_INLINE Vector Zero() { return _mm256_setzero_ps(); }
  DUALFP_GEMM_INLINE Operand Load(const float* p) { return _mm256_loadu_ps(p); }
  DUALFP_GEMM_INLINE void Store(float* p, Operand w) { _mm256_store_ps(p, w); }
  DUALFP_GEMM_INLINE Vector MulAdd(Vector acc, Operand x, Operand w) {
    return _mm256_fmadd_ps(x, w, acc);
  }
  DUALFP_GEMM_INLINE void Pin(Operand& x) { asm("" : "+x"(x)); }
  template <int kCount>
  DUALFP_GEMM_INLINE void AddReduced(const Vector* acc, float* sums) {
#pragma GCC unroll 4
    for (int i = 0; i < kCount; i += 8) {
      __m256 eight[8];
#pragma GCC unroll 8
      for (int j = 0; j < 8; ++j) {
        eight[j] = i + j < kCount ? acc[i + j] : _mm256_setzero_ps();
      }
      _mm256_storeu_ps(sums + i, _mm256_add_ps(_mm256_loadu_ps(sums + i), Reduce8(eight)));
    }
  }
};

// 32 weights of 16 bits.
struct Words256 {
  __m128i words[4];
};

struct PlainF16Traits256 : FloatTraits256 {
  using Row = OnePlaneRow;
  using Packed = Words256;

  DUALFP_GEMM_INLINE Packed PackBytes(const uint8_t* p) {
    Packed packed;
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      packed.words[v] = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p + 16 * v));
    }
    return packed;
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return PackBytes(row.values + 2 * k);
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    return PackBytes(PaddedBytes<64>(row.values + 2 * k, 2 * size, 0).bytes);
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm256_cvtph_ps(packed.words[v]);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) { PrefetchLine(row.values + 2 * k); }
};

struct PlainBf16Traits256 : PlainF16Traits256 {
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(packed.words[v]), 16));
  }
};

struct PlainF32Traits256 : FloatTraits256 {
  using Row = OnePlaneRow;
  struct Packed {
    __m256 w[4];
  };

  DUALFP_GEMM_INLINE Packed PackBytes(const uint8_t* p) {
    Packed packed;
#pragma GCC unroll 4
    for (int v = 0; v < 4; ++v) {
      packed.w[v] = _mm256_loadu_ps(reinterpret_cast<const float*>(p + 32 * v));
    }
    return packed;
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return PackBytes(row.values + 4 * k);
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    return PackBytes(PaddedBytes<128>(row.values + 4 * k, 4 * size, 0).bytes);
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) { return packed.w[v]; }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    PrefetchLine(row.values + 4 * k);
    PrefetchLine(row.values + 4 * k + 64);
  }
};

DUALFP_GEMM_INLINE Words256 ToWords(__m256i low, __m256i high) {
  return {{_mm256_castsi256_si128(low), _mm256_extracti128_si256(low, 1),
           _mm256_castsi256_si128(high), _mm256_extracti128_si256(high, 1)}};
}

// Unpacking works within 128-bit lanes; with the middle quarters swapped first, it leaves words
// 0..15 and 16..31 in order.
DUALFP_GEMM_INLINE __m256i DealOut(__m256i bytes) { return _mm256_permute4x64_epi64(bytes, 0xd8); }

struct NestedTraits256 : FloatTraits256 {
  struct Row {
    const uint8_t* upper;
    const uint8_t* lower;
    Row() = default;
    [[gnu::always_inline]] Row(const WeightRows& w, int64_t n)
        : upper(w.values + n * w.row_bytes), lower(w.lower + n * w.row_bytes) {}
  };
  using Packed = Words256;

  // FP16 bits: sign and (upper >> 1) as the high byte, lower as the low byte, - 64.
  DUALFP_GEMM_INLINE Packed Merge(__m256i upper, __m256i lower) {
    const __m256i u = DealOut(upper);
    const __m256i e = DealOut(lower);
    const __m256i high =
        _mm256_or_si256(_mm256_and_si256(_mm256_srli_epi16(u, 1), _mm256_set1_epi8(0x3f)),
                        _mm256_and_si256(u, _mm256_set1_epi8(static_cast<char>(0x80))));
    const __m256i bias = _mm256_set1_epi16(64);
    return ToWords(_mm256_sub_epi16(_mm256_unpacklo_epi8(e, high), bias),
                   _mm256_sub_epi16(_mm256_unpackhi_epi8(e, high), bias));
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return Merge(LoadBytes32(row.upper + k), LoadBytes32(row.lower + k));
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    // A zero weight's bytes are 0 and 64.
    return Merge(LoadBytes32(PaddedBytes<32>(row.upper + k, size, 0).bytes),
                 LoadBytes32(PaddedBytes<32>(row.lower + k, size, 64).bytes));
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm256_cvtph_ps(packed.words[v]);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    PrefetchLine(row.upper + k);
    PrefetchLine(row.lower + k);
  }
};

// FP16 bits, 8 C: sign and U7 of the upper byte where they belong, plus 8 (nibble - bias).
struct Nested12Traits256 : FloatTraits256 {
  struct Row {
    const uint8_t* upper;
    const uint8_t* nibbles;
    Row() = default;
    [[gnu::always_inline]] Row(const WeightRows& w, int64_t n)
        : upper(w.values + n * w.row_bytes), nibbles(w.lower + n * ((w.k + 1) / 2)) {}
  };
  using Packed = Words256;

  DUALFP_GEMM_INLINE __m256i Merge16(const uint8_t* upper, const uint8_t* nibbles) {
    const __m256i u = _mm256_slli_epi16(
        _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(upper))), 7);
    const __m256i n =
        _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(nibbles)));
    // Low nibbles to even words, high ones to odd words.
    const __m256i nibble =
        _mm256_and_si256(_mm256_or_si256(_mm256_slli_epi32(n, 3), _mm256_slli_epi32(n, 15)),
                         _mm256_set1_epi16(0x78));
    // The sign stands in bits 15 and 14; bit 14 must be clear.
    const __m256i high = _mm256_and_si256(u, _mm256_set1_epi16(static_cast<int16_t>(0xbf80)));
    return _mm256_sub_epi16(_mm256_or_si256(high, nibble), _mm256_set1_epi32(56 << 16 | 64));
  }
  DUALFP_GEMM_INLINE Packed Merge(const uint8_t* upper, const uint8_t* nibbles) {
    return ToWords(Merge16(upper, nibbles), Merge16(upper + 16, nibbles + 8));
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return Merge(row.upper + k, row.nibbles + k / 2);
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    // A zero weight's nibble is its column's bias.
    PaddedBytes<16> nibbles(row.nibbles + k / 2, (size + 1) / 2, 0x78);
    if (size % 2 != 0) {
      uint8_t& last = nibbles.bytes[size / 2];
      last = static_cast<uint8_t>((last & 15) | 0x70);
    }
    return Merge(PaddedBytes<32>(row.upper + k, size, 0).bytes, nibbles.bytes);
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm256_cvtph_ps(packed.words[v]);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    PrefetchLine(row.upper + k);
    PrefetchLine(row.nibbles + k / 2);
  }
};

// E4M3 bits, moved to where FP16 has them, are the value / 256, subnormals included. NaN codes do
// not occur (gemm.h: weights are finite).
struct E4m3Traits256 : FloatTraits256 {
  using Row = OnePlaneRow;
  using Packed = Words256;
  static constexpr float kValueScale = 256.0f;

  DUALFP_GEMM_INLINE Packed Shift(__m256i codes) {
    const __m256i u = DealOut(codes);
    const __m256i zero = _mm256_setzero_si256();
    // An arithmetic shift of (u << 8) leaves the sign in bits 15 and 14; bit 14 must be clear.
    const __m256i keep = _mm256_set1_epi16(static_cast<int16_t>(0xbfff));
    return ToWords(_mm256_and_si256(_mm256_srai_epi16(_mm256_unpacklo_epi8(zero, u), 1), keep),
                   _mm256_and_si256(_mm256_srai_epi16(_mm256_unpackhi_epi8(zero, u), 1), keep));
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return Shift(LoadBytes32(row.values + k));
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    return Shift(LoadBytes32(PaddedBytes<32>(row.values + k, size, 0).bytes));
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm256_cvtph_ps(packed.words[v]);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) { PrefetchLine(row.values + k); }
};

struct E4m3BlockedTraits256 : E4m3Traits256 {
  struct Row {
    OnePlaneRow codes;
    const float* scales;
    Row() = default;
    [[gnu::always_inline]] Row(const WeightRows& w, int64_t n)
        : codes(w, n), scales(w.block_scales + w.parts.BlockRow(n) * w.blocks_per_row) {}
  };
  struct Packed {
    Words256 words;
    __m256 scale;
  };

  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return {E4m3Traits256::Pack(row.codes, k), _mm256_set1_ps(row.scales[k / 128])};
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    return {E4m3Traits256::PackTail(row.codes, k, size), _mm256_set1_ps(row.scales[k / 128])};
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm256_mul_ps(E4m3Traits256::Unpack(packed.words, v), packed.scale);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    E4m3Traits256::Prefetch(row.codes, k);
  }
};

// 32 weights at a time share a scale.
struct E4m3MxTraits256 : E4m3Traits256 {
  struct Row {
    OnePlaneRow codes;
    const uint8_t* scales;
    Row() = default;
    [[gnu::always_inline]] Row(const WeightRows& w, int64_t n)
        : codes(w, n), scales(w.group_scales + n * w.group_stride) {}
  };
  struct Packed {
    Words256 words;
    __m256 scale;
  };

  // Code 0 is a subnormal float, half of code 1's.
  DUALFP_GEMM_INLINE __m256 Scale(uint8_t code) {
    const __m256i bits = _mm256_set1_epi32(static_cast<int>(code) << 23);
    return _mm256_castsi256_ps(_mm256_max_epu32(bits, _mm256_set1_epi32(0x00400000)));
  }
  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    return {E4m3Traits256::Pack(row.codes, k), Scale(row.scales[k / 32])};
  }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    return {E4m3Traits256::PackTail(row.codes, k, size), Scale(row.scales[k / 32])};
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return _mm256_mul_ps(E4m3Traits256::Unpack(packed.words, v), packed.scale);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) {
    E4m3Traits256::Prefetch(row.codes, k);
  }
};

// 4 x 3 accumulators and 4 operands fill the 16 registers.
template <typename T>
constexpr GemmInner kInner = MakeGemmInner<T, T, 4, 3, 8, 4, 3, 1>();

}  // namespace

const GemmInnerSet kAvx2GemmInner = {
    .f16 = kInner<PlainF16Traits256>,
    .bf16 = kInner<PlainBf16Traits256>,
    .f32 = kInner<PlainF32Traits256>,
    .nested = kInner<NestedTraits256>,
    .nested12 = kInner<Nested12Traits256>,
    .e4m3 = kInner<E4m3Traits256>,
    .e4m3_blocked = kInner<E4m3BlockedTraits256>,
    .e4m3_mx = kInner<E4m3MxTraits256>,
};

}  // namespace dualfp::cpu
