// `dualfp bench gemm` on CPUs.

#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace dualfp {

struct CpuBenchArguments {
  int64_t n = 4096;
  int64_t k = 4096;
  std::vector<int> m = {1, 8, 64, 512};
  std::vector<std::string> formats = {"f16", "nested", "nested-fp8"};
  int threads = 0;             // 0: one a core
  double seconds = 3.0;        // for each M
  std::string clock = "wall";  // "cpu": without what others took; with one thread
  bool all_kernels = false;    // also those that would not be chosen
  std::string json;            // a file
};

// Prints a table and writes the file. Throws kInvalidArgument for a format that is not one of
// CpuFormatNames(), and for the CPU's clock with several threads.
void RunCpuGemmBench(const CpuBenchArguments& arguments);

}  // namespace dualfp
