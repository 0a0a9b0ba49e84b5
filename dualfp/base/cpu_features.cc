#include "dualfp/base/cpu_features.h"

#include <array>
#include <fstream>
#include <thread>

#include "dualfp/base/check.h"
#include "dualfp/base/env.h"

namespace dualfp {
namespace {

constexpr std::array kAllIsas = {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                 CpuIsa::kAvx512Bf16};

CpuIsa HardwareIsa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  // F16C is not asked for: every CPU with AVX2 has it, and clang 14 does not know the name.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl") &&
                      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vbmi") &&
                      __builtin_cpu_supports("gfni");
  if (avx512 && __builtin_cpu_supports("avx512bf16")) {
    return CpuIsa::kAvx512Bf16;
  }
  if (avx512) {
    return CpuIsa::kAvx512;
  }
  if (avx2) {
    return CpuIsa::kAvx2;
  }
#endif
  return CpuIsa::kScalar;
}

}  // namespace

std::string_view CpuIsaName(CpuIsa isa) {
  switch (isa) {
    case CpuIsa::kScalar:
      return "scalar";
    case CpuIsa::kAvx2:
      return "avx2";
    case CpuIsa::kAvx512:
      return "avx512";
    case CpuIsa::kAvx512Bf16:
      return "avx512bf16";
  }
  return "unknown";
}

CpuIsa DetectCpuIsa() {
  static const CpuIsa hardware = HardwareIsa();
  const auto wanted = GetEnv("DUALFP_CPU");
  if (!wanted) {
    return hardware;
  }
  for (CpuIsa isa : kAllIsas) {
    if (CpuIsaName(isa) == *wanted) {
      return isa < hardware ? isa : hardware;
    }
  }
  Fail(ErrorCode::kInvalidArgument, "DUALFP_CPU=", *wanted,
       ": expected scalar, avx2, avx512 or avx512bf16");
}

bool HasFastBf16Dot() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  return DetectCpuIsa() >= CpuIsa::kAvx512Bf16 && !__builtin_cpu_is("intel");
#else
  return false;
#endif
}

std::string CpuDescription() {
  std::string name = "unknown CPU";
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (line.starts_with("model name")) {
      name = line.substr(line.find(':') + 2);
      break;
    }
  }
  return StrCat(name, " (", CpuIsaName(DetectCpuIsa()), ", ", std::thread::hardware_concurrency(),
                " threads)");
}

}  // namespace dualfp
