// The plain loops behind every op: the oracle of the vector kernels, and what runs where there are
// none.

#pragma once

#include "dualfp/kernels/op_table.h"

namespace dualfp::reference {

void RmsNorm(const Context& context, const RmsNormArgs& args);
void RotaryTable(const Context& context, const RotaryTableArgs& args);
void ApplyRotary(const Context& context, const ApplyRotaryArgs& args);
void WriteKvCache(const Context& context, const WriteKvCacheArgs& args);
void PagedAttention(const Context& context, const PagedAttentionArgs& args);
void SiluMul(const Context& context, const SiluMulArgs& args);
void Softmax(const Context& context, const SoftmaxArgs& args);
void Embedding(const Context& context, const EmbeddingArgs& args);
void GatherRows(const Context& context, const GatherRowsArgs& args);

}  // namespace dualfp::reference
