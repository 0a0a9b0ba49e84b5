// E4M3 times E4M3 as dot products of bfloat16 pairs. Both operands are exact in bfloat16 and their
// products exact in float, so only the additions round.

#include "dualfp/kernels/cpu/gemm_avx512.h"

namespace dualfp::cpu {
namespace {

struct E4m3PairTraits {
  using Vector = __m512;
  using Operand = __m512bh;
  using Element = uint16_t;  // bfloat16
  using Row = OnePlaneRow;
  using Packed = E4m3Pairs;
  static constexpr int kVectorElements = 32;
  static constexpr int kGroupVectors = 2;
  static constexpr int kTailElements = 64;
  static constexpr int kBlockK = 1024;
  static constexpr float kValueScale = 1.0f;
  static constexpr bool kKeepsOrder = false;

  // As E4m3ToPairs leaves them.
  DUALFP_GEMM_INLINE int64_t Position(int64_t k) {
    return k / 64 * 64 + k % 16 / 8 * 32 + k % 64 / 16 * 8 + k % 8;
  }
  // E4M3 values lose nothing when their lower 16 bits are dropped.
  DUALFP_GEMM_INLINE void Arrange(const float* values, uint16_t* x) {
#pragma GCC unroll 4
    for (int lane = 0; lane < 4; ++lane) {
      const __m512i bits = _mm512_loadu_si512(values + 16 * lane);
      const __m256i halves = _mm512_cvtepi32_epi16(_mm512_srli_epi32(bits, 16));
      _mm_store_si128(reinterpret_cast<__m128i*>(x + 8 * lane), _mm256_castsi256_si128(halves));
      _mm_store_si128(reinterpret_cast<__m128i*>(x + 32 + 8 * lane),
                      _mm256_extracti128_si256(halves, 1));
    }
  }
  DUALFP_GEMM_INLINE float ToFloat(uint16_t x) {
    return std::bit_cast<float>(static_cast<uint32_t>(x) << 16);
  }
  DUALFP_GEMM_INLINE Vector Zero() { return _mm512_setzero_ps(); }
  DUALFP_GEMM_INLINE Operand Load(const uint16_t* p) {
    return reinterpret_cast<Operand>(_mm512_loadu_si512(p));
  }
  DUALFP_GEMM_INLINE void Store(uint16_t* p, Operand w) {
    _mm512_store_si512(p, reinterpret_cast<__m512i>(w));
  }
  DUALFP_GEMM_INLINE Vector MulAdd(Vector acc, Operand x, Operand w) {
    return _mm512_dpbf16_ps(acc, x, w);
  }
  DUALFP_GEMM_INLINE void Pin(Operand& x) { asm("" : "+v"(x)); }
  template <int kCount>
  DUALFP_GEMM_INLINE void AddReduced(const Vector* acc, float* sums) {
    AddReducedTo<kCount>(acc, sums);
  }

  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) { return E4m3Traits512::Pack(row, k); }
  DUALFP_GEMM_INLINE Packed PackTail(const Row& row, int64_t k, int64_t size) {
    return E4m3Traits512::PackTail(row, k, size);
  }
  DUALFP_GEMM_INLINE Operand Unpack(const Packed& packed, int v) {
    return reinterpret_cast<Operand>(packed.pairs[v]);
  }
  DUALFP_GEMM_INLINE void Prefetch(const Row& row, int64_t k) { E4m3Traits512::Prefetch(row, k); }
};

// A dot product of pairs adds the odd elements' product, then the even elements': E4m3Traits512
// does so, too.
struct E4m3FewRowsTraits : E4m3PairTraits {
  static constexpr int kBlockK = E4m3Traits512::kBlockK;

  DUALFP_GEMM_INLINE Packed Pack(const Row& row, int64_t k) {
    PrefetchNear(row.values + k);
    return FiniteE4m3ToPairs(_mm512_loadu_si512(row.values + k));
  }
};

}  // namespace

const GemmInner kAvx512Bf16E4m3FewRowsGemmInner =
    MakeGemmInner<E4m3FewRowsTraits, E4m3FewRowsTraits, 4, 6, 4, 4, 4, 3>();

const GemmInner kAvx512Bf16E4m3GemmInner =
    MakeGemmInner<E4m3PairTraits, E4m3PairTraits, 4, 6, 8, 8, 4, 3>();

}  // namespace dualfp::cpu
