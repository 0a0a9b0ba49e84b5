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
  // Whose direct loops serve few rows, where not inner's. They add in the order of inner's loops
  // (and have its block_k and k_align), so that results do not depend on M.
  const GemmInner* few_rows = nullptr;
  const RowInner* rows = nullptr;
  // What a stored value of 1 is worth, before scales: 1/256 for the upper plane.
  float unit = 1.0f;
  // Outliers are added to the decoded weights, which is exact. Loops whose operands cannot hold
  // them add their products to the sums instead, as do direct loops of nested12 weights, most of
  // whose units of columns have remainders.
  bool patches_outliers = false;
  // Up to so many rows are multiplied by a direct loop; with more, decoding into a panel pays.
  int direct_rows = 8;
};

// M rows of prepared activations and their scales.
int64_t CpuGemmWorkspaceBytes(const CpuGemm& kernel, const GemmDesc& desc);

// `desc` and `args` are consistent (DescribeGemm) and the workspace is large enough.
void RunCpuGemm(const CpuGemm& kernel, const Context& context, const GemmDesc& desc,
                const GemmArgs& args);

}  // namespace dualfp::cpu
