#include "dualfp/engine/block_pool.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cstring>

#include "dualfp/base/check.h"

namespace dualfp {

namespace {
constexpr int kMaxBlockSize = 256;
}  // namespace

BlockPool::BlockPool(int num_blocks, int block_size, bool enable_caching, Hash128 hash_key)
    : num_blocks_(num_blocks),
      block_size_(block_size),
      caching_(enable_caching),
      hash_key_(hash_key) {
  Check(num_blocks >= 1, ErrorCode::kInvalidArgument, "the KV cache needs at least one block, got ",
        num_blocks);
  Check(block_size >= 1 && block_size <= kMaxBlockSize, ErrorCode::kInvalidArgument,
        "block size is ", block_size, ", expected 1 to ", kMaxBlockSize);
  blocks_.resize(num_blocks);
  if (caching_) {
    tokens_.resize(static_cast<size_t>(num_blocks) * block_size);
    table_.assign(std::bit_ceil(2 * static_cast<size_t>(num_blocks)), -1);
  }
  for (int32_t block = num_blocks - 1; block >= 0; --block) {
    PushFree(block, /*to_front=*/true);
  }
}

void BlockPool::PushFree(int32_t block, bool to_front) {
  Block& entry = blocks_[block];
  entry.previous = to_front ? -1 : free_tail_;
  entry.next = to_front ? free_head_ : -1;
  (entry.previous < 0 ? free_head_ : blocks_[entry.previous].next) = block;
  (entry.next < 0 ? free_tail_ : blocks_[entry.next].previous) = block;
  ++num_free_;
}

void BlockPool::RemoveFree(int32_t block) {
  Block& entry = blocks_[block];
  (entry.previous < 0 ? free_head_ : blocks_[entry.previous].next) = entry.next;
  (entry.next < 0 ? free_tail_ : blocks_[entry.next].previous) = entry.previous;
  entry.previous = entry.next = -1;
  --num_free_;
}

int32_t BlockPool::Allocate() {
  CheckInternal(num_free_ > 0, "a KV block was asked for and none is free");
  const int32_t block = free_head_;
  RemoveFree(block);
  if (blocks_[block].cached) {
    Evict(block);
  }
  blocks_[block].ref_count = 1;
  return block;
}

void BlockPool::Ref(int32_t block) {
  if (blocks_[block].ref_count++ == 0) {
    RemoveFree(block);
  }
}

void BlockPool::Release(int32_t block) {
  CheckInternal(blocks_[block].ref_count > 0, "KV block ", block, " is released twice");
  if (--blocks_[block].ref_count == 0) {
    PushFree(block, /*to_front=*/!blocks_[block].cached);
  }
}

Hash128 BlockPool::RootKey(std::string_view salt, uint64_t cache_class) const {
  const Hash128 salted = SipHash128(hash_key_, std::as_bytes(std::span(salt)));
  return ChildKey(salted, cache_class, {});
}

Hash128 BlockPool::ChildKey(const Hash128& parent, uint64_t precision_tag,
                            std::span<const int32_t> tokens) const {
  struct {
    Hash128 parent;
    uint64_t tag;
    std::array<int32_t, kMaxBlockSize> tokens;
  } input;
  input.parent = parent;
  input.tag = precision_tag;
  std::copy(tokens.begin(), tokens.end(), input.tokens.begin());
  const size_t size = sizeof(input.parent) + sizeof(input.tag) + tokens.size_bytes();
  return SipHash128(hash_key_, {reinterpret_cast<const std::byte*>(&input), size});
}

int32_t BlockPool::Find(const Hash128& key, std::span<const int32_t> tokens) const {
  if (!caching_) {
    return -1;
  }
  for (size_t slot = Home(key); table_[slot] >= 0; slot = (slot + 1) & (table_.size() - 1)) {
    const int32_t block = table_[slot];
    if (blocks_[block].key == key) {
      return std::ranges::equal(Tokens(block), tokens) ? block : -1;
    }
  }
  return -1;
}

void BlockPool::Register(int32_t block, const Hash128& key, std::span<const int32_t> tokens) {
  if (!caching_) {
    return;
  }
  Block& entry = blocks_[block];
  CheckInternal(entry.ref_count > 0 && !entry.cached, "KV block ", block,
                " enters the prefix cache twice or free");
  size_t slot = Home(key);
  for (; table_[slot] >= 0; slot = (slot + 1) & (table_.size() - 1)) {
    if (blocks_[table_[slot]].key == key) {
      return;
    }
  }
  table_[slot] = block;
  entry.cached = true;
  entry.key = key;
  std::ranges::copy(tokens, Tokens(block).begin());
}

void BlockPool::Unregister(int32_t block) {
  CheckInternal(blocks_[block].ref_count > 0, "KV block ", block, " is free");
  if (blocks_[block].cached) {
    Evict(block);
  }
}

void BlockPool::Evict(int32_t block) {
  const size_t mask = table_.size() - 1;
  size_t hole = Home(blocks_[block].key);
  while (table_[hole] != block) {
    hole = (hole + 1) & mask;
  }
  // Entries after the hole move back into it when their home is not past it (cyclically), so that
  // every probe still ends at the first empty slot.
  for (size_t slot = (hole + 1) & mask; table_[slot] >= 0; slot = (slot + 1) & mask) {
    const size_t home = Home(blocks_[table_[slot]].key);
    if (((slot - home) & mask) >= ((slot - hole) & mask)) {
      table_[hole] = table_[slot];
      hole = slot;
    }
  }
  table_[hole] = -1;
  blocks_[block].cached = false;
}

void BlockPool::CheckInvariants(std::span<const int> references) const {
  CheckInternal(references.size() == blocks_.size(), "references of another pool");
  int free = 0;
  int cached = 0;
  for (int32_t block = 0; block < num_blocks_; ++block) {
    const Block& entry = blocks_[block];
    CheckInternal(entry.ref_count == references[block], "KV block ", block, " counts ",
                  entry.ref_count, " references, and has ", references[block]);
    free += entry.ref_count == 0;
    cached += entry.cached;
    CheckInternal(!entry.cached || Find(entry.key, Tokens(block)) == block, "cached KV block ",
                  block, " is not found under its key");
  }
  CheckInternal(free == num_free_, num_free_, " KV blocks counted free, and ", free, " are");

  std::vector<bool> seen(num_blocks_, false);
  int listed = 0;
  int32_t previous = -1;
  bool cached_part = false;
  for (int32_t block = free_head_; block >= 0; block = blocks_[block].next) {
    CheckInternal(!seen[block] && blocks_[block].ref_count == 0, "KV block ", block,
                  " is listed free twice or while held");
    CheckInternal(blocks_[block].previous == previous, "broken link at KV block ", block);
    CheckInternal(!cached_part || blocks_[block].cached, "an empty KV block, ", block,
                  ", lies behind a cached one");
    cached_part = blocks_[block].cached;
    seen[block] = true;
    previous = block;
    ++listed;
  }
  CheckInternal(listed == num_free_ && previous == free_tail_, "the free list has ", listed,
                " KV blocks, expected ", num_free_);
  const auto entries = std::count_if(table_.begin(), table_.end(), [](int b) { return b >= 0; });
  CheckInternal(entries == cached, "the prefix cache lists ", entries, " KV blocks, expected ",
                cached);
}

}  // namespace dualfp
