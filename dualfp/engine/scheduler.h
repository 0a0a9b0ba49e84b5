// Which sequences run in a step, and with how many tokens each. README.md, "Blocks", has the rules.

#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dualfp/engine/block_pool.h"
#include "dualfp/engine/sequence.h"

namespace dualfp {

struct SchedulerConfig {
  int64_t max_tokens = 0;      // rows of a step; at least max_sequences
  int max_sequences = 0;       // of a step, and of the running set
  int64_t max_logit_rows = 0;  // at least max_sequences
  int max_waiting = 0;         // room to reserve
};

// Tags of cached blocks that a request may use, by its PrecisionPin.
struct CacheTags {
  std::array<uint64_t, 3> tags{};
  int count = 0;

  void Add(uint64_t tag) {
    for (int i = 0; i < count; ++i) {
      if (tags[i] == tag) {
        return;
      }
    }
    tags[count++] = tag;
  }
};
using CacheTagsByPin = std::array<CacheTags, 3>;

struct SchedulerCounts {
  int64_t preemptions = 0;
  int64_t cache_queries = 0;  // tokens
  int64_t cache_hits = 0;
};

class Scheduler {
 public:
  Scheduler(const SchedulerConfig& config, BlockPool* pool);

  // The sequence waits, from its beginning.
  void Add(Sequence* sequence);

  // Chooses the next step: scheduled(), decodes first, each with num_scheduled set and with blocks
  // for that many more tokens. Empty only when nothing waits or runs.
  void Schedule(const CacheTagsByPin& tags);
  std::span<Sequence* const> scheduled() const { return scheduled_; }

  // The step has run at a plan with this tag: num_computed advances, full blocks enter the cache.
  void Complete(Sequence* sequence, uint64_t precision_tag);

  // `child` starts where `parent` is, sharing all its blocks, or, if no place is free, waits.
  // True if it runs.
  bool Fork(const Sequence& parent, Sequence* child);

  // Takes the sequence out, from wherever it is, and frees its blocks. Those of a poisoned one (its
  // step failed, or its logits were NaN) leave the prefix cache.
  void Finish(Sequence* sequence, bool poisoned = false);

  // Most important first.
  std::span<Sequence* const> running() const { return running_; }
  // Most important last.
  std::span<Sequence* const> waiting() const { return waiting_; }

  const SchedulerConfig& config() const { return config_; }
  const SchedulerCounts& counts() const { return counts_; }

 private:
  struct Hit {
    int32_t block;
    Hash128 key;
    uint64_t tag;
  };

  void ScheduleDecodes();
  void SchedulePrefills();
  void AdmitWaiting(const CacheTagsByPin& tags);
  bool Admit(Sequence* sequence, const CacheTags& tags);
  void Preempt(Sequence* sequence);
  // False if `sequence` itself had to give way.
  bool MakeRoom(Sequence* sequence);
  void FindCachedPrefix(const Sequence& sequence, const CacheTags& tags);
  void ScheduleChunk(Sequence* sequence);
  int64_t LogitRows(const Sequence& sequence, int64_t count) const;
  void ReleaseBlocks(Sequence* sequence);
  int64_t BlocksFor(int64_t tokens) const {
    return (tokens + pool_->block_size() - 1) / pool_->block_size();
  }
  void Tokens(const Sequence& sequence, int64_t block);

  SchedulerConfig config_;
  BlockPool* pool_;
  SchedulerCounts counts_;

  std::vector<Sequence*> running_;
  std::vector<Sequence*> waiting_;
  std::vector<Sequence*> scheduled_;
  int64_t token_budget_ = 0;
  int64_t logit_budget_ = 0;
  bool preempted_ = false;  // in this step

  std::vector<Hit> hits_;
  std::vector<int32_t> block_tokens_;
};

}  // namespace dualfp
