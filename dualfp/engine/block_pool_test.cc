#include "dualfp/engine/block_pool.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <string>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

std::vector<int32_t> Tokens(int first) { return {first, first + 1, first + 2, first + 3}; }

std::string Hex(const Hash128& hash) {
  std::string text;
  for (const uint64_t word : {hash.low, hash.high}) {
    for (int byte = 0; byte < 8; ++byte) {
      char buffer[3];
      std::snprintf(buffer, sizeof(buffer), "%02X", static_cast<int>((word >> (8 * byte)) & 255));
      text += buffer;
    }
  }
  return text;
}

// Computed with `openssl mac -macopt size:16 SIPHASH`; the first two are also in the authors'
// vectors_sip128.
TEST(SipHash, AgreesWithOpenSsl) {
  const Hash128 key{0x0706050403020100, 0x0f0e0d0c0b0a0908};
  const std::map<size_t, std::string> vectors = {{0, "A3817F04BA25A8E66DF67214C7550293"},
                                                 {1, "DA87C1D86B99AF44347659119B22FC45"},
                                                 {8, "3B62A9BA6258F5610F83E264F31497B4"},
                                                 {15, "5493E99933B0A8117E08EC0F97CFC3D9"},
                                                 {63, "5150D1772F50834A503E069A973FBD7C"}};
  for (const auto& [size, expected] : vectors) {
    std::vector<uint8_t> input(size);
    for (size_t i = 0; i < size; ++i) {
      input[i] = static_cast<uint8_t>(i);
    }
    EXPECT_EQ(Hex(SipHash128(key, std::as_bytes(std::span(input)))), expected) << size;
  }
}

TEST(BlockPool, GivesEachBlockOnce) {
  BlockPool pool(3, 4, true, {});
  const int32_t a = pool.Allocate();
  const int32_t b = pool.Allocate();
  const int32_t c = pool.Allocate();
  EXPECT_NE(a, b);
  EXPECT_NE(b, c);
  EXPECT_NE(a, c);
  EXPECT_EQ(pool.num_free(), 0);
  EXPECT_THROW(pool.Allocate(), Error);
  pool.Ref(b);
  pool.Release(b);
  EXPECT_EQ(pool.num_free(), 0);
  pool.Release(b);
  EXPECT_EQ(pool.num_free(), 1);
  EXPECT_THROW(pool.Release(b), Error);
  EXPECT_EQ(pool.Allocate(), b);
}

TEST(BlockPool, KeysTellSaltTagTokensAndParentApart) {
  BlockPool pool(4, 4, true, {1, 2});
  const Hash128 root = pool.RootKey("", 0);
  const Hash128 key = pool.ChildKey(root, 7, Tokens(1));
  EXPECT_EQ(key, pool.ChildKey(root, 7, Tokens(1)));
  EXPECT_NE(key, pool.ChildKey(pool.RootKey("tenant", 0), 7, Tokens(1)));
  EXPECT_NE(key, pool.ChildKey(pool.RootKey("", 1), 7, Tokens(1)));
  EXPECT_NE(key, pool.ChildKey(root, 8, Tokens(1)));
  EXPECT_NE(key, pool.ChildKey(root, 7, Tokens(2)));
  EXPECT_NE(key, pool.ChildKey(key, 7, Tokens(1)));
  EXPECT_NE(key, BlockPool(4, 4, true, {1, 3}).ChildKey(root, 7, Tokens(1)));
}

TEST(BlockPool, KeepsCachedBlocksUntilTheyAreNeeded) {
  BlockPool pool(3, 4, true, {});
  const Hash128 root = pool.RootKey("", 0);
  const int32_t first = pool.Allocate();
  const Hash128 first_key = pool.ChildKey(root, 1, Tokens(0));
  pool.Register(first, first_key, Tokens(0));
  const int32_t second = pool.Allocate();
  const Hash128 second_key = pool.ChildKey(first_key, 1, Tokens(4));
  pool.Register(second, second_key, Tokens(4));
  pool.Release(second);
  pool.Release(first);
  EXPECT_EQ(pool.num_free(), 3);
  EXPECT_EQ(pool.Find(first_key, Tokens(0)), first);
  EXPECT_EQ(pool.Find(first_key, Tokens(1)), -1) << "the same key, other tokens";

  EXPECT_NE(pool.Allocate(), second) << "an empty block goes first";
  EXPECT_EQ(pool.Allocate(), second) << "then the end of the prefix";
  EXPECT_EQ(pool.Find(second_key, Tokens(4)), -1);
  EXPECT_EQ(pool.Find(first_key, Tokens(0)), first);
}

