#include "dualfp/engine/scheduler.h"

#include <algorithm>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

bool MoreImportantPointer(const Sequence* a, const Sequence* b) { return MoreImportant(*a, *b); }
bool LessImportantPointer(const Sequence* a, const Sequence* b) { return MoreImportant(*b, *a); }

template <typename Less>
void InsertSorted(std::vector<Sequence*>* list, Sequence* sequence, Less less) {
  list->insert(std::lower_bound(list->begin(), list->end(), sequence, less), sequence);
}

template <typename Less>
void EraseSorted(std::vector<Sequence*>* list, Sequence* sequence, Less less) {
  const auto at = std::lower_bound(list->begin(), list->end(), sequence, less);
  CheckInternal(at != list->end() && *at == sequence, "a sequence is not where its state says");
  list->erase(at);
}

}  // namespace

Scheduler::Scheduler(const SchedulerConfig& config, BlockPool* pool)
    : config_(config), pool_(pool), block_tokens_(pool->block_size()) {
  Check(config.max_sequences >= 1, ErrorCode::kInvalidArgument,
        "max_num_seqs must be at least 1, got ", config.max_sequences);
  Check(config.max_tokens >= config.max_sequences, ErrorCode::kInvalidArgument,
        "max_num_batched_tokens (", config.max_tokens, ") must not be below max_num_seqs (",
        config.max_sequences, ")");
  CheckInternal(config.max_logit_rows >= config.max_sequences, "too few logit rows");
  for (int64_t seat = config.max_sequences; seat-- > 0;) {
    free_seats_.push_back(seat);
  }
  running_.reserve(config.max_sequences);
  scheduled_.reserve(config.max_sequences);
  waiting_.reserve(config.max_waiting + config.max_sequences);
  hits_.reserve(pool->num_blocks());
}

void Scheduler::Add(Sequence* sequence) {
  sequence->state = SequenceState::kWaiting;
  InsertSorted(&waiting_, sequence, LessImportantPointer);
}

void Scheduler::Schedule(const CacheTagsByPin& tags, bool cut_at_prompt, bool in_flight) {
  scheduled_.clear();
  token_budget_ = config_.max_tokens;
  logit_budget_ = config_.max_logit_rows;
  fork_budget_ = config_.max_forks;
  cut_at_prompt_ = cut_at_prompt;
  preempted_ = false;
  ScheduleDecodes();
  SchedulePrefills();
  AdmitWaiting(tags);
  ScheduleDrafts();
  CheckInternal(in_flight || !scheduled_.empty() || (running_.empty() && waiting_.empty()),
                "requests are at hand and none can run");
}

void Scheduler::Seat(Sequence* sequence) {
  sequence->seat = free_seats_.back();
  free_seats_.pop_back();
  sequence->has_state = false;
  ++sequence->residency;
  sequence->state = SequenceState::kRunning;
  InsertSorted(&running_, sequence, MoreImportantPointer);
}

void Scheduler::Unseat(Sequence* sequence) {
  EraseSorted(&running_, sequence, MoreImportantPointer);
  free_seats_.push_back(sequence->seat);
  sequence->seat = -1;
  ++sequence->residency;
  for (auto block = sequence->blocks.rbegin(); block != sequence->blocks.rend(); ++block) {
    pool_->Release(*block);
  }
  sequence->blocks.clear();
  sequence->num_computed = 0;
  sequence->num_keyed = 0;
}

void Scheduler::ScheduleDecodes() {
  // Most important first, and victims are the least important: a victim has not been scheduled yet.
  for (size_t i = 0; i < running_.size(); ++i) {
    Sequence* sequence = running_[i];
    const int64_t forks = NumChoicesDrawn(*sequence) - 1;
    if (!IsReady(*sequence) || sequence->num_remaining() != 1 || forks > fork_budget_) {
      continue;
    }
    const int64_t block = sequence->num_computed / pool_->block_size();
    if (block == static_cast<int64_t>(sequence->blocks.size())) {
      if (!MakeRoom(sequence)) {
        return;
      }
      sequence->blocks.push_back(pool_->Allocate());
    } else if (pool_->ref_count(sequence->blocks[block]) > 1) {
      // Shared with another choice of the request: write to a copy. Should the source lose its last
      // holder in this step, then to a preemption, after which nothing is allocated any more.
      if (!MakeRoom(sequence)) {
        return;
      }
      if (pool_->ref_count(sequence->blocks[block]) > 1) {  // MakeRoom may have ended the sharing
        sequence->copy_source = sequence->blocks[block];
        sequence->copy_target = sequence->blocks[block] = pool_->Allocate();
        pool_->Release(sequence->copy_source);
      }
    }
    sequence->num_scheduled = 1;
    scheduled_.push_back(sequence);
    --token_budget_;
    --logit_budget_;
    fork_budget_ -= forks;
  }
}

