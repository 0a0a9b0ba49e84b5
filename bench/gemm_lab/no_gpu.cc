// Stands in for what needs CUDA in builds without it.

#include "bench/gemm_lab/gemm_lab.h"
#include "dualfp/base/check.h"

namespace dualfp {
namespace {

[[noreturn]] void FailWithoutCuda(const char* command) {
  Fail(ErrorCode::kUnsupported, command,
       ": this build has no CUDA kernels; configure with -DDUALFP_CUDA=ON");
}

}  // namespace

void RunTune(const TuneArguments& /*arguments*/) { FailWithoutCuda("tune"); }

void WriteTable(const std::vector<std::string>& /*records*/, const std::string& /*output*/) {
  FailWithoutCuda("tune");
}

void ExplainChoice(int /*n*/, int /*k*/, int /*m*/, const std::vector<std::string>& /*formats*/,
                   const std::string& /*table*/) {
  FailWithoutCuda("tune");
}

void RunGpuGemmBench(const GpuBenchArguments& /*arguments*/) { FailWithoutCuda("bench gemm"); }

std::vector<ModelQuality> EvaluateModel(const std::vector<std::filesystem::path>& /*files*/) {
  return {};
}

}  // namespace dualfp
