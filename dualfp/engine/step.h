// A step from its planning to its end: the batch that the runner gets, and whose rows and samples
// are in it. As many exist as may be in flight; their memory is allocated once.

#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "dualfp/engine/engine.h"
#include "dualfp/engine/model_runner.h"
#include "dualfp/engine/precision/step_cost_model.h"
#include "dualfp/engine/sequence.h"

namespace dualfp {

// Rows that get their plan from one source. In this order the precisions of neighbours agree most
// often, so that a layer's rows make few ranges.
enum class RowGroup : uint8_t { kPinnedFp16, kDecode, kPrefill, kPinnedFp8 };
inline constexpr size_t kNumRowGroups = 4;
static_assert(kNumRowGroups <= kMaxPlanRanges);

// Tokens of an unpinned request's prompt are prefill, also where one is left; those of its output
// are not, also where several are computed again.
RowGroup GroupOf(const Sequence& sequence);

struct GroupPlan {
  PrecisionPlan plan;
  PrecisionClass precision_class = PrecisionClass::kExact;
  uint64_t tag = 0;  // of the KV blocks that these rows fill
  StepFeatures features;
  int64_t rows = 0;
};

// One scheduled sequence's part; part i is sequence i of the batch.
struct StepPart {
  Sequence* sequence = nullptr;
  uint64_t residency = 0;  // Sequence::residency then: another one has lost what this part computed
  RowGroup group = RowGroup::kDecode;
  int64_t begin = 0;  // first position
  int64_t count = 0;
  int64_t num_drafts = 0;
  // Samples in the batch, from sample_start on: prompt tokens scored, then draws.
  int64_t num_scores = 0;
  int64_t num_draws = 0;
};

struct EngineStep {
  EngineStep(StepBatch batch, int num_layers);

  // What each group's rows are, before their plans are known.
  void CountRows(std::span<Sequence* const> scheduled);

  // Lays out the scheduled sequences, group by group, at the plans that are in `groups`. Sets the
  // runner's sampling states where a sequence draws for the first time in its place.
  void Fill(std::span<Sequence* const> scheduled, ModelRunner* runner);

  GroupPlan& group(RowGroup group) { return groups[static_cast<size_t>(group)]; }
  const GroupPlan& group(RowGroup group) const { return groups[static_cast<size_t>(group)]; }

  StepFeatures features() const;  // of all rows
  StepWork Work() const;
  double Fp8Share() const;  // of layers times rows
  // kMixed where rows differ.
  PrecisionClass OverallClass() const;

  StepBatch batch;
  std::vector<StepPart> parts;
  std::array<GroupPlan, kNumRowGroups> groups;
  StepReport report;

 private:
  void AddPart(Sequence* sequence, RowGroup group, ModelRunner* runner);
  void AddSamples(StepPart* part, int64_t first_row, ModelRunner* runner);
};

}  // namespace dualfp
