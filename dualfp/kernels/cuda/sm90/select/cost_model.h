// What a plan should cost: microseconds from counts of operations and bytes. Pure. The constants
// are fitted to measured times by bench/gemm_lab/tune/fit_cost_model.cc; docs/kernels_notebook.md
// has the outcome.

#pragma once

#include <array>
#include <string>

#include "dualfp/kernels/cuda/sm90/gemm.h"

namespace dualfp::sm90 {

// The constants of the model. Cycles are of one SM.
struct PlanCosts {
  // A stage takes about as long as the slowest of these.
  double wgmma_cycles = 21.53;  // of a wgmma instruction at least
  // Of shared memory, by wgmma's operands and copies, where warpgroups share a tile.
  double shared_bytes_cycle = 177.3;
  double decode_cycles = 228.1;       // of 64 x 64 nested weights,
  double decode12_f16_cycles = 304;   // of Nested12 ones, to FP16
  double decode12_bf16_cycles = 399;  // and to BF16
  double add_cycles = 2.231;          // of a warp's promoted sums of a wgmma column pair
  double drain_cycles = 238.1;        // of products that are awaited before they are added
  double tpc_bytes_cycle = 168.7;     // that copies bring to the two SMs of a TPC
  double outside_cycles = 5.247;      // more of 128 bytes that lie beyond the last token
  double l2_bytes_cycle = 5784;       // that all SMs draw together
  double latency_cycles = 1692;       // of a copy; all stages of the ring but one hide it
  double alone_cycles = 122.9;        // more of a stage where one warpgroup has the SM to itself
  // Outside of the stages.
  double split_start = 2177;      // cycles of a tile of the split family
  double split_value = 0.2445;    // ... and of each of its values
  double sum_value = 0.297;       // ... and of each that is summed over the cluster
  double split_k_start = 509.2;   // of a tile that several clusters compute
  double split_k_value = 0.2267;  // ... and of each partial sum written or read
  double cluster_start = 196.1;   // of a kernel for each further CTA of a cluster
  double ping_pong_start = 1074;  // of a ping-pong kernel
  double placement_start = 1820;  // of a kernel placed by GPC
  double follow_start = 640.6;    // of a kernel that waits for SMs of the kernel before
};

// What the model knows of a device. The defaults are an H200.
struct DeviceModel {
  std::string name = "NVIDIA H200";
  int sms = 132;
  double clock_ghz = 1.75;  // under load
  double dram_bytes_per_us = 4.2e6;
  // CTAs at one time, one to an SM, in clusters of 1..8 (index 0 unused).
  std::array<int, 9> ctas_in_clusters = {0, 132, 132, 117, 120, 110, 102, 105, 120};
  PlanCosts cost;
};

// The parts of an estimate, each in microseconds.
struct Estimate {
  double compute = 0;  // stages, starts and epilogues of the busiest SM
  double dram = 0;     // each operand once
  double total = 0;    // starts and epilogues, and the slower of stages and DRAM
  double waves = 0;    // rounds of tiles over the SMs
};

Estimate EstimateCost(const Plan& plan, const GemmProblem& problem, const DeviceModel& device);

}  // namespace dualfp::sm90
