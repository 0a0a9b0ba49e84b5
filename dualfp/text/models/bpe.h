// Byte-pair encoding (Sennrich et al., arXiv 1508.07909) as tokenizer.json's "model" of type BPE
// describes it, with Hugging Face tokenizers' semantics.

#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/text/models/merge_table.h"
#include "dualfp/text/models/model.h"

namespace dualfp {

class BpeScratch final : public ModelScratch {
 public:
  BpeScratch();

 private:
  friend class BpeModel;

  // A word and its tokens, remembered in one cache line; direct-mapped by the word's hash.
  struct CachedWord {
    static constexpr size_t kMaxBytes = 34;
    static constexpr size_t kMaxTokens = 7;
    uint8_t size;  // 0: free
    uint8_t count;
    std::array<char, kMaxBytes> bytes;
    std::array<int32_t, kMaxTokens> tokens;
  };
  static_assert(sizeof(CachedWord) == 64);

  struct Symbol {
    int32_t id;
    int32_t previous;  // index; -1: none
    int32_t next;
    bool alive;
  };
  struct Candidate {
    uint32_t rank;
    int32_t left;  // index of the left symbol
    int32_t result;
    // Reversed: std::*_heap puts the largest first, and the lowest rank, then the leftmost pair,
    // merges first.
    bool operator<(const Candidate& other) const {
      return rank != other.rank ? rank > other.rank : left > other.left;
    }
  };

  std::vector<CachedWord> cache_;
  std::vector<int32_t> ids_;
  std::vector<MergeTable::Merge> merges_;
  std::vector<Symbol> symbols_;
  std::vector<Candidate> heap_;
  std::string text_;
};

class BpeModel final : public TokenModel {
 public:
  // `byte_level`: words are bytes, to be read in GPT-2's alphabet. Throws kUnsupported for dropout,
  // and kInvalidFile naming the field of what is inconsistent.
  BpeModel(const JsonFields& fields, bool byte_level);

  std::unique_ptr<ModelScratch> NewScratch() const override;
  void Encode(std::string_view word, ModelScratch* scratch,
              std::vector<int32_t>* out) const override;

 private:
  void LoadMerges(const JsonFields& fields);
  void AddMerge(const JsonFields& fields, size_t rank, std::string_view left,
                std::string_view right);
  void FindWordBoundary();

  void EncodeUncached(std::string_view word, BpeScratch* scratch, std::vector<int32_t>* out) const;
  bool InitialBytes(std::string_view word, std::vector<int32_t>* ids) const;
  void InitialCharacters(std::string_view word, std::vector<int32_t>* ids) const;
  void MergeShort(BpeScratch* scratch, std::vector<int32_t>* out) const;
  void MergeLong(BpeScratch* scratch, std::vector<int32_t>* out) const;

  bool byte_level_;
  bool fuse_unk_ = false;
  bool ignore_merges_ = false;
  std::optional<int32_t> unk_id_;
  std::string continuing_subword_prefix_;
  std::string end_of_word_suffix_;
  // Cutting a word before this string, where something else precedes it, changes nothing: no
  // token spans the cut. Empty: not known to hold.
  std::string word_boundary_;

  // With byte_level: the vocabulary by bytes instead of by their characters, for ignore_merges.
  VocabularyTable byte_vocabulary_;
  MergeTable merges_;
  std::array<int32_t, 256> byte_ids_;  // byte_level: the token of a single byte, or -1
  std::optional<ByteFallback> byte_fallback_;
};

}  // namespace dualfp
