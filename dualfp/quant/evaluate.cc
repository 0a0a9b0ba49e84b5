#include "dualfp/quant/evaluate.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

// Rows in one step, and bytes of one subject's logits at a time.
constexpr int64_t kMaxChunk = 512;
constexpr int64_t kMaxLogitBytes = int64_t{64} << 20;

double LogSumExp(std::span<const float> x) {
  const float largest = *std::max_element(x.begin(), x.end());
  double sum = 0;
  for (const float value : x) {
    sum += std::exp(double{value} - largest);
  }
  return largest + std::log(sum);
}

// One subject's key-value cache for a window, and its last logits.
struct Reader {
  Subject subject;
  KvCache cache;
  StepBatch batch;
  std::vector<float> logits;
};

// The rows of a step whose logits are wanted, and the token that each of them should predict.
struct Targets {
  std::vector<int32_t> rows;
  std::vector<int32_t> tokens;
};

Targets TargetsOf(std::span<const int32_t> tokens, const EvaluationWindow& window, int64_t begin,
                  int64_t end) {
  Targets targets;
  for (int64_t i = begin; i < end; ++i) {
    if (i + 1 >= window.scored && i + 1 < window.end) {
      targets.rows.push_back(static_cast<int32_t>(i - begin));
      targets.tokens.push_back(tokens[i + 1]);
    }
  }
  return targets;
}

int64_t ChunkSize(std::span<const Subject> subjects, int64_t vocabulary) {
  int64_t chunk = std::min(kMaxChunk, std::max<int64_t>(1, kMaxLogitBytes / (4 * vocabulary)));
  for (const Subject& subject : subjects) {
    const DecoderLimits& limits = subject.decoder->options().limits;
    chunk = std::min({chunk, limits.max_tokens, limits.max_logit_rows});
  }
  return chunk;
}

}  // namespace

std::vector<EvaluationWindow> SlidingWindows(int64_t num_tokens, int64_t context, int64_t stride) {
  Check(num_tokens >= 2, ErrorCode::kInvalidArgument, "a text of ", num_tokens,
        " tokens cannot be scored; two are needed");
  Check(context >= 2 && 1 <= stride && stride <= context, ErrorCode::kInvalidArgument,
        "windows of ", context, " tokens that advance by ", stride,
        "; at least 2 and an advance of at most the window were expected");
  std::vector<EvaluationWindow> windows;
  int64_t scored = 1;
  for (int64_t begin = 0; scored < num_tokens; begin += stride) {
    const int64_t end = std::min(num_tokens, begin + context);
    // A window predicts nothing about its own first token.
    scored = std::max(scored, begin + 1);
    if (scored < end) {
      windows.push_back({begin, end, scored});
    }
    scored = end;
  }
  return windows;
}

LogitRowComparison CompareLogitRows(std::span<const float> first, std::span<const float> second) {
  const double first_norm = LogSumExp(first);
  const double second_norm = LogSumExp(second);
  LogitRowComparison row;
  for (size_t i = 0; i < first.size(); ++i) {
    const double log_p = first[i] - first_norm;
    row.kl += std::exp(log_p) * (log_p - (second[i] - second_norm));
    row.largest_difference =
        std::max(row.largest_difference, std::abs(double{first[i]} - second[i]));
  }
  row.same_top = std::max_element(first.begin(), first.end()) - first.begin() ==
                 std::max_element(second.begin(), second.end()) - second.begin();
  return row;
}

std::vector<TokenScores> Evaluate(const Context& context, DType cache_dtype,
                                  std::span<const int32_t> tokens,
                                  std::span<const EvaluationWindow> windows,
                                  std::span<const Subject> subjects,
                                  const std::function<void(int64_t done)>& progress) {
  CheckInternal(!subjects.empty(), "an evaluation of nothing");
  const int64_t vocabulary = subjects.front().decoder->model().config.vocab_size;
  int64_t longest = 0;
  int64_t total = 0;
  for (const EvaluationWindow& window : windows) {
    longest = std::max(longest, window.end - window.begin);
    total += window.end - window.scored;
  }
  std::vector<Reader> readers;
  std::vector<TokenScores> scores(subjects.size());
  for (size_t s = 0; s < subjects.size(); ++s) {
    const Model& model = subjects[s].decoder->model();
    Check(model.config.vocab_size == vocabulary, ErrorCode::kInvalidArgument,
          "models with vocabularies of ", vocabulary, " and ", model.config.vocab_size,
          " tokens cannot be compared");
    readers.push_back({.subject = subjects[s],
                       .cache = KvCache(model.KvCacheFor(cache_dtype, KvBlocksFor(longest))),
                       .batch = subjects[s].decoder->NewBatch(),
                       .logits = {}});
    scores[s].loss.resize(total);
    if (s > 0) {
      scores[s].kl.resize(total);
      scores[s].same_top.resize(total);
    }
  }
  std::vector<int32_t> blocks(KvBlocksFor(longest));
  std::iota(blocks.begin(), blocks.end(), 0);
  const int64_t chunk = ChunkSize(subjects, vocabulary);

  int64_t done = 0;
  for (const EvaluationWindow& window : windows) {
    for (int64_t begin = window.begin; begin < window.end; begin += chunk) {
      const int64_t end = std::min(window.end, begin + chunk);
      const Targets targets = TargetsOf(tokens, window, begin, end);
      const auto rows = static_cast<int64_t>(targets.rows.size());
      for (Reader& reader : readers) {
        reader.logits.resize(rows * vocabulary);
        reader.batch.Clear();
        reader.batch.AddSequence(tokens.subspan(begin, end - begin), begin - window.begin, blocks,
                                 window.end - window.begin);
        for (const int32_t row : targets.rows) {
          reader.batch.AddLogitRow(row);
        }
        reader.batch.SetPlan(reader.subject.plan);
        reader.subject.decoder->Forward(context, reader.batch, reader.cache,
                                        {reader.logits.data(), DType::kF32, {rows, vocabulary}});
      }
      context.threads->ParallelFor(rows, 1, [&](int64_t row, int64_t last, int) {
        for (; row < last; ++row) {
          const auto logits_of = [&](const Reader& reader) {
            return std::span<const float>(reader.logits).subspan(row * vocabulary, vocabulary);
          };
          for (size_t s = 0; s < readers.size(); ++s) {
            const std::span<const float> logits = logits_of(readers[s]);
            scores[s].loss[done + row] = LogSumExp(logits) - logits[targets.tokens[row]];
            if (s > 0) {
              const LogitRowComparison comparison =
                  CompareLogitRows(logits_of(readers.front()), logits);
              scores[s].kl[done + row] = comparison.kl;
              scores[s].same_top[done + row] = comparison.same_top ? 1 : 0;
            }
          }
        }
      });
      done += rows;
      if (progress) {
        progress(done);
      }
    }
  }
  return scores;
}

}  // namespace dualfp
