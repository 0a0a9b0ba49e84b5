// What a plan should cost: microseconds from counts of operations and bytes. Pure. The constants
// are fitted to measured times by bench/cuda/fit_cost_model.cc; docs/kernels.md has the outcome.

#pragma once

#include <array>
#include <string>

#include "dualfp/kernels/cuda/sm90/gemm.h"

namespace dualfp::sm90 {

// The constants of the model. Cycles are of one SM.
struct CostModel {
  double tensor_share = 0.1782;       // cycles of a stage over what the tensor cores need
  double tensor_floor = 34.02;        // cycles of a wgmma instruction at least
  double shared_bytes_cycle = 70.61;  // shared memory's bandwidth
  double decode_cycles = 326.7;       // of 64 x 64 nested weights
  double stage_cycles = 1.015;        // more of any stage
  double alone_cycles = 121;   // more where one warpgroup has the SM to itself: nothing overlaps
  double split_start = 3196;   // of a tile of the split family
  double split_value = 1.221;  // ... and of each of its values
  double tile_start = 160.3;   // of a tile of the persistent family
  // Tiles by warpgroups in turns: cycles of a stage over what the tensor cores need, bytes a cycle
  // that loads draw, and what is not hidden of start and end.
  double turns_share = 1.744;
  double turns_bytes_cycle = 23.87;
  double gpc_share = 0.5846;  // of these loads, where neighbours in a GPC ask for the same
  double turns_tile = 1338;   // cycles more of each tile
  double turns_start = 254.3;
  double seat_start = 1043;    // cycles more of a kernel whose CTAs take seats
  double part_start = 298.3;   // of a tile that several clusters compute
  double part_value = 0.4242;  // ... and of each partial sum written or read
};

// What the model knows of a device. The defaults are an H200.
struct DeviceModel {
  std::string name = "NVIDIA H200";
  int sms = 132;
  double clock_ghz = 1.75;  // under load
  double dram_bytes_per_us = 4.2e6;
  // CTAs at one time, one to an SM, in clusters of 1..8 (index 0 unused).
  std::array<int, 9> ctas_in_clusters = {0, 132, 132, 117, 120, 110, 102, 105, 120};
  CostModel cost;
};

// The parts of an estimate, each in microseconds.
struct Estimate {
  double compute = 0;  // stages and epilogues of the busiest SM
  double dram = 0;     // each operand once
  double total = 0;
  double waves = 0;  // rounds of tiles over the SMs
};

Estimate EstimateCost(const Plan& plan, const GemmProblem& problem, const DeviceModel& device);

}  // namespace dualfp::sm90