// Guesses are worth nobody's place: they take what rows and blocks are left over.
void Scheduler::ScheduleDrafts() {
  for (Sequence* sequence : scheduled_) {
    const RequestState& request = *sequence->request;
    // A penalty depends on the tokens before, and so would on guesses.
    if (config_.max_draft_tokens == 0 || request.penalties || sequence->output.empty() ||
        sequence->num_remaining() != 1) {
      continue;
    }
    // One for each running sequence, as for admissions.
    const int64_t spare_blocks =
        std::max<int64_t>(0, pool_->num_free() - static_cast<int64_t>(running_.size()));
    const auto blocks = static_cast<int64_t>(sequence->blocks.size()) + spare_blocks;
    const int64_t count = std::min<int64_t>(
        {config_.max_draft_tokens, request.completion_limit - sequence->output_expected() - 1,
         token_budget_, logit_budget_, blocks * pool_->block_size() - sequence->num_computed - 1});
    if (count <= 0) {
      continue;
    }
    sequence->num_drafts = count;
    sequence->num_scheduled += count;
    token_budget_ -= count;
    logit_budget_ -= count;
    while (std::ssize(sequence->blocks) < BlocksFor(sequence->num_computed + 1 + count)) {
      sequence->blocks.push_back(pool_->Allocate());
    }
  }
}

bool Scheduler::MakeRoom(Sequence* sequence) {
  while (pool_->num_free() == 0) {
    Sequence* victim = running_.back();
    Preempt(victim);
    if (victim == sequence) {
      return false;
    }
  }
  return true;
}

void Scheduler::Preempt(Sequence* sequence) {
  CheckInternal(sequence->num_scheduled == 0, "a scheduled sequence is preempted");
  Unseat(sequence);
  Add(sequence);
  preempted_ = true;
  ++counts_.preemptions;
}

void Scheduler::SchedulePrefills() {
  for (Sequence* sequence : running_) {
    if (IsReady(*sequence) && sequence->num_remaining() > 1) {
      ScheduleChunk(sequence);
    }
  }
}

int64_t Scheduler::LogitRows(const Sequence& sequence, int64_t count) const {
  const RequestState& request = *sequence.request;
  int64_t rows = count == sequence.num_remaining();  // the last row, to sample from
  if (request.scores_per_prompt_token > 0) {
    // Row p scores prompt token p + 1.
    const int64_t begin = std::max(sequence.num_computed, request.num_prompt_scored);
    const int64_t end = std::min(sequence.num_computed + count, request.prompt_size() - 1);
    rows += std::max<int64_t>(0, end - begin);
  }
  return rows;
}

void Scheduler::ScheduleChunk(Sequence* sequence) {
  int64_t count = std::min(sequence->num_remaining(), token_budget_);
  if (cut_at_prompt_ && sequence->num_computed < sequence->request->prompt_size()) {
    count = std::min(count, sequence->request->prompt_size() - sequence->num_computed);
  }
  // A chunk needs at most a logit row for each of its tokens, and needs many only for the sake of
  // prompt logprobs.
  if (LogitRows(*sequence, count) > logit_budget_) {
    count = std::min(count, logit_budget_);
  }
  int64_t forks = NumChoicesDrawn(*sequence) - 1;
  if (count < sequence->num_remaining()) {
    forks = 0;
  } else if (forks > fork_budget_) {
    --count;  // the last token, which they are drawn from, another time
    forks = 0;
  }
  if (count <= 0) {
    return;
  }
  fork_budget_ -= forks;
  sequence->num_scheduled = count;
  scheduled_.push_back(sequence);
  token_budget_ -= count;
  logit_budget_ -= LogitRows(*sequence, count);
}

void Scheduler::AdmitWaiting(const CacheTagsByPin& tags) {
  while (!waiting_.empty() && !preempted_ && token_budget_ > 0 && logit_budget_ > 0 &&
         static_cast<int>(running_.size()) < config_.max_sequences) {
    Sequence* sequence = waiting_.back();
    if (sequence->num_pending > 0) {
      return;  // preempted in a step whose token is still to come
    }
    const auto pin = static_cast<size_t>(sequence->request->request.precision);
    if (!Admit(sequence, tags[pin])) {
      return;  // nothing overtakes what is more important
    }
  }
}

void Scheduler::Tokens(const Sequence& sequence, int64_t block, std::span<const int32_t> yielded) {
  for (int i = 0; i < pool_->block_size(); ++i) {
    const int64_t position = block * pool_->block_size() + i;
    block_tokens_[i] = position < sequence.num_tokens() ? sequence.Token(position)
                                                        : yielded[position - sequence.num_tokens()];
  }
}

