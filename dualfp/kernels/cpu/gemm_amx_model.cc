// The AMX loops on a model of the tile instructions: for tests on machines without them.

#include "dualfp/kernels/cpu/gemm_amx_model.h"

#include <cmath>
#include <cstring>

#include "dualfp/kernels/cpu/gemm_amx.h"

namespace dualfp::cpu {
namespace {

// As Intel's SDM (volume 2, TDPBF16PS) writes them down, with its faults as failed checks.
struct ModelTiles {
  struct Tile {
    TileShape shape;
    uint8_t data[16][64] = {};
  };
  static thread_local Tile tiles[8];

  static void Require(bool condition) {
    if (!condition) {
      __builtin_trap();
    }
  }

  static void Configure(const TileShapes& shapes) {
    for (size_t t = 0; t < shapes.size(); ++t) {
      Require(shapes[t].rows <= 16 && shapes[t].row_bytes <= 64);
      Require((shapes[t].rows == 0) == (shapes[t].row_bytes == 0));
      tiles[t] = {.shape = shapes[t]};
    }
  }
  static void Release() { Configure({}); }

  template <int kTile>
  static void Zero() {
    Require(tiles[kTile].shape.rows > 0);
    std::memset(tiles[kTile].data, 0, sizeof(Tile::data));
  }
  template <int kTile>
  static void Load(const void* p, int64_t stride) {
    Zero<kTile>();
    const TileShape& shape = tiles[kTile].shape;
    for (int row = 0; row < shape.rows; ++row) {
      std::memcpy(tiles[kTile].data[row], static_cast<const uint8_t*>(p) + row * stride,
                  shape.row_bytes);
    }
  }
  template <int kTile>
  static void Store(void* p, int64_t stride) {
    const TileShape& shape = tiles[kTile].shape;
    Require(shape.rows > 0);
    for (int row = 0; row < shape.rows; ++row) {
      std::memcpy(static_cast<uint8_t*>(p) + row * stride, tiles[kTile].data[row], shape.row_bytes);
    }
  }

  static float Bf16(const Tile& tile, int row, int element) {
    uint16_t bits;
    std::memcpy(&bits, tile.data[row] + 2 * element, sizeof(bits));
    return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  }
  template <int kSum, int kA, int kB>
  static void MultiplyAdd() {
    Tile& sum = tiles[kSum];
    const Tile& a = tiles[kA];
    const Tile& b = tiles[kB];
    Require(sum.shape.rows > 0 && sum.shape.rows == a.shape.rows &&
            sum.shape.row_bytes == b.shape.row_bytes && a.shape.row_bytes == 4 * b.shape.rows);
    for (int row = 0; row < sum.shape.rows; ++row) {
      for (int column = 0; column < sum.shape.row_bytes / 4; ++column) {
        float even = 0;
        float odd = 0;
        for (int pair = 0; pair < b.shape.rows; ++pair) {
          even = std::fma(Bf16(a, row, 2 * pair), Bf16(b, pair, 2 * column), even);
          odd = std::fma(Bf16(a, row, 2 * pair + 1), Bf16(b, pair, 2 * column + 1), odd);
        }
        float total;
        std::memcpy(&total, sum.data[row] + 4 * column, sizeof(total));
        total += even + odd;
        std::memcpy(sum.data[row] + 4 * column, &total, sizeof(total));
      }
    }
  }
};

thread_local ModelTiles::Tile ModelTiles::tiles[8];

}  // namespace

const GemmInner kModelAmxE4m3GemmInner = MakeAmxGemmInner<ModelTiles>();

}  // namespace dualfp::cpu
