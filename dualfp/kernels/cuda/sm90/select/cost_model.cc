#include "dualfp/kernels/cuda/sm90/select/cost_model.h"

#include <algorithm>
#include <cmath>
#include <initializer_list>

namespace dualfp::sm90 {
namespace {

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

// The time of what happens side by side: that of the slowest, more where others come close to it.
double Together(std::initializer_list<double> times) {
  double cubes = 0;
  for (const double time : times) {
    cubes += time * time * time;
  }
  return std::cbrt(cubes);
}

// A plan's CTAs on the device.
struct Placement {
  double ctas = 0;     // that have a tile to compute, slices of a tile counted as one
  double running = 0;  // at one time
  double slots = 0;    // for CTAs
  int sharing = 1;     // CTAs on an SM
  double tpcs = 0;     // that have CTAs
};

Placement Place(const Plan& plan, const GemmProblem& problem, const DeviceModel& device) {
  const KernelConfig& config = *plan.config;
  const ClusterShape& cluster = plan.cluster;
  const int size = cluster.size();
  Placement place;
  place.ctas = static_cast<double>(CeilDiv(problem.n, config.rows * cluster.share_x)) *
               CeilDiv(problem.m, config.tokens * cluster.share_w) * size;
  const int usable = device.ctas_in_clusters[size] / size * size;
  place.slots = usable * config.ctas;
  place.running = plan.split_k == Plan::kStreamK ? place.slots
                                                 : std::min(place.ctas * plan.split_k, place.slots);
  // Clusters fill SMs, CTAs without them spread over all.
  place.sharing = size > 1 || place.running > usable ? config.ctas : 1;
  const double tpcs =
      size > 1 ? place.running / place.sharing / size * CeilDiv(size, 2) : place.running;
  place.tpcs = std::min(tpcs, device.sms / 2.0);
  return place;
}

// Bytes of an element of the weights, and of X.
double WeightBytes(WeightFormat format) {
  return IsE4m3(format) ? 1.0 : IsNested12(format) ? 1.5 : 2.0;
}
double XBytes(WeightFormat format) { return IsE4m3(format) ? 1.0 : 2.0; }

// Of 64 x 64 weights.
double DecodeCycles(WeightFormat format, const PlanCosts& cost) {
  switch (format) {
    case WeightFormat::kNested:
      return cost.decode_cycles;
    case WeightFormat::kNested12F16:
      return cost.decode12_f16_cycles;
    case WeightFormat::kNested12Bf16:
      return cost.decode12_bf16_cycles;
    default:
      return 0.0;
  }
}

// Cycles of an SM for a stage of each CTA on it.
double StageCycles(const Plan& plan, const GemmProblem& problem, const Placement& place,
                   bool by_gpc, const PlanCosts& cost) {
  const KernelConfig& config = *plan.config;
  const ClusterShape& cluster = plan.cluster;
  const bool decoded = IsDecoded(config.format);
  const double w_bytes = config.k * WeightBytes(config.format);  // of a row
  const double x_bytes = config.k * XBytes(config.format);
  const double copied = w_bytes * config.rows + x_bytes * config.tokens;

  const int rows = config.by_token ? config.tokens : config.rows;  // of wgmma
  const int columns = config.by_token ? config.rows : config.tokens;
  const double blocks = rows / 64.0;
  const double steps = x_bytes / 32 * blocks;  // wgmma instructions
  const double tensor = steps * std::max(columns / 2.0, cost.wgmma_cycles);
  const double operands = steps * ((decoded ? 0.0 : 2048.0) + 32.0 * columns);
  const double shared = config.ping_pong ? 0.0 : (operands + copied) / cost.shared_bytes_cycle;
  const double decode = blocks * config.k / 64 * DecodeCycles(config.format, cost);

  // Promoted sums: of all warps, and of one that multiplies and adds alternately.
  const bool promoted = config.format == WeightFormat::kE4m3Promoted;
  const double add = promoted ? columns / 2.0 * cost.add_cycles : 0.0;
  const double alternating =
      promoted && !config.two_stages ? tensor / blocks + add + cost.drain_cycles : 0.0;

  const double filled = copied * std::max(1.0, place.running / place.tpcs) / cost.tpc_bytes_cycle;
  // Tokens of the last tile that do not exist; of many waves it is in one.
  const int tile = config.tokens * cluster.share_w;
  const int missing = std::min(config.tokens, CeilDiv(problem.m, tile) * tile - problem.m);
  const double outside = missing * x_bytes / 128 / cluster.share_x * place.sharing *
                         cost.outside_cycles / std::max(1.0, place.ctas / place.slots);
  // What neighbours in a GPC ask for at the same time costs L2 nothing.
  const bool same_w = by_gpc && problem.m > config.tokens;
  const bool same_x = by_gpc && problem.n > config.rows && plan.split_k < 16;
  const double drawn = (same_w ? 0.0 : w_bytes * config.rows / cluster.share_w) +
                       (same_x ? 0.0 : x_bytes * config.tokens / cluster.share_x);
  const double l2 = drawn * place.running / cost.l2_bytes_cycle;
  const double latency = cost.latency_cycles / (config.stages - 1);

  const double alone = config.warpgroups == 1 && place.sharing == 1 ? cost.alone_cycles : 0.0;
  return Together({tensor * place.sharing, shared * place.sharing, decode * place.sharing,
                   add * blocks * place.sharing, alternating, filled + outside, l2, latency}) +
         alone;
}

}  // namespace

Estimate EstimateCost(const Plan& plan, const GemmProblem& problem, const DeviceModel& device) {
  const KernelConfig& config = *plan.config;
  const ClusterShape& cluster = plan.cluster;
  const PlanCosts& cost = device.cost;
  const double values = static_cast<double>(config.rows) * config.tokens;
  const bool stream_k = plan.split_k == Plan::kStreamK;
  const bool by_gpc =
      config.family == Family::kPersistent && config.ctas == 1 && cluster.size() == 1;
  const Placement place = Place(plan, problem, device);

  Estimate estimate;
  // Stream-K: all clusters compute equally many stages.
  estimate.waves = place.ctas / place.slots;
  if (!stream_k) {
    estimate.waves = std::ceil(estimate.waves);
  }
  const int stages =
      CeilDiv(CeilDiv(problem.k, config.k),
              config.family == Family::kSplit ? cluster.split : std::max(1, plan.split_k));
  // Stream-K tiles begin anywhere in K, so that neighbours ask for different stages.
  const double loop =
      estimate.waves * stages * StageCycles(plan, problem, place, by_gpc && !stream_k, cost);

  double outside = (by_gpc ? cost.placement_start : 0.0) +
                   cost.cluster_start * (cluster.size() - 1) +
                   (config.ping_pong ? cost.ping_pong_start : 0.0) +
                   (2 * place.running > place.slots ? cost.follow_start : 0.0);
  if (config.family == Family::kSplit) {
    const double sums =
        std::min(config.tokens, problem.m) * (1 - 1.0 / cluster.split) * config.rows;
    outside +=
        estimate.waves *
        (cost.split_start + place.sharing * (values * cost.split_value + sums * cost.sum_value));
  } else if (stream_k) {
    // Partial sums pass through L2 once, or several times where tiles are few.
    outside += cost.split_k_start +
               values * (1 + std::max(1.0, place.slots / place.ctas)) * cost.split_k_value;
  } else if (plan.split_k > 1) {
    outside += estimate.waves *
               (cost.split_k_start + values * 2 * (1 - 1.0 / plan.split_k) * cost.split_k_value);
  }

  const double cycles_per_us = device.clock_ghz * 1e3;
  const double bytes =
      (problem.n * WeightBytes(config.format) + problem.m * XBytes(config.format)) * problem.k +
      2.0 * problem.m * problem.n;
  estimate.compute = (outside + loop) / cycles_per_us;
  estimate.dram = bytes / device.dram_bytes_per_us;
  estimate.total = outside / cycles_per_us + Together({loop / cycles_per_us, estimate.dram});
  return estimate;
}

}  // namespace dualfp::sm90
