// One forward pass: what a scheduler fills is what a decoder reads.
//
// All arrays lie in one block of memory at offsets that depend on the limits alone, so that
//   * a device's mirror is one copy of bytes [0, used_bytes()), and what the step yields comes back
//     in one copy of result_bytes() from result_offset() on;
//   * an array has the same address in every step, whatever its rows, sequences or block tables:
//     a step that was captured as a graph can be launched again.
// Filling allocates nothing. The block table, the only large input, comes last
// of the inputs.

#pragma once

#include <array>
#include <cstdint>
#include <span>

#include "dualfp/io/hf_config.h"
#include "dualfp/kernels/sample.h"
#include "dualfp/model/precision_plan.h"
#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

struct BatchLimits {
  int64_t max_rows = 0;       // tokens of a step
  int64_t max_sequences = 0;  // of a step
  int64_t max_logit_rows = 0;
  int64_t max_context = 0;  // tokens of a sequence
  int64_t block_size = 16;  // tokens of a KV block
  int64_t max_samples = 0;  // tokens drawn or scored
  int64_t max_scores = 0;   // log-probabilities of tokens
};

// Block `source` is copied to `target` in every layer before the forward pass. Targets are distinct
// and no block is both a source and a target.
struct BlockCopy {
  int32_t source = 0;
  int32_t target = 0;
};

// Rows [begin, end) of a step compute as `plan` says. The host decides by it what it launches, so
// it is not part of the block.
struct PlanRange {
  int64_t begin = 0;
  int64_t end = 0;
  const PrecisionPlan* plan = nullptr;
};

// Pin and prefill against decode: four plans at most meet in one step.
inline constexpr size_t kMaxPlanRanges = 4;

// The arrays as an op takes them, in host memory or a device's mirror of it.
struct BatchTensors {
  ConstTensorView token_ids;       // I32 [rows]
  ConstTensorView token_sources;   // I32 [rows]: SetTokenSource(), or -1
  ConstTensorView positions;       // I32 [rows], from 0 in each sequence
  ConstTensorView slots;           // I32 [rows]: block * block_size + place, to store KV at
  ConstTensorView rope_rows;       // I32 [rows], a row of inv_freq
  ConstTensorView query_start;     // I32 [sequences + 1]
  ConstTensorView context_length;  // I32 [sequences], including this step's rows
  ConstTensorView block_table;     // I32 [sequences, blocks of max_context]; past a context: any
  ConstTensorView logit_rows;      // I32 [logit_rows]
  ConstTensorView inv_freq;        // F32 [1 or max_sequences, rotary_dim / 2]
};

// Sequence s owns rows [query_start[s], query_start[s + 1]), the last of its context_length[s]
// tokens.
class StepBatch {
 public:
  StepBatch() = default;

  // `rope` may be null (nothing turns), else it outlives the batch. Where frequencies follow from a
  // sequence's length (rope_frequencies.h), AddSequence() fills in each sequence's own. The block
  // is memory of the host that copies to and from `device` run on their own from.
  StepBatch(const BatchLimits& limits, const RopeConfig* rope, Device device = {});

  void Clear();

  // The next sequence: `count` tokens from `position` on, everything before which is in the cache,
  // with blocks for position + count tokens. `rope_length`: the tokens that it may reach, the same
  // in each of its steps. Returns where their ids go; to be written before the step runs.
  // Throws kInvalidArgument where a limit or the blocks do not allow it.
  std::span<int32_t> AddSequence(int64_t position, int64_t count, std::span<const int32_t> blocks,
                                 int64_t rope_length = 0);
  void AddSequence(std::span<const int32_t> tokens, int64_t position,
                   std::span<const int32_t> blocks, int64_t rope_length = 0);

  // The row's token is not known on the host yet: it is the one that sample `sample` of the step
  // launched before this one yields. Where that is kNoToken, any: nobody will ask.
  void SetTokenSource(int64_t row, int64_t sample);

  // Logits of this row are wanted. Any order. Throws kInvalidArgument beyond the limit.
  void AddLogitRow(int64_t row);

  // Of all rows so far added.
  void AddAllLogitRows();

  // The next sample of the last sequence, at its logit row; samples that score given tokens come
  // first, then draws. Sets score_begin. Throws kInvalidArgument beyond the limits.
  void AddSample(SampleRow sample);

  // Ascending, covering all rows. Throws kInvalidArgument beyond kMaxPlanRanges.
  void AddPlan(const PlanRange& range);

