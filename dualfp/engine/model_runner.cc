#include "dualfp/engine/model_runner.h"

namespace dualfp {

StepBatch ModelRunner::NewBatch() const {
  const RunnerInfo& limits = info();
  return StepBatch({.max_rows = limits.max_rows,
                    .max_sequences = limits.max_sequences,
                    .max_logit_rows = limits.max_logit_rows,
                    .max_context = limits.max_model_len,
                    .block_size = limits.block_size},
                   nullptr);
}

}  // namespace dualfp
