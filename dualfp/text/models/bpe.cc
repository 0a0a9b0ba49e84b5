#include "dualfp/text/models/bpe.h"

#include <algorithm>
#include <cstring>
#include <functional>

#include "dualfp/text/pipeline/byte_alphabet.h"
#include "dualfp/text/unicode.h"

namespace dualfp {
namespace {

constexpr size_t kCacheEntries = size_t{1} << 15;  // 2 MiB

// Up to this many symbols, looking through all pairs for the best is faster than a heap.
constexpr size_t kMaxShortWord = 64;

}  // namespace

BpeScratch::BpeScratch() : cache_(kCacheEntries) {}

std::unique_ptr<ModelScratch> BpeModel::NewScratch() const {
  return std::make_unique<BpeScratch>();
}

void BpeModel::Encode(std::string_view word, ModelScratch* model_scratch,
                      std::vector<int32_t>* out) const {
  auto* scratch = static_cast<BpeScratch*>(model_scratch);
  if (!word_boundary_.empty()) {
    // Cut where the boundary string starts, unless it continues a run of itself.
    for (size_t at = word.find(word_boundary_, 1); at != std::string_view::npos;) {
      if (word.substr(0, at).ends_with(word_boundary_)) {
        at = word.find(word_boundary_, at + word_boundary_.size());
        continue;
      }
      EncodeUncached(word.substr(0, at), scratch, out);
      word.remove_prefix(at);
      at = word.find(word_boundary_, 1);
    }
  }
  EncodeUncached(word, scratch, out);
}

void BpeModel::EncodeUncached(std::string_view word, BpeScratch* scratch,
                              std::vector<int32_t>* out) const {
  if (word.empty()) {
    return;
  }
  BpeScratch::CachedWord* cached = nullptr;
  if (word.size() <= BpeScratch::CachedWord::kMaxBytes) {
    const size_t hash = std::hash<std::string_view>()(word);
    cached = &scratch->cache_[hash % kCacheEntries];
    if (cached->size == word.size() &&
        std::memcmp(cached->bytes.data(), word.data(), word.size()) == 0) {
      out->insert(out->end(), cached->tokens.begin(), cached->tokens.begin() + cached->count);
      return;
    }
  }

  const size_t first = out->size();
  const std::optional<int32_t> whole = !ignore_merges_ ? std::nullopt
                                       : byte_level_   ? byte_vocabulary_.Find(word)
                                                       : vocabulary_.Find(word);
  if (whole) {
    out->push_back(*whole);
  } else {
    scratch->ids_.clear();
    if (!byte_level_) {
      InitialCharacters(word, &scratch->ids_);
    } else if (!InitialBytes(word, &scratch->ids_)) {
      scratch->ids_.clear();
      scratch->text_ = BytesToAlphabet(word);
      InitialCharacters(scratch->text_, &scratch->ids_);
    }
    if (scratch->ids_.size() <= kMaxShortWord) {
      MergeShort(scratch, out);
    } else {
      MergeLong(scratch, out);
    }
  }

  const size_t count = out->size() - first;
  if (cached != nullptr && count <= BpeScratch::CachedWord::kMaxTokens) {
    cached->size = static_cast<uint8_t>(word.size());
    cached->count = static_cast<uint8_t>(count);
    std::memcpy(cached->bytes.data(), word.data(), word.size());
    std::copy(out->begin() + static_cast<std::ptrdiff_t>(first), out->end(),
              cached->tokens.begin());
  }
}

// One token per byte; false when some byte has none.
bool BpeModel::InitialBytes(std::string_view word, std::vector<int32_t>* ids) const {
  if (!continuing_subword_prefix_.empty() || !end_of_word_suffix_.empty()) {
    return false;
  }
  ids->resize(word.size());
  int32_t all = 0;
  for (size_t i = 0; i < word.size(); ++i) {
    all |= (*ids)[i] = byte_ids_[static_cast<uint8_t>(word[i])];
  }
  return all >= 0;
}

// One token per character, its bytes' tokens, or the unknown token. An unknown character is only
// written when the next known one, the next unknown one or the end follows: with fuse_unk a run of
// them is one token. Bytes do not end the run, which puts them before it: the behaviour of
// Hugging Face's tokenizers.
void BpeModel::InitialCharacters(std::string_view word, std::vector<int32_t>* ids) const {
  bool unk_pending = false;
  std::string decorated;
  for (size_t i = 0; i < word.size();) {
    const size_t begin = i;
    i += static_cast<size_t>(Utf8Length(word[i]));
    std::string_view character = word.substr(begin, i - begin);
    const bool with_prefix = begin > 0 && !continuing_subword_prefix_.empty();
    const bool with_suffix = i == word.size() && !end_of_word_suffix_.empty();
    if (with_prefix || with_suffix) {
      decorated = with_prefix ? continuing_subword_prefix_ : "";
      decorated += character;
      decorated += with_suffix ? end_of_word_suffix_ : "";
      character = decorated;
    }
    if (const std::optional<int32_t> id = vocabulary_.Find(character)) {
      if (unk_pending) {
        ids->push_back(*unk_id_);
        unk_pending = false;
      }
      ids->push_back(*id);
    } else if ((!byte_fallback_ || !byte_fallback_->Append(character, ids)) && unk_id_) {
      if (unk_pending && !fuse_unk_) {
        ids->push_back(*unk_id_);
      }
      unk_pending = true;
    }
  }
  if (unk_pending) {
    ids->push_back(*unk_id_);
  }
}

// Merges scratch->ids_ by looking for the best pair again and again: quadratic, for few symbols.
void BpeModel::MergeShort(BpeScratch* scratch, std::vector<int32_t>* out) const {
  std::vector<int32_t>& ids = scratch->ids_;
  std::vector<MergeTable::Merge>& merges = scratch->merges_;  // of ids[i] and ids[i + 1]
  size_t size = ids.size();
  merges.resize(size);
  for (size_t i = 0; i + 1 < size; ++i) {
    merges[i] = merges_.Find(ids[i], ids[i + 1]);
  }
  while (size > 1) {
    size_t best = 0;
    for (size_t i = 1; i + 1 < size; ++i) {
      if (merges[i].rank < merges[best].rank) {
        best = i;
      }
    }
    if (merges[best].rank == MergeTable::kNoRank) {
      break;
    }
    ids[best] = merges[best].result;
    std::copy(ids.begin() + static_cast<std::ptrdiff_t>(best) + 2,
              ids.begin() + static_cast<std::ptrdiff_t>(size),
              ids.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    std::copy(merges.begin() + static_cast<std::ptrdiff_t>(best) + 2,
              merges.begin() + static_cast<std::ptrdiff_t>(size),
              merges.begin() + static_cast<std::ptrdiff_t>(best) + 1);
    --size;
    if (best + 1 < size) {
      merges[best] = merges_.Find(ids[best], ids[best + 1]);
    }
    if (best > 0) {
      merges[best - 1] = merges_.Find(ids[best - 1], ids[best]);
    }
  }
  out->insert(out->end(), ids.begin(), ids.begin() + static_cast<std::ptrdiff_t>(size));
}

// The same with a linked list of symbols and a heap of candidates: n log n.
void BpeModel::MergeLong(BpeScratch* scratch, std::vector<int32_t>* out) const {
  auto& symbols = scratch->symbols_;
  auto& heap = scratch->heap_;
  symbols.clear();
  heap.clear();
  const auto size = static_cast<int32_t>(scratch->ids_.size());
  for (int32_t i = 0; i < size; ++i) {
    symbols.push_back(
        {scratch->ids_[static_cast<size_t>(i)], i - 1, i + 1 < size ? i + 1 : -1, true});
  }
  const auto symbol = [&](int32_t index) -> BpeScratch::Symbol& {
    return symbols[static_cast<size_t>(index)];
  };
  const auto push = [&](int32_t left) {
    const MergeTable::Merge merge = merges_.Find(symbol(left).id, symbol(symbol(left).next).id);
    if (merge.rank != MergeTable::kNoRank) {
      heap.push_back({merge.rank, left, merge.result});
      std::push_heap(heap.begin(), heap.end());
    }
  };
  for (int32_t i = 0; i + 1 < size; ++i) {
    push(i);
  }
  while (!heap.empty()) {
    std::pop_heap(heap.begin(), heap.end());
    const BpeScratch::Candidate top = heap.back();
    heap.pop_back();
    BpeScratch::Symbol& left = symbol(top.left);
    if (!left.alive || left.next < 0) {
      continue;
    }
    BpeScratch::Symbol& right = symbol(left.next);
    if (merges_.Find(left.id, right.id).result != top.result) {
      continue;  // one of the two has merged with something else since
    }
    left.id = top.result;
    left.next = right.next;
    right.alive = false;
    if (left.next >= 0) {
      symbol(left.next).previous = top.left;
      push(top.left);
    }
    if (left.previous >= 0) {
      push(left.previous);
    }
  }
  for (int32_t i = 0; i >= 0; i = symbol(i).next) {
    out->push_back(symbol(i).id);
  }
}

}  // namespace dualfp
