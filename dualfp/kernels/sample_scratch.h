// What the host's samplers share: how the workspace is cut up and the rows are shared out.

#pragma once

#include <functional>

#include "dualfp/kernels/sample.h"

namespace dualfp {

// One thread's share of the workspace; arrays of [vocabulary] entries, `sums` of fewer.
struct SampleScratch {
  struct Candidate {
    float weight;
    int32_t token;
  };

  float* logits = nullptr;   // processed
  float* weights = nullptr;  // exp((logit - max) / temperature)
  float* order = nullptr;    // for selection
  Candidate* candidates = nullptr;
  double* sums = nullptr;  // of blocks of weights

  static int64_t Bytes(int64_t vocabulary) {
    return (vocabulary + 7) / 8 * 8 *
           static_cast<int64_t>(3 * sizeof(float) + sizeof(Candidate) + sizeof(double));
  }
  static SampleScratch At(void* base, int64_t vocabulary) {
    const int64_t padded = (vocabulary + 7) / 8 * 8;
    SampleScratch scratch;
    scratch.sums = static_cast<double*>(base);
    scratch.candidates = reinterpret_cast<Candidate*>(scratch.sums + padded);
    scratch.logits = reinterpret_cast<float*>(scratch.candidates + padded);
    scratch.weights = scratch.logits + padded;
    scratch.order = scratch.weights + padded;
    return scratch;
  }
};

// Applies the appends, then calls
//   token = sample(logits, drawable, row, state or null, scores, scratch)
// for each row, on the threads. Allocates nothing.
template <typename SampleOne>
void ForEachSampleRow(const Context& context, const SampleArgs& args, const SampleOne& sample) {
  for (const SampleRow& row : args.rows) {
    if (row.append_row >= 0 && args.states[row.state].counts != nullptr) {
      ++args.states[row.state].counts[args.token_ids.as<int32_t>()[row.append_row]];
    }
  }
  const auto vocabulary = static_cast<size_t>(args.logits.shape[1]);
  const size_t drawable = args.drawable == 0 ? vocabulary : static_cast<size_t>(args.drawable);
  const int64_t share = SampleScratch::Bytes(args.logits.shape[1]);
  const auto run = [&](int64_t begin, int64_t end, int thread) {
    const SampleScratch scratch =
        SampleScratch::At(context.workspace.as<char>() + thread * share, args.logits.shape[1]);
    for (int64_t i = begin; i < end; ++i) {
      const SampleRow& row = args.rows[i];
      const float* logits = args.logits.as<float>() + row.logit_row * args.logits.strides[0];
      args.tokens[i] = sample(std::span(logits, vocabulary), drawable, row,
                              row.state < 0 ? nullptr : &args.states[row.state],
                              args.scores.subspan(row.score_begin, row.num_scores), scratch);
    }
  };
  // std::ref: a std::function of a reference needs no allocation.
  context.threads->ParallelFor(static_cast<int64_t>(args.rows.size()), 1, std::ref(run));
}

}  // namespace dualfp