  // All rows compute at one plan, which outlives the step.
  void SetPlan(const PrecisionPlan* plan);

  // Throws kInvalidArgument beyond max_sequences.
  void AddCopy(BlockCopy copy);

  const BatchLimits& limits() const { return limits_; }
  int64_t rows() const { return rows_; }
  int64_t sequences() const { return sequences_; }
  int64_t num_logit_rows() const { return logit_rows_; }
  int64_t num_samples() const { return samples_; }

  std::span<const int32_t> token_ids() const { return Array(kTokenIds, rows_); }
  std::span<const int32_t> token_sources() const { return Array(kTokenSources, rows_); }
  std::span<const int32_t> positions() const { return Array(kPositions, rows_); }
  std::span<const int32_t> slots() const { return Array(kSlots, rows_); }
  std::span<const int32_t> query_start() const { return Array(kQueryStart, sequences_ + 1); }
  std::span<const int32_t> context_length() const { return Array(kContextLength, sequences_); }
  std::span<const int32_t> logit_rows() const { return Array(kLogitRows, logit_rows_); }
  std::span<const int32_t> blocks(int64_t sequence) const {
    return Array(kBlockTable, (sequence + 1) * stride_).subspan(sequence * stride_);
  }
  std::span<const BlockCopy> copies() const;
  std::span<const PlanRange> plans() const { return std::span(plans_).first(num_plans_); }

  // Samples [sample_start()[s], sample_start()[s + 1]) belong to sequence s.
  std::span<const int32_t> sample_start() const { return Array(kSampleStart, sequences_ + 1); }
  std::span<const SampleRow> samples() const;

  // For a runner: drafted tokens, and those of token_sources().
  std::span<int32_t> mutable_token_ids() { return MutableArray(kTokenIds, rows_); }
  // Writes the tokens of rows with a source, from what the step before yielded.
  void ResolveTokens(std::span<const int32_t> previous);

  // What the step yields, written by the runner. Valid until Clear().
  // A token for each sample, or kNoToken.
  std::span<const int32_t> tokens() const { return Array(kTokens, samples_); }
  std::span<int32_t> mutable_tokens() { return MutableArray(kTokens, samples_); }
  // How many of a sequence's draws count: all but for drafts, where those after the first draw that
  // differs from its draft do not.
  std::span<const int32_t> yielded() const { return Array(kYielded, sequences_); }
  std::span<int32_t> mutable_yielded() { return MutableArray(kYielded, sequences_); }
  // Of sample i: [score_begin, score_begin + num_scores).
  std::span<const ScoredToken> scores() const;
  std::span<ScoredToken> mutable_scores();

  // Bytes [0, used_bytes()) of data() are what a device needs of this step.
  const void* data() const { return memory_.data(); }
  int64_t used_bytes() const;
  int64_t result_offset() const { return offsets_[kTokens]; }
  int64_t result_bytes() const;

  // The arrays of this step in a block that begins at `base`: data(), or a mirror of it.
  BatchTensors TensorsAt(const void* base, Device device = {}) const;
  BatchTensors tensors() const { return TensorsAt(data()); }

 private:
  enum Section {
    kTokenIds,
    kTokenSources,
    kPositions,
    kSlots,
    kRopeRows,
    kQueryStart,
    kContextLength,
    kLogitRows,
    kCopies,
    kSampleStart,
    kSamples,
    kFrequencies,
    kBlockTable,
    kTokens,
    kYielded,
    kScores,
    kNumSections
  };

  int32_t* At(Section section) const {
    return reinterpret_cast<int32_t*>(static_cast<char*>(memory_.data()) + offsets_[section]);
  }
  std::span<int32_t> MutableArray(Section section, int64_t size) {
    return {At(section), static_cast<size_t>(size)};
  }
  std::span<const int32_t> Array(Section section, int64_t size) const {
    return {At(section), static_cast<size_t>(size)};
  }

  BatchLimits limits_;
  const RopeConfig* rope_ = nullptr;
  bool rope_by_length_ = false;
  int64_t half_ = 0;    // frequencies of a set
  int64_t stride_ = 0;  // of the block table
  std::array<int64_t, kNumSections> offsets_{};
  Buffer memory_;

  int64_t rows_ = 0;
  int64_t sequences_ = 0;
  int64_t logit_rows_ = 0;
  int64_t copies_ = 0;
  int64_t samples_ = 0;
  int64_t scores_ = 0;
  std::array<PlanRange, kMaxPlanRanges> plans_;
  size_t num_plans_ = 0;
};

}  // namespace dualfp
