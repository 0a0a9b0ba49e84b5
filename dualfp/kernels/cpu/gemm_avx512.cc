#include "dualfp/kernels/cpu/gemm_avx512.h"

#include "dualfp/kernels/cpu/gemm_nested12_avx512.h"

namespace dualfp::cpu {
namespace {

// 4 x 6 accumulators, 4 activations and a weight in flight: 29 of 32 registers.
template <typename T, typename FewRows = T>
constexpr GemmInner kInner = MakeGemmInner<T, FewRows, 4, 6, 8, 8, 4, 3>();

}  // namespace

const GemmInnerSet kAvx512GemmInner = {
    .f16 = kInner<PlainF16Traits512>,
    .bf16 = kInner<PlainBf16Traits512>,
    .f32 = kInner<PlainF32Traits512>,
    .nested = kInner<NestedTraits512, NestedFewRowsTraits512>,
    .nested12 = kInner<Nested12Traits512>,
    .e4m3 = kInner<E4m3Traits512>,
    .e4m3_blocked = kInner<E4m3BlockedTraits512>,
    .e4m3_mx = kInner<E4m3MxTraits512>,
};

}  // namespace dualfp::cpu