TEST(BlockPool, AHitMakesABlockRecentlyUsed) {
  BlockPool pool(2, 4, true, {});
  std::vector<Hash128> keys;
  for (int i = 0; i < 2; ++i) {
    keys.push_back(pool.ChildKey(pool.RootKey("", 0), 1, Tokens(i)));
    const int32_t block = pool.Allocate();
    pool.Register(block, keys[i], Tokens(i));
    pool.Release(block);
  }
  const int32_t hit = pool.Find(keys[0], Tokens(0));
  pool.Ref(hit);
  pool.Release(hit);
  pool.Allocate();
  EXPECT_EQ(pool.Find(keys[0], Tokens(0)), hit);
  EXPECT_EQ(pool.Find(keys[1], Tokens(1)), -1);
}

TEST(BlockPool, TheFirstOfTwoEqualBlocksIsCached) {
  BlockPool pool(2, 4, true, {});
  const Hash128 key = pool.ChildKey(pool.RootKey("", 0), 1, Tokens(0));
  const int32_t first = pool.Allocate();
  const int32_t second = pool.Allocate();
  pool.Register(first, key, Tokens(0));
  pool.Register(second, key, Tokens(0));
  EXPECT_EQ(pool.Find(key, Tokens(0)), first);
  pool.Unregister(second);
  EXPECT_EQ(pool.Find(key, Tokens(0)), first);
  pool.Unregister(first);
  EXPECT_EQ(pool.Find(key, Tokens(0)), -1);
}

TEST(BlockPool, CachesNothingWhenCachingIsOff) {
  BlockPool pool(2, 4, false, {});
  const Hash128 key = pool.ChildKey(pool.RootKey("", 0), 1, Tokens(0));
  const int32_t block = pool.Allocate();
  pool.Register(block, key, Tokens(0));
  EXPECT_EQ(pool.Find(key, Tokens(0)), -1);
}

TEST(BlockPool, RefusesImpossibleSizes) {
  EXPECT_THROW(BlockPool(0, 16, true, {}), Error);
  EXPECT_THROW(BlockPool(1, 0, true, {}), Error);
  EXPECT_THROW(BlockPool(1, 257, true, {}), Error);
}

// Random operations against a model that keeps everything in maps, for pools so small that the hash
// table wraps, collides and deletes all the time.
TEST(BlockPool, AgreesWithASimpleModel) {
  for (int seed = 0; seed < 30; ++seed) {
    std::mt19937 random(seed);
    const int num_blocks = 1 + static_cast<int>(random() % 20);
    BlockPool pool(num_blocks, 4, true, {random(), random()});
    std::vector<int> references(num_blocks, 0);
    std::map<int, int32_t> cached;  // value of the first token -> block
    std::vector<int> content(num_blocks, -1);
    const auto key_of = [&](int value) {
      return pool.ChildKey(pool.RootKey("", 0), 1, Tokens(value));
    };
    for (int step = 0; step < 2000; ++step) {
      const int block = static_cast<int>(random() % num_blocks);
      const int value = static_cast<int>(random() % 40);
      switch (random() % 5) {
        case 0:
          if (pool.num_free() > 0) {
            const int32_t fresh = pool.Allocate();
            ASSERT_EQ(references[fresh], 0);
            references[fresh] = 1;
            if (content[fresh] >= 0) {
              cached.erase(content[fresh]);
              content[fresh] = -1;
            }
          }
          break;
        case 1:
          if (references[block] > 0) {
            pool.Release(block);
            --references[block];
          }
          break;
        case 2:
          if (references[block] > 0 && content[block] < 0) {
            pool.Register(block, key_of(value), Tokens(value));
            if (cached.emplace(value, block).second) {
              content[block] = value;
            }
          }
          break;
        case 3: {
          const int32_t found = pool.Find(key_of(value), Tokens(value));
          ASSERT_EQ(found, cached.contains(value) ? cached[value] : -1);
          if (found >= 0) {
            pool.Ref(found);
            ++references[found];
          }
          break;
        }
        case 4:
          if (references[block] > 0 && random() % 8 == 0) {
            pool.Unregister(block);
            if (content[block] >= 0) {
              cached.erase(content[block]);
              content[block] = -1;
            }
          }
          break;
      }
      ASSERT_NO_THROW(pool.CheckInvariants(references));
    }
  }
}

}  // namespace
}  // namespace dualfp
