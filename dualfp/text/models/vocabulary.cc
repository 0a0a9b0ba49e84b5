#include "dualfp/text/models/vocabulary.h"

#include <bit>
#include <functional>

namespace dualfp {

void VocabularyTable::Reserve(size_t tokens) {
  entries_.reserve(tokens);
  by_id_.reserve(tokens);
  arena_.reserve(tokens * 8);
  Rehash(std::bit_ceil(tokens * 2 + 16));
}

void VocabularyTable::Rehash(size_t slots) {
  slots_.assign(slots, -1);
  for (size_t i = 0; i < entries_.size(); ++i) {
    slots_[FindSlot(Text(entries_[i]))] = static_cast<int32_t>(i);
  }
}

size_t VocabularyTable::FindSlot(std::string_view token) const {
  const size_t mask = slots_.size() - 1;
  size_t slot = std::hash<std::string_view>()(token) & mask;
  while (slots_[slot] >= 0 && Text(entries_[static_cast<size_t>(slots_[slot])]) != token) {
    slot = (slot + 1) & mask;
  }
  return slot;
}

void VocabularyTable::Add(std::string_view token, int32_t id) {
  if (entries_.size() * 2 + 2 > slots_.size()) {
    Rehash(std::bit_ceil(entries_.size() * 4 + 16));
  }
  const size_t slot = FindSlot(token);
  if (slots_[slot] < 0) {
    slots_[slot] = static_cast<int32_t>(entries_.size());
    entries_.push_back({arena_.size(), static_cast<uint32_t>(token.size()), id});
    arena_ += token;
  } else {
    Entry& entry = entries_[static_cast<size_t>(slots_[slot])];
    if (entry.id == id) {
      return;
    }
    if (by_id_[static_cast<size_t>(entry.id)] == slots_[slot]) {
      by_id_[static_cast<size_t>(entry.id)] = -1;
    }
    entry.id = id;
  }
  if (by_id_.size() <= static_cast<size_t>(id)) {
    by_id_.resize(static_cast<size_t>(id) + 1, -1);
  }
  int32_t& owner = by_id_[static_cast<size_t>(id)];
  if (owner < 0) {
    owner = slots_[slot];
  }
}

std::optional<int32_t> VocabularyTable::Find(std::string_view token) const {
  if (slots_.empty()) {
    return std::nullopt;
  }
  const int32_t index = slots_[FindSlot(token)];
  if (index < 0) {
    return std::nullopt;
  }
  return entries_[static_cast<size_t>(index)].id;
}

bool VocabularyTable::HasId(int32_t id) const {
  return id >= 0 && id < id_limit() && by_id_[static_cast<size_t>(id)] >= 0;
}

std::string_view VocabularyTable::Token(int32_t id) const {
  return HasId(id) ? Text(entries_[static_cast<size_t>(by_id_[static_cast<size_t>(id)])])
                   : std::string_view();
}

}  // namespace dualfp
