#include "dualfp/kernels/cuda/sm90/cost_model.h"

#include <algorithm>
#include <cmath>

namespace dualfp::sm90 {
namespace {

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

double ElementBytes(WeightFormat format) {
  return format == WeightFormat::kE4m3 || format == WeightFormat::kE4m3Promoted ? 1.0 : 2.0;
}

// Cycles of one SM for one stage of one CTA: the slowest of what works on it at the same time.
double StageCycles(const KernelConfig& config, const CostModel& cost) {
  const bool nested = config.format == WeightFormat::kNested;
  const double element = ElementBytes(config.format);
  const double bytes = config.k * element;                         // of a row of W, or of X
  const int rows = config.by_token ? config.tokens : config.rows;  // of wgmma
  const int columns = config.by_token ? config.rows : config.tokens;
  const double blocks = rows / 64.0;
  const double steps = config.k * element / 32 * blocks;  // wgmma instructions
  const double tensor = steps * std::max(columns / 2.0, cost.tensor_floor) * cost.tensor_share;
  const double shared = (steps * (2048 + 32.0 * columns) +
                         (static_cast<double>(config.rows) + config.tokens) * bytes) /
                        cost.shared_bytes_cycle;
  const double decode = nested ? blocks * config.k / 64 * cost.decode_cycles : 0.0;
  return std::max({tensor, shared, decode}) + cost.stage_cycles;
}

// The same for a tile that one warpgroup computes while the other stores. `loads`: bytes that the
// CTA itself asks for.
double TurnsStageCycles(const KernelConfig& config, double loads, const CostModel& cost) {
  const int rows = config.by_token ? config.tokens : config.rows;  // of wgmma
  const int columns = config.by_token ? config.rows : config.tokens;
  const double tensor = config.k * ElementBytes(config.format) / 32 * (rows / 64.0) *
                        std::max(columns / 2.0, cost.tensor_floor);
  return std::max(tensor * cost.turns_share, loads / cost.turns_bytes_cycle);
}

}  // namespace

Estimate EstimateCost(const Plan& plan, const GemmProblem& problem, const DeviceModel& device) {
  const KernelConfig& config = *plan.config;
  const ClusterShape& cluster = plan.cluster;
  const CostModel& cost = device.cost;
  const double element = ElementBytes(config.format);
  const double values = static_cast<double>(config.rows) * config.tokens;

  const int stages = CeilDiv(problem.k, config.k);
  const double clusters = static_cast<double>(CeilDiv(problem.n, config.rows * cluster.share_x)) *
                          CeilDiv(problem.m, config.tokens * cluster.share_w);
  const double ctas = clusters * cluster.size();
  const int usable = device.ctas_in_clusters[cluster.size()] / cluster.size() * cluster.size();
  const double sharing = std::min<double>(config.ctas, std::ceil(ctas / usable));

  const bool by_gpc =
      config.family == Family::kPersistent && config.ctas == 1 && cluster.size() == 1;
  const double loads = config.k * element * (by_gpc ? cost.gpc_share : 1.0) *
                       (static_cast<double>(config.rows) / cluster.share_w +
                        static_cast<double>(config.tokens) / cluster.share_x);

  Estimate estimate;
  estimate.waves = std::ceil(ctas / (usable * config.ctas));
  double once = 0;  // cycles before and after all tiles
  double tile = StageCycles(config, cost) * sharing;
  if (config.warpgroups == 1 && sharing == 1) {
    tile += cost.alone_cycles;
  }
  if (config.family == Family::kSplit) {
    tile *= CeilDiv(stages, cluster.split);
    tile += cost.split_start + values * cost.split_value;
  } else if (plan.parts == Plan::kStream) {
    // All clusters compute equally many stages; partial sums pass through L2 once, or several times
    // where tiles are few.
    const double slots = usable * config.ctas;
    estimate.waves = ctas / slots;
    tile *= stages;
    tile += (cost.part_start + values * (1 + std::max(1.0, slots / ctas)) * cost.part_value) /
            estimate.waves;
  } else if (plan.parts > 1) {
    tile *= CeilDiv(stages, plan.parts);
    tile += cost.part_start + values * 2 * (1 - 1.0 / plan.parts) * cost.part_value;
  } else if (config.turns) {
    tile = TurnsStageCycles(config, loads, cost) * stages + cost.turns_tile;
    once = cost.turns_start;
  } else {
    tile *= stages;
    tile += cost.tile_start;
  }
  if (by_gpc) {
    once += cost.seat_start;
  }
  estimate.compute = (estimate.waves * tile + once) / (device.clock_ghz * 1e3);

  const double bytes = (static_cast<double>(problem.n) + problem.m) * problem.k * element +
                       2.0 * problem.m * problem.n;
  estimate.dram = bytes / device.dram_bytes_per_us;
  estimate.total = std::max(estimate.compute, estimate.dram);
  return estimate;
}

}  // namespace dualfp::sm90
