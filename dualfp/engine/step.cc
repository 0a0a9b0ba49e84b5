#include "dualfp/engine/step.h"

#include <algorithm>
#include <utility>

namespace dualfp {

RowGroup GroupOf(const Sequence& sequence) {
  switch (sequence.request->request.precision) {
    case PrecisionPin::kExact:
      return RowGroup::kPinnedFp16;
    case PrecisionPin::kFp8:
      return RowGroup::kPinnedFp8;
    case PrecisionPin::kAuto:
      break;
  }
  return sequence.num_computed < sequence.request->prompt_size() ? RowGroup::kPrefill
                                                                 : RowGroup::kDecode;
}

EngineStep::EngineStep(StepBatch batch_in, int num_layers) : batch(std::move(batch_in)) {
  parts.reserve(batch.limits().max_sequences);
  for (size_t i = 0; i < kNumRowGroups; ++i) {
    const bool fp8 = static_cast<RowGroup>(i) == RowGroup::kPinnedFp8;
    groups[i].plan = PrecisionPlan::Uniform(num_layers, fp8 ? Precision::kFp8 : Precision::kExact);
  }
}

void EngineStep::CountRows(std::span<Sequence* const> scheduled) {
  for (GroupPlan& each : groups) {
    each.features = {};
    each.rows = 0;
  }
  for (const Sequence* sequence : scheduled) {
    GroupPlan& own = group(GroupOf(*sequence));
    own.rows += sequence->num_scheduled;
    own.features.context_tokens += sequence->num_computed + sequence->num_scheduled;
    if (sequence->num_scheduled == 1 + sequence->num_drafts) {
      own.features.decode_sequences += sequence->num_scheduled;
    } else {
      own.features.prefill_tokens += sequence->num_scheduled;
    }
  }
}

StepFeatures EngineStep::features() const {
  StepFeatures sum;
  for (const GroupPlan& each : groups) {
    sum.prefill_tokens += each.features.prefill_tokens;
    sum.decode_sequences += each.features.decode_sequences;
    sum.context_tokens += each.features.context_tokens;
  }
  return sum;
}

StepWork EngineStep::Work() const {
  StepWork work;
  for (const GroupPlan& each : groups) {
    if (each.rows > 0) {
      work.Add(each.features, Fp8Fraction(each.plan));
    }
  }
  return work;
}

double EngineStep::Fp8Share() const {
  double fp8 = 0.0;
  for (const GroupPlan& each : groups) {
    fp8 += Fp8Fraction(each.plan) * static_cast<double>(each.rows);
  }
  return fp8 / static_cast<double>(std::max<int64_t>(1, batch.rows()));
}

PrecisionClass EngineStep::OverallClass() const {
  const StepPart& first = parts.front();
  const PrecisionClass one = group(first.group).precision_class;
  const bool same = std::ranges::all_of(
      groups, [&](const GroupPlan& each) { return each.rows == 0 || each.precision_class == one; });
  return same ? one : PrecisionClass::kMixed;
}

void EngineStep::Fill(std::span<Sequence* const> scheduled, ModelRunner* runner) {
  batch.Clear();
  parts.clear();
  for (size_t lead = 0; lead < kNumRowGroups; ++lead) {
    // Groups of one plan are one range, in the scheduler's order.
    const PrecisionPlan& plan = groups[lead].plan;
    const auto same = [&](const GroupPlan& other) { return other.plan == plan; };
    if (std::any_of(groups.begin(), groups.begin() + lead, same)) {
      continue;
    }
    const int64_t begin = batch.rows();
    for (Sequence* sequence : scheduled) {
      if (const RowGroup own = GroupOf(*sequence); same(group(own))) {
        AddPart(sequence, own, runner);
      }
    }
    if (batch.rows() > begin) {
      batch.AddPlan({begin, batch.rows(), &plan});
    }
  }
}

void EngineStep::AddPart(Sequence* sequence, RowGroup group, ModelRunner* runner) {
  const RequestState& request = *sequence->request;
  StepPart part;
  part.sequence = sequence;
  part.residency = sequence->residency;
  part.group = group;
  part.begin = sequence->num_computed;
  part.count = sequence->num_scheduled;
  part.num_drafts = sequence->num_drafts;
  const int64_t first_row = batch.rows();
  const std::span<int32_t> tokens =
      batch.AddSequence(part.begin, part.count, sequence->blocks, request.max_length());
  for (int64_t i = 0; i < part.count; ++i) {
    const int64_t position = part.begin + i;
    if (position < sequence->num_tokens()) {
      tokens[i] = sequence->Token(position);
    } else if (position < sequence->num_expected()) {
      tokens[i] = 0;
      batch.SetTokenSource(first_row + i, sequence->pending_sample);
    } else {
      tokens[i] = kDraftedByRunner;
    }
  }
  if (sequence->copy_source >= 0) {
    batch.AddCopy({sequence->copy_source, sequence->copy_target});
  }
  AddSamples(&part, first_row, runner);
  parts.push_back(part);
}

void EngineStep::AddSamples(StepPart* part, int64_t first_row, ModelRunner* runner) {
  Sequence* sequence = part->sequence;
  RequestState& request = *sequence->request;
  const int64_t end = part->begin + part->count;
  const auto add = [&](SampleRow sample) {
    sample.logit_row = static_cast<int32_t>(batch.num_logit_rows() - 1);
    batch.AddSample(sample);
  };
  if (request.scores_per_prompt_token > 0) {
    // The row of position p scores prompt token p + 1, once.
    for (int64_t position = std::max(part->begin, request.num_prompt_scored);
         position < std::min(end, request.prompt_size() - 1); ++position) {
      batch.AddLogitRow(first_row + position - part->begin);
      SampleRow score;
      score.token = request.request.prompt[position + 1];
      score.num_scores = request.scores_per_prompt_token;
      add(score);
      ++part->num_scores;
    }
    request.num_prompt_scored += part->num_scores;
  }
  const int64_t last_known_row = first_row + part->count - part->num_drafts - 1;
  if (end - part->num_drafts != sequence->num_expected()) {
    return;
  }
  const bool fresh = request.needs_state && !sequence->has_state;
  if (fresh) {
    runner->SetSamplingState(sequence->seat, {.prompt = request.request.prompt,
                                              .output = sequence->output,
                                              .banned = request.stop_ids,
                                              .bias = request.bias,
                                              .penalties = request.penalties});
    sequence->has_state = true;
  }
  const auto draw = [&](const Sequence& drawn, int64_t position) {
    SampleRow sample = drawn.draw;
    sample.position = static_cast<uint64_t>(position);
    sample.ban = position < request.request.sampling.min_tokens ? 1 : 0;
    sample.state = request.needs_state ? static_cast<int32_t>(sequence->seat) : -1;
    sample.num_scores = request.scores_per_token;
    return sample;
  };
  const int64_t position = sequence->output_expected();
  for (int64_t i = 0; i <= part->num_drafts; ++i) {
    const int64_t row = last_known_row + i;
    batch.AddLogitRow(row);
    SampleRow sample = draw(*sequence, position + i);
    sample.append_row = request.needs_state && !fresh && i == 0 ? static_cast<int32_t>(row) : -1;
    sample.draft_row = i < part->num_drafts ? static_cast<int32_t>(row + 1) : -1;
    add(sample);
    ++part->num_draws;
  }
  // Choices to be born draw from the same logits, after the same prompt.
  for (int choice = 1; choice < NumChoicesDrawn(*sequence); ++choice) {
    add(draw(request.choices[choice], position));
    ++part->num_draws;
  }
}

}  // namespace dualfp