void Scheduler::FindCachedPrefix(const Sequence& sequence, const UsableTags& tags) {
  hits_.clear();
  const RequestState& request = *sequence.request;
  // Prompt logprobs need every prompt token's logits, which the cache does not hold.
  const bool unscored =
      request.scores_per_prompt_token > 0 && request.num_prompt_scored < request.prompt_size() - 1;
  if (!pool_->caching() || unscored) {
    return;
  }
  Hash128 parent = pool_->RootKey(request.request.cache_salt, request.cache_class);
  // At least one token is left to compute: its logits are what is wanted.
  const int64_t limit = (sequence.num_tokens() - 1) / pool_->block_size();
  for (int64_t block = 0; block < limit; ++block) {
    Tokens(sequence, block, {});
    const bool in_prompt = (block + 1) * pool_->block_size() <= request.prompt_size();
    const bool across = !in_prompt && block * pool_->block_size() < request.prompt_size();
    if (across && tags.prompt != tags.output) {
      return;
    }
    const CacheTags& usable = in_prompt ? tags.prompt : tags.output;
    Hit hit{-1, {}};
    for (int i = 0; i < usable.count && hit.block < 0; ++i) {
      const Hash128 key = pool_->ChildKey(parent, usable.tags[i], block_tokens_);
      hit = {pool_->Find(key, block_tokens_), key};
    }
    if (hit.block < 0) {
      return;
    }
    hits_.push_back(hit);
    parent = hit.key;
  }
}

bool Scheduler::Admit(Sequence* sequence, const UsableTags& tags) {
  FindCachedPrefix(*sequence, tags);
  const int64_t needed = BlocksFor(sequence->num_tokens()) - static_cast<int64_t>(hits_.size());
  const auto idle_hits = std::count_if(
      hits_.begin(), hits_.end(), [&](const Hit& hit) { return pool_->ref_count(hit.block) == 0; });
  // Each running sequence will soon want a block: to admit into those would only preempt again.
  const auto reserve = static_cast<int64_t>(running_.size());
  if (pool_->num_free() - idle_hits < needed + reserve) {
    return false;
  }

  for (const Hit& hit : hits_) {
    pool_->Ref(hit.block);
    sequence->blocks.push_back(hit.block);
  }
  for (int64_t i = 0; i < needed; ++i) {
    sequence->blocks.push_back(pool_->Allocate());
  }
  sequence->num_computed = static_cast<int64_t>(hits_.size()) * pool_->block_size();
  sequence->num_keyed = static_cast<int64_t>(hits_.size());
  sequence->key = hits_.empty() ? pool_->RootKey(sequence->request->request.cache_salt,
                                                 sequence->request->cache_class)
                                : hits_.back().key;
  counts_.cache_queries += sequence->num_tokens();
  counts_.cache_hits += sequence->num_computed;

  waiting_.pop_back();
  Seat(sequence);
  ScheduleChunk(sequence);
  return true;
}

void Scheduler::Launched(Sequence* sequence) {
  sequence->num_computed += sequence->num_scheduled;
  sequence->num_scheduled = 0;
  sequence->num_drafts = 0;
  sequence->copy_source = sequence->copy_target = -1;
}

void Scheduler::Complete(Sequence* sequence, int64_t begin, int64_t end, uint64_t precision_tag,
                         std::span<const int32_t> yielded) {
  const int64_t block_size = pool_->block_size();
  if (!pool_->caching()) {
    return;
  }
  // The open block keeps its tag if it was begun at the same plan.
  uint64_t tag = begin % block_size == 0 || sequence->open_tag == precision_tag
                     ? precision_tag
                     : kMixedPrecisionTag;
  for (; (sequence->num_keyed + 1) * block_size <= end; ++sequence->num_keyed) {
    Tokens(*sequence, sequence->num_keyed, yielded);
    sequence->key = pool_->ChildKey(sequence->key, tag, block_tokens_);
    const int32_t block = sequence->blocks[sequence->num_keyed];
    pool_->Register(block, sequence->key, block_tokens_);
    tag = precision_tag;
  }
  sequence->open_tag = tag;
}

void Scheduler::Fork(const Sequence& parent, Sequence* child) {
  if (parent.state != SequenceState::kRunning || free_seats_.empty()) {
    Add(child);
    return;
  }
  for (const int32_t block : parent.blocks) {
    pool_->Ref(block);
    child->blocks.push_back(block);
  }
  child->num_computed = parent.num_computed;
  child->num_keyed = parent.num_keyed;
  child->key = parent.key;
  child->open_tag = parent.open_tag;
  Seat(child);
}

void Scheduler::Finish(Sequence* sequence, bool poisoned) {
  if (poisoned) {
    for (const int32_t block : sequence->blocks) {
      pool_->Unregister(block);
    }
  }
  sequence->num_scheduled = 0;
  sequence->num_drafts = 0;
  sequence->copy_source = sequence->copy_target = -1;
  if (sequence->state == SequenceState::kRunning) {
    Unseat(sequence);
  } else if (sequence->state == SequenceState::kWaiting) {
    EraseSorted(&waiting_, sequence, LessImportantPointer);
  }
  sequence->state = SequenceState::kFinished;
}

}  // namespace dualfp
