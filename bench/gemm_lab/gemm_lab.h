// What `dualfp tune` and `dualfp bench gemm --device cuda` do. Builds without CUDA have no_gpu.cc,
// which throws kUnsupported.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "bench/gemm_lab/report/performance_report.h"
#include "bench/gemm_lab/report/shapes.h"

namespace dualfp {

struct TuneArguments {
  std::vector<GemmShape> shapes;
  std::vector<int> m;
  std::vector<std::string> formats;  // of TunedFormatNames()
  std::vector<int> gpus;             // empty: all
  int top = 0;                       // 0: every feasible plan
  std::string output;
  std::string log;  // empty: OUTPUT.jsonl
  std::string command;
  // Where set, called as points finish, instead of a line for each on standard error.
  std::function<void(int64_t done, int64_t total)> progress;
};

// Times plans and writes the selection table `output`.
void RunTune(const TuneArguments& arguments);

// Writes the selection table from records instead.
void WriteTable(const std::vector<std::string>& records, const std::string& output);

// Prints which plan would run [N, K, M] in each format, and why.
void ExplainChoice(int n, int k, int m, const std::vector<std::string>& formats,
                   const std::string& table);

struct GpuBenchArguments {
  std::vector<GemmShape> shapes;
  std::vector<int> m;
  std::vector<std::string> formats;  // of FormatNames()
  int top = 0;                       // plans to try; 0: the one that the library would choose
  std::string json;                  // records are appended to this file
  std::string plots;                 // folder
  std::string command;
};

void RunGpuGemmBench(const GpuBenchArguments& arguments);

// The cost model of this build on the "tuned" records of these files; nothing in builds without
// CUDA.
std::vector<ModelQuality> EvaluateModel(const std::vector<std::filesystem::path>& files);

}  // namespace dualfp
