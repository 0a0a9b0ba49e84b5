// Weights whose parts (tensor/row_parts.h) have static activation scales of their own: one GEMM for
// each part, whose codes differ.

#pragma once

#include <string_view>

#include "dualfp/kernels/cpu/gemm_cpu.h"

namespace dualfp::cpu {

// Empty, or why parts of such a weight cannot be multiplied one by one.
std::string_view PartsUnsupported(const GemmDesc& desc);

// As CpuGemmWorkspaceBytes() and RunCpuGemm(), where desc.part_input_scales.
int64_t PartsWorkspaceBytes(const CpuGemm& kernel, const GemmDesc& desc);
void RunParts(const CpuGemm& kernel, const Context& context, const GemmDesc& desc,
              const GemmArgs& args);

}  // namespace dualfp::cpu
