// The benchmarks of `dualfp bench`, one file each.

#pragma once

#include <CLI/CLI.hpp>

namespace dualfp {

void AddBenchGemm(CLI::App& bench);        // gemm.cc
void AddBenchServe(CLI::App& bench);       // serve.cc
void AddBenchThroughput(CLI::App& bench);  // throughput.cc
void AddBenchLatency(CLI::App& bench);     // latency.cc
void AddBenchReport(CLI::App& bench);      // report.cc

}  // namespace dualfp
