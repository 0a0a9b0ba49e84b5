// Which of the GPU's GEMM kernels runs a description, with which plan, and with how much workspace:
// functions of the description and of the GPU's properties alone, so that a captured step takes the
// plans that an eager one takes, and tests need no GPU.

#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "dualfp/kernels/cuda/cublaslt_gemm.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"
#include "dualfp/kernels/gemm.h"

namespace dualfp::cuda {

// A GPU as the choice sees it.
struct GemmHardware {
  int compute_capability = 0;    // 90 for 9.0; 0: there is no GPU
  std::string cublaslt_missing;  // why cuBLASLt cannot run; empty where it can
  sm90::DeviceModel model;
  sm90::Tables tables;
};

// The GPU of that index, asked once. Without it, the defaults.
const GemmHardware& HardwareOf(int index);

// Empty where the kernels can run the description, else why not. None depends on M.
std::string NestedUnsupported(const GemmDesc& desc, const GemmHardware& hardware);
std::string E4m3Unsupported(const GemmDesc& desc, const GemmHardware& hardware);
std::string PlainUnsupported(const GemmDesc& desc, const GemmHardware& hardware);
std::string CublasLtUnsupported(const GemmDesc& desc, const GemmHardware& hardware);

// Whether cuBLASLt can run the description too, and is faster.
bool PlainYields(const GemmDesc& desc, const GemmHardware& hardware);

// Where the E4M3 kernel's codes and scales of X lie in its workspace.
struct E4m3Workspace {
  explicit E4m3Workspace(const GemmDesc& desc);

  int64_t scales_offset;  // bytes; codes come first
  int64_t group_stride;   // floats between the scales of neighbouring groups of K
  int64_t bytes;
};
int64_t E4m3WorkspaceBytes(const GemmDesc& desc);

sm90::WeightFormat Sm90Format(const GemmDesc& desc);

// The plan of one of our kernels. `aligned_rows`: Y's lie a multiple of 8 elements apart, not only
// of 4. Throws kUnsupported.
sm90::Plan ChoosePlan(const GemmDesc& desc, bool aligned_rows, const GemmHardware& hardware);

void RunNestedOrPlain(const Context& context, const GemmDesc& desc, const GemmArgs& args);
void RunE4m3(const Context& context, const GemmDesc& desc, const GemmArgs& args);

// The GPU's kernels in order of preference, for the GPUs that `kHardware` knows.
template <const GemmHardware& (*kHardware)(int index)>
constexpr std::array<GemmKernel, 4> MakeGemmKernels() {
  // Tiles are chosen by M, and sums over K are split differently in different tiles.
  constexpr bool kRowInvariant = false;
  return {{
      {"gemm_nested_f16_any_sm90",
       [](const GemmDesc& d) { return NestedUnsupported(d, kHardware(d.device.index)); }, nullptr,
       RunNestedOrPlain, kRowInvariant},
      {"gemm_e4m3_any_any_sm90",
       [](const GemmDesc& d) { return E4m3Unsupported(d, kHardware(d.device.index)); },
       E4m3WorkspaceBytes, RunE4m3, kRowInvariant},
      {"gemm_plain_any_any_sm90",
       [](const GemmDesc& d) { return PlainUnsupported(d, kHardware(d.device.index)); }, nullptr,
       RunNestedOrPlain, kRowInvariant,
       [](const GemmDesc& d) { return PlainYields(d, kHardware(d.device.index)); }},
      {"gemm_plain_any_any_cublaslt",
       [](const GemmDesc& d) { return CublasLtUnsupported(d, kHardware(d.device.index)); },
       CublasLtWorkspaceBytes, RunCublasLt, kRowInvariant},
  }};
}

}  // namespace dualfp::cuda
