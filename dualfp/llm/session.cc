#include "dualfp/llm/session.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "dualfp/quant/evaluate.h"

namespace dualfp {

Session::Session(Decoder& decoder, DType cache_dtype, int64_t length)
    : decoder_(decoder),
      cache_(decoder.model().KvCacheFor(cache_dtype, KvBlocksFor(length))),
      blocks_(KvBlocksFor(length)),
      batch_(decoder.NewBatch()),
      length_(length) {
  std::iota(blocks_.begin(), blocks_.end(), 0);
}

void Session::Append(const Context& context, std::span<const int32_t> tokens,
                     const PrecisionPlan& plan, const LogitSink& sink) {
  const int64_t vocabulary = decoder_.model().config.vocab_size;
  const DecoderLimits& limits = decoder_.options().limits;
  const int64_t chunk =
      sink ? std::min(limits.max_tokens, limits.max_logit_rows) : limits.max_tokens;
  for (size_t begin = 0; begin < tokens.size();) {
    const auto part = tokens.subspan(begin, std::min<size_t>(chunk, tokens.size() - begin));
    const auto rows = static_cast<int64_t>(part.size());
    begin += part.size();
    const bool last = begin == tokens.size();
    batch_.Clear();
    batch_.AddSequence(part, position_, blocks_, length_);
    batch_.SetPlan(&plan);
    if (sink) {
      batch_.AddAllLogitRows();
    } else if (last) {
      batch_.AddLogitRow(rows - 1);
    }
    const int64_t wanted = batch_.num_logit_rows();
    logits_.resize(wanted * vocabulary);
    decoder_.Forward(context, batch_, cache_, {logits_.data(), DType::kF32, {wanted, vocabulary}});
    position_ += rows;
    if (sink) {
      sink(logits_, rows);
    }
    if (last) {
      last_logits_ = std::span<const float>(logits_).last(vocabulary);
    }
  }
}

LogitComparison ComparePrecisions(const Context& context, Decoder& decoder, DType cache_dtype,
                                  std::span<const int32_t> tokens, const PrecisionPlan& first,
                                  const PrecisionPlan& second) {
  const auto length = static_cast<int64_t>(tokens.size());
  const int64_t vocabulary = decoder.model().config.vocab_size;
  const DecoderLimits& limits = decoder.options().limits;
  const auto chunk = static_cast<size_t>(std::min(limits.max_tokens, limits.max_logit_rows));
  Session first_session(decoder, cache_dtype, length);
  Session second_session(decoder, cache_dtype, length);
  LogitComparison total;
  double sum = 0;
  double squares = 0;
  for (size_t begin = 0; begin < tokens.size(); begin += chunk) {
    const auto part = tokens.subspan(begin, std::min(chunk, tokens.size() - begin));
    std::vector<float> first_logits;
    first_session.Append(context, part, first, [&](std::span<const float> logits, int64_t) {
      first_logits.assign(logits.begin(), logits.end());
    });
    std::vector<LogitRowComparison> rows(part.size());
    second_session.Append(context, part, second, [&](std::span<const float> logits, int64_t) {
      context.threads->ParallelFor(
          static_cast<int64_t>(part.size()), 1, [&](int64_t row, int64_t end, int) {
            for (; row < end; ++row) {
              rows[row] = CompareLogitRows(
                  std::span<const float>(first_logits).subspan(row * vocabulary, vocabulary),
                  logits.subspan(row * vocabulary, vocabulary));
            }
          });
    });
    for (const LogitRowComparison& row : rows) {
      total.mean_kl += row.kl;
      total.largest_kl = std::max(total.largest_kl, row.kl);
      total.largest_difference = std::max(total.largest_difference, row.largest_difference);
      total.top1_agreement += row.same_top ? 1 : 0;
    }
    for (const float logit : first_logits) {
      sum += logit;
      squares += double{logit} * logit;
    }
  }
  const auto count = static_cast<double>(length);
  const double elements = count * static_cast<double>(vocabulary);
  total.tokens = length;
  total.mean_kl /= count;
  total.top1_agreement /= count;
  total.deviation = std::sqrt(squares / elements - sum / elements * (sum / elements));
  return total;
}

}  // namespace dualfp
