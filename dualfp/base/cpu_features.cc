#include "dualfp/base/cpu_features.h"

#if defined(__x86_64__)
#include <cpuid.h>
#endif
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include <array>
#include <fstream>
#include <thread>

#include "dualfp/base/check.h"
#include "dualfp/base/env.h"

namespace dualfp {
namespace {

constexpr std::array kAllIsas = {CpuIsa::kScalar, CpuIsa::kAvx2, CpuIsa::kAvx512,
                                 CpuIsa::kAvx512Bf16, CpuIsa::kAmx};

#if defined(__x86_64__)

// AMX-TILE and AMX-BF16 of the CPU, and the system's leave for this process to use them: the state
// of tiles is so large that a process must ask.
bool HasAmx() {
  constexpr unsigned kAmxBf16 = 1u << 22;  // of leaf 7, EDX
  constexpr unsigned kAmxTile = 1u << 24;
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0 ||
      (edx & (kAmxBf16 | kAmxTile)) != (kAmxBf16 | kAmxTile)) {
    return false;
  }
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  return syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
#else
  return false;
#endif
}

#endif

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
    return HasAmx() ? CpuIsa::kAmx : CpuIsa::kAvx512Bf16;
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
    case CpuIsa::kAmx:
      return "amx";
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
       ": expected scalar, avx2, avx512, avx512bf16 or amx");
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
