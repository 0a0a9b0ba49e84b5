#include "dualfp/text/models/merge_table.h"

#include <bit>

namespace dualfp {

void MergeTable::Reserve(size_t merges) { Rehash(std::bit_ceil(merges * 2 + 16)); }

void MergeTable::Rehash(size_t slots) {
  std::vector<Entry> old(slots, Entry{kFree, {}});
  old.swap(entries_);
  mask_ = slots - 1;
  for (const Entry& entry : old) {
    if (entry.key != kFree) {
      size_t slot = Slot(entry.key);
      while (entries_[slot].key != kFree) {
        slot = (slot + 1) & mask_;
      }
      entries_[slot] = entry;
    }
  }
}

void MergeTable::Add(int32_t left, int32_t right, Merge merge) {
  if (size_ * 2 + 2 > entries_.size()) {
    Rehash(std::bit_ceil(size_ * 4 + 16));
  }
  const uint64_t key = Key(left, right);
  size_t slot = Slot(key);
  while (entries_[slot].key != kFree && entries_[slot].key != key) {
    slot = (slot + 1) & mask_;
  }
  if (entries_[slot].key == kFree) {
    ++size_;
  }
  entries_[slot] = {key, merge};
}

}  // namespace dualfp
