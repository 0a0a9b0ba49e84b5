// A fixed set of strings with ids: the token table of a model. One arena of characters and an
// open-addressing hash table, because a vocabulary of 128,000 tokens is loaded at every start.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace dualfp {

class VocabularyTable {
 public:
  void Reserve(size_t tokens);

  // A token that is already there gets the new id. Several tokens may share an id; the first one
  // is its text.
  void Add(std::string_view token, int32_t id);

  std::optional<int32_t> Find(std::string_view token) const;

  // Empty for an id without a token; see HasId().
  std::string_view Token(int32_t id) const;
  bool HasId(int32_t id) const;

  size_t size() const { return entries_.size(); }
  // One past the largest id.
  int32_t id_limit() const { return static_cast<int32_t>(by_id_.size()); }

  template <typename Visit>
  void ForEach(Visit visit) const {
    for (const Entry& entry : entries_) {
      visit(Text(entry), entry.id);
    }
  }

 private:
  struct Entry {
    uint64_t begin;
    uint32_t size;
    int32_t id;
  };

  std::string_view Text(const Entry& entry) const {
    return {arena_.data() + entry.begin, entry.size};
  }
  size_t FindSlot(std::string_view token) const;
  void Rehash(size_t slots);

  std::string arena_;
  std::vector<Entry> entries_;
  std::vector<int32_t> slots_;  // indices into entries_, -1 when free; a power of two of them
  std::vector<int32_t> by_id_;  // indices into entries_, -1 when absent
};

}  // namespace dualfp
