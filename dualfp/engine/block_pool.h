// KV blocks: who holds them, what they contain, and which to give away next.
//
// The pool keeps accounts; the memory belongs to the runner. A block is free or has a reference
// count. A full block may be registered under a key (a hash of all tokens up to its end, of the
// precision they were computed at, and of a salt): it can then be found and shared, and stays so
// after its last reference is gone, until the block is needed (least recently used first).
// Everything is sized at construction; no operation allocates.

#pragma once

#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

#include "dualfp/engine/siphash.h"

namespace dualfp {

// Tag of a block whose tokens were not all computed at one and the same plan. Plan tags are never
// 0.
inline constexpr uint64_t kMixedPrecisionTag = 0;

class BlockPool {
 public:
  // `hash_key` should be random, and is fixed in tests only.
  BlockPool(int num_blocks, int block_size, bool enable_caching, Hash128 hash_key);

  int num_blocks() const { return num_blocks_; }
  int block_size() const { return block_size_; }
  bool caching() const { return caching_; }

  // Blocks without references, cached or not: what Allocate() can still give.
  int num_free() const { return num_free_; }

  // The least recently used free block, no longer cached, with one reference. Requires one.
  int32_t Allocate();

  // One more reference; a free block (found in the cache) leaves the free list.
  void Ref(int32_t block);

  // One reference less. Release a sequence's blocks from its end to its beginning: the end of a
  // prefix is then evicted before what it depends on.
  void Release(int32_t block);

  int ref_count(int32_t block) const { return blocks_[block].ref_count; }

  // Keys. `tokens` has block_size entries.
  Hash128 RootKey(std::string_view salt, uint64_t cache_class) const;
  Hash128 ChildKey(const Hash128& parent, uint64_t precision_tag,
                   std::span<const int32_t> tokens) const;

  // The block registered under `key` with exactly these tokens, or -1.
  int32_t Find(const Hash128& key, std::span<const int32_t> tokens) const;

  // Enters a held, full block into the cache. Does nothing when caching is off, or when the key is
  // there already: the block then stays its holder's own.
  void Register(int32_t block, const Hash128& key, std::span<const int32_t> tokens);

  // The block's content is not to be trusted: it leaves the cache, if it is there.
  void Unregister(int32_t block);

  // Throws kInternal unless every account agrees with itself and with `references`, the number of
  // references that the caller knows of for each block. For tests: O(num_blocks).
  void CheckInvariants(std::span<const int> references) const;

 private:
  struct Block {
    int ref_count = 0;
    int32_t previous = -1;  // in the free list
    int32_t next = -1;
    bool cached = false;
    Hash128 key;
  };

  void PushFree(int32_t block, bool to_front);
  void RemoveFree(int32_t block);
  void Evict(int32_t block);
  size_t Home(const Hash128& key) const { return key.low & (table_.size() - 1); }
  std::span<int32_t> Tokens(int32_t block) {
    return {tokens_.data() + static_cast<size_t>(block) * block_size_,
            static_cast<size_t>(block_size_)};
  }
  std::span<const int32_t> Tokens(int32_t block) const {
    return {tokens_.data() + static_cast<size_t>(block) * block_size_,
            static_cast<size_t>(block_size_)};
  }

  int num_blocks_;
  int block_size_;
  bool caching_;
  Hash128 hash_key_;
  std::vector<Block> blocks_;
  std::vector<int32_t> tokens_;  // [num_blocks, block_size], of cached blocks

  // The free list: blocks that are not cached first, then cached ones, least recently used first.
  int32_t free_head_ = -1;
  int32_t free_tail_ = -1;
  int num_free_ = 0;

  std::vector<int32_t> table_;  // open addressing, linear probing; a power of two; -1 = empty
};

}  // namespace dualfp
