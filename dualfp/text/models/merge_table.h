// The merges of a BPE model: which two adjacent tokens become which token, and how early.

#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace dualfp {

class MergeTable {
 public:
  static constexpr uint32_t kNoRank = std::numeric_limits<uint32_t>::max();

  struct Merge {
    uint32_t rank = kNoRank;  // the lowest is merged first
    int32_t result = -1;
  };

  void Reserve(size_t merges);

  // A pair that is already there gets the new rank and result.
  void Add(int32_t left, int32_t right, Merge merge);

  // rank == kNoRank when the two do not merge.
  Merge Find(int32_t left, int32_t right) const {
    const uint64_t key = Key(left, right);
    for (size_t slot = Slot(key);; slot = (slot + 1) & mask_) {
      const Entry& entry = entries_[slot];
      if (entry.key == key) {
        return entry.merge;
      }
      if (entry.key == kFree) {
        return {};
      }
    }
  }

  size_t size() const { return size_; }

 private:
  struct Entry {
    uint64_t key;
    Merge merge;
  };

  static constexpr uint64_t kFree = std::numeric_limits<uint64_t>::max();

  static uint64_t Key(int32_t left, int32_t right) {
    return uint64_t{static_cast<uint32_t>(left)} << 32 | static_cast<uint32_t>(right);
  }
  size_t Slot(uint64_t key) const {
    key *= 0x9e3779b97f4a7c15u;
    return static_cast<size_t>(key ^ key >> 32) & mask_;
  }
  void Rehash(size_t slots);

  std::vector<Entry> entries_ = std::vector<Entry>(1, Entry{kFree, {}});
  size_t mask_ = 0;
  size_t size_ = 0;
};

}  // namespace dualfp
