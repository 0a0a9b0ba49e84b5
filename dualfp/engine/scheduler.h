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
  int64_t max_forks = 0;       // choices born in a step; at least those of one request
  int max_draft_tokens = 0;    // of a sequence and step
  int max_waiting = 0;         // room to reserve
};

// Tags of cached blocks.
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

  friend bool operator==(const CacheTags&, const CacheTags&) = default;
};

// Those that a request may use: they are what it would compute its tokens at itself.
struct UsableTags {
  CacheTags prompt;
  CacheTags output;
};
using CacheTagsByPin = std::array<UsableTags, 3>;  // by PrecisionPin

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
  // for that many more tokens. Empty only when nothing waits or runs, or, with `in_flight` steps,
  // when all have to wait for these. With `cut_at_prompt` no sequence computes tokens of its prompt
  // and of its output in one step.
  void Schedule(const CacheTagsByPin& tags, bool cut_at_prompt, bool in_flight);
  std::span<Sequence* const> scheduled() const { return scheduled_; }

  // The step has been launched: the sequence is where it will be once it has run.
  void Launched(Sequence* sequence);

  // Of a running sequence, tokens [begin, end) have been computed at a plan with this tag: full
  // blocks enter the cache. `yielded`: what the step adds to its output, where that reaches into
  // [begin, end).
  void Complete(Sequence* sequence, int64_t begin, int64_t end, uint64_t precision_tag,
                std::span<const int32_t> yielded);

  // `child` starts where `parent` is, sharing all its blocks, or, if no place is free or the parent
  // has lost its own, waits.
  void Fork(const Sequence& parent, Sequence* child);

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
  };

  static bool IsReady(const Sequence& sequence) {
    return !sequence.held && sequence.output_expected() < sequence.request->completion_limit;
  }
  void ScheduleDecodes();
  void ScheduleDrafts();
  void Seat(Sequence* sequence);
  void Unseat(Sequence* sequence);
  void SchedulePrefills();
  void AdmitWaiting(const CacheTagsByPin& tags);
  bool Admit(Sequence* sequence, const UsableTags& tags);
  void Preempt(Sequence* sequence);
  // False if `sequence` itself had to give way.
  bool MakeRoom(Sequence* sequence);
  void FindCachedPrefix(const Sequence& sequence, const UsableTags& tags);
  void ScheduleChunk(Sequence* sequence);
  int64_t LogitRows(const Sequence& sequence, int64_t count) const;
  int64_t BlocksFor(int64_t tokens) const {
    return (tokens + pool_->block_size() - 1) / pool_->block_size();
  }
  // To block_tokens_; `yielded`: tokens that are about to follow the sequence's.
  void Tokens(const Sequence& sequence, int64_t block, std::span<const int32_t> yielded);

  SchedulerConfig config_;
  BlockPool* pool_;
  SchedulerCounts counts_;

  std::vector<Sequence*> running_;
  std::vector<Sequence*> waiting_;
  std::vector<Sequence*> scheduled_;
  std::vector<int64_t> free_seats_;
  int64_t token_budget_ = 0;
  int64_t logit_budget_ = 0;
  int64_t fork_budget_ = 0;
  bool cut_at_prompt_ = false;
  bool preempted_ = false;  // in this step

  std::vector<Hit> hits_;
  std::vector<int32_t> block_tokens_;
};

}  // namespace dualfp
