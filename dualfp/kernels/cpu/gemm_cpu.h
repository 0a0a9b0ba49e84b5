// GEMM on the CPU: prepares the activations, shares the columns of W among threads, drives the
// inner loops (gemm_inner.h) and finishes rows (row_inner.h).

#pragma once

#include "dualfp/base/cpu_features.h"
#include "dualfp/kernels/cpu/gemm_inner.h"
#include "dualfp/kernels/cpu/row_inner.h"
#include "dualfp/kernels/gemm.h"

namespace dualfp::cpu {

// One way to multiply, for one instruction set.
struct CpuGemm {
  const GemmInner* inner = nullptr;
  const RowInner* rows = nullptr;
  // What a stored value of 1 is worth, before scales: 1/256 for the upper plane.
  float unit = 1.0f;
  // Outliers are added to the decoded weights, which is exact. Loops whose operands cannot hold
  // them add their products to the sums instead.
  bool patches_outliers = false;
};

// M rows of prepared activations and their scales.
int64_t CpuGemmWorkspaceBytes(const CpuGemm& kernel, const GemmDesc& desc);

// `desc` and `args` are consistent (DescribeGemm) and the workspace is large enough.
void RunCpuGemm(const CpuGemm& kernel, const Context& context, const GemmDesc& desc,
                const GemmArgs& args);

}  // namespace dualfp::cpu
