// Fits the cost model's constants to what dualfp tune recorded.
//
//   fit_cost_model RECORDS.jsonl... [--steps N]
//
// Minimises the time lost by choosing by estimate, over the weights of IsFittedShape(); all others
// only judge. Prints the constants as C++ initialisers, the quality before and after, and the worst
// choices. Random coordinate steps, seeded: the same records give the same constants.

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/report/shapes.h"
#include "bench/gemm_lab/tune/tune_log.h"
#include "bench/statistics.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"

namespace dualfp::gpu {
namespace {

using sm90::PlanCosts;

// Estimates this close count as a tie when plans are weighed: makes the loss smooth.
constexpr double kTemperature = 0.03;
// Of the squared logarithmic error of estimates, mostly of good plans: keeps the constants
// physical. What all plans of a point have in common counts for less, since it changes no choice
// (the clock falls where tensor cores work for long).
constexpr double kErrorWeight = 3;
constexpr double kCommonShare = 0.1;
constexpr size_t kWorstShown = 12;

struct Constant {
  const char* name;
  double PlanCosts::*value;
};

constexpr Constant kConstants[] = {
    {"wgmma_cycles", &PlanCosts::wgmma_cycles},
    {"shared_bytes_cycle", &PlanCosts::shared_bytes_cycle},
    {"decode_cycles", &PlanCosts::decode_cycles},
    {"decode12_f16_cycles", &PlanCosts::decode12_f16_cycles},
    {"decode12_bf16_cycles", &PlanCosts::decode12_bf16_cycles},
    {"add_cycles", &PlanCosts::add_cycles},
    {"drain_cycles", &PlanCosts::drain_cycles},
    {"tpc_bytes_cycle", &PlanCosts::tpc_bytes_cycle},
    {"outside_cycles", &PlanCosts::outside_cycles},
    {"l2_bytes_cycle", &PlanCosts::l2_bytes_cycle},
    {"latency_cycles", &PlanCosts::latency_cycles},
    {"alone_cycles", &PlanCosts::alone_cycles},
    {"split_start", &PlanCosts::split_start},
    {"split_value", &PlanCosts::split_value},
    {"sum_value", &PlanCosts::sum_value},
    {"split_k_start", &PlanCosts::split_k_start},
    {"split_k_value", &PlanCosts::split_k_value},
    {"cluster_start", &PlanCosts::cluster_start},
    {"ping_pong_start", &PlanCosts::ping_pong_start},
    {"placement_start", &PlanCosts::placement_start},
    {"follow_start", &PlanCosts::follow_start},
};

struct Point {
  TunePoint point;
  sm90::GemmProblem problem;
  std::vector<std::pair<sm90::Plan, double>> timed;  // microseconds
  double best = 1e30;
  bool fitted = false;
};

std::vector<Point> ReadPoints(const std::vector<std::filesystem::path>& files) {
  std::vector<Point> points;
  for (const TunedPoint& tuned : ReadTunedPoints(files)) {
    Point point;
    point.point = tuned.point;
    point.problem = ProblemOf(tuned.point);
    for (const auto& [name, microseconds] : tuned.timed) {
      point.timed.emplace_back(sm90::PlanByName(name), microseconds);
      point.best = std::min(point.best, microseconds);
    }
    point.fitted = IsFittedShape(tuned.point.n, tuned.point.k);
    points.push_back(std::move(point));
  }
  return points;
}

// The index of the plan with the least estimate.
size_t Chosen(const Point& point, const sm90::DeviceModel& device) {
  size_t chosen = 0;
  double least = 1e30;
  for (size_t i = 0; i < point.timed.size(); ++i) {
    const double estimate = EstimateCost(point.timed[i].first, point.problem, device).total;
    if (estimate < least) {
      least = estimate;
      chosen = i;
    }
  }
  return chosen;
}

// Mean logarithm of the time lost, plans weighed by how close their estimate is to the least, and
// the estimates' error.
double Loss(const std::vector<Point>& points, const sm90::DeviceModel& device) {
  double loss = 0;
  int count = 0;
  std::vector<double> estimates;
  for (const Point& point : points) {
    if (!point.fitted) {
      continue;
    }
    estimates.clear();
    double least = 1e30;
    for (const auto& [plan, microseconds] : point.timed) {
      estimates.push_back(EstimateCost(plan, point.problem, device).total);
      least = std::min(least, estimates.back());
    }
    double weights = 0;
    double lost = 0;
    double error = 0;
    double squared_error = 0;
    double nears = 0;
    for (size_t i = 0; i < estimates.size(); ++i) {
      const double weight = std::exp(-std::log(estimates[i] / least) / kTemperature);
      weights += weight;
      // Squared in part: bad choices count for more than many small ones.
      const double log_lost = std::log(point.timed[i].second / point.best);
      lost += weight * (log_lost + 4 * log_lost * log_lost);
      const double log_error = std::log(estimates[i] / point.timed[i].second);
      const double near = std::pow(point.best / point.timed[i].second, 4);
      error += near * log_error;
      squared_error += near * log_error * log_error;
      nears += near;
    }
    const double common = error / nears;
    loss += lost / weights +
            kErrorWeight * (squared_error / nears - (1 - kCommonShare) * common * common);
    ++count;
  }
  return loss / count;
}

void PrintQuality(const char* title, const std::vector<Point>& points,
                  const sm90::DeviceModel& device) {
  for (const std::string& name : TunedFormatNames()) {
    const sm90::WeightFormat format = FormatByName(name).weights;
    GeometricMean seen;
    GeometricMean unseen;
    for (const Point& point : points) {
      if (point.point.format == format) {
        const double ratio = point.best / point.timed[Chosen(point, device)].second;
        (point.fitted ? seen : unseen).Add(ratio);
      }
    }
    if (seen.count() + unseen.count() == 0) {
      continue;
    }
    std::printf("%s, %s: fitted %.4f worst %.3f (%d), others %.4f worst %.3f (%d)\n", title,
                name.c_str(), seen.Mean(), seen.worst(), seen.count(), unseen.Mean(),
                unseen.worst(), unseen.count());
  }
}

void PrintWorst(const std::vector<Point>& points, const sm90::DeviceModel& device) {
  std::vector<std::pair<double, std::string>> lines;
  for (const Point& point : points) {
    const auto& [plan, microseconds] = point.timed[Chosen(point, device)];
    const auto best =
        std::min_element(point.timed.begin(), point.timed.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    const auto describe = [&](const sm90::Plan& p, double us) {
      return StrCat(Name(p), " ", us, " us (estimated ",
                    EstimateCost(p, point.problem, device).total, ")");
    };
    lines.emplace_back(best->second / microseconds,
                       StrCat(ToText(point.point), ": ", describe(plan, microseconds), ", best ",
                              describe(best->first, best->second)));
  }
  std::sort(lines.begin(), lines.end());
  for (size_t i = 0; i < std::min(kWorstShown, lines.size()); ++i) {
    std::printf("%.3f %s\n", lines[i].first, lines[i].second.c_str());
  }
}

int Main(int argc, char** argv) {
  std::vector<std::filesystem::path> files;
  int steps = 10'000;
  for (int i = 1; i < argc; ++i) {
    if (std::string(argv[i]) == "--steps" && i + 1 < argc) {
      steps = std::atoi(argv[++i]);
    } else {
      files.emplace_back(argv[i]);
    }
  }
  Check(!files.empty(), ErrorCode::kInvalidArgument, "usage: fit_cost_model RECORDS.jsonl...");
  const std::vector<Point> points = ReadPoints(files);
  sm90::DeviceModel device;
  PrintQuality("before", points, device);
  std::mt19937 random(1);
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> uniform;
  std::uniform_int_distribution<size_t> pick(0, std::size(kConstants) - 1);
  const PlanCosts defaults = device.cost;
  PlanCosts best_cost = device.cost;
  double best = Loss(points, device);
  double current = best;
  for (int step = 0; step < steps; ++step) {
    const PlanCosts kept = device.cost;
    for (int changes = 1 + step % 2; changes > 0; --changes) {
      const Constant& constant = kConstants[pick(random)];
      double& value = device.cost.*constant.value;
      // Now and then from the start again: a product never leaves zero.
      value =
          (random() % 8 == 0 ? defaults.*constant.value : value) * std::exp(0.25 * normal(random));
    }
    // Annealing: worse is accepted while the temperature is high.
    const double temperature = 2e-3 * (1 - static_cast<double>(step) / steps);
    const double loss = Loss(points, device);
    if (loss < current || std::exp((current - loss) / (temperature + 1e-9)) > uniform(random)) {
      current = loss;
    } else {
      device.cost = kept;
    }
    if (current < best) {
      best = current;
      best_cost = device.cost;
    }
  }
  device.cost = best_cost;
  for (const Constant& constant : kConstants) {
    std::printf("  double %s = %.4g;\n", constant.name, device.cost.*constant.value);
  }
  PrintQuality("after", points, device);
  PrintWorst(points, device);
  return 0;
}

}  // namespace
}  // namespace dualfp::gpu

int main(int argc, char** argv) {
  try {
    return dualfp::gpu::Main(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "error: %s\n", error.what());
    return 1;
  }
}
