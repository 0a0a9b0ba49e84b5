#include "dualfp/kernels/cpu/gemm_amx.h"

namespace dualfp::cpu {
namespace {

// Intel SDM volume 1, chapter 18 (tiles) and volume 2, LDTILECFG, TDPBF16PS.
struct AmxTiles {
  struct alignas(64) Config {
    uint8_t palette = 1;
    uint8_t start_row = 0;
    uint8_t reserved[14] = {};
    uint16_t row_bytes[16] = {};
    uint8_t rows[16] = {};
  };
  static_assert(sizeof(Config) == 64);

  static void Configure(const TileShapes& shapes) {
    Config config;
    for (size_t t = 0; t < shapes.size(); ++t) {
      config.rows[t] = static_cast<uint8_t>(shapes[t].rows);
      config.row_bytes[t] = static_cast<uint16_t>(shapes[t].row_bytes);
    }
    asm volatile("ldtilecfg %0" : : "m"(config));
  }
  static void Release() { asm volatile("tilerelease" : :); }

  // Not the compiler's intrinsics: gcc's paste a tile's number as it is written.
  template <int kTile>
  DUALFP_GEMM_INLINE void Zero() {
    asm volatile("tilezero %%tmm%c0" : : "i"(kTile));
  }
  template <int kTile>
  DUALFP_GEMM_INLINE void Load(const void* p, int64_t stride) {
    asm volatile("tileloadd (%0,%1,1), %%tmm%c2" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kTile>
  DUALFP_GEMM_INLINE void Store(void* p, int64_t stride) {
    asm volatile("tilestored %%tmm%c2, (%0,%1,1)" : : "r"(p), "r"(stride), "i"(kTile) : "memory");
  }
  template <int kSum, int kA, int kB>
  DUALFP_GEMM_INLINE void MultiplyAdd() {
    asm volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" : : "i"(kSum), "i"(kA), "i"(kB));
  }
};

}  // namespace

const GemmInner kAmxE4m3GemmInner = MakeAmxGemmInner<AmxTiles>();

}  // namespace dualfp::cpu
