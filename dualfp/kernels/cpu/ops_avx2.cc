#include "dualfp/kernels/cpu/attention_simd.h"
#include "dualfp/kernels/cpu/elementwise_simd.h"
#include "dualfp/kernels/reference/ops.h"

namespace dualfp {
namespace {

// Look-ups and the cache's writes are bound by memory; the angles are few.
constexpr OpTable kTable = {
    .name = "avx2",
    .isa = CpuIsa::kAvx2,
    .rms_norm = cpu::RmsNorm<cpu::F32x8>,
    .rotary_table = reference::RotaryTable,
    .apply_rotary = cpu::ApplyRotary<cpu::F32x8>,
    .write_kv_cache = reference::WriteKvCache,
    .paged_attention = cpu::PagedAttention<cpu::F32x8>,
    .silu_mul = cpu::SiluMul<cpu::F32x8>,
    .softmax = cpu::Softmax<cpu::F32x8>,
    .embedding = reference::Embedding,
    .gather_rows = reference::GatherRows,
};

}  // namespace

extern const OpTable* const kAvx2OpTable;
const OpTable* const kAvx2OpTable = &kTable;

}  // namespace dualfp
