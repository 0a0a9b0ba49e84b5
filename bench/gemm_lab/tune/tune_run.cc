// dualfp tune, the part that needs CUDA.

#include <fmt/core.h>

#include <algorithm>
#include <cstdio>
#include <optional>

#include "bench/gemm_lab/gemm_lab.h"
#include "bench/gemm_lab/gpu/gpu_info.h"
#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/tune/gemm_timer.h"
#include "bench/gemm_lab/tune/tuner.h"
#include "dualfp/base/check.h"
#include "dualfp/io/file.h"
#include "dualfp/kernels/cuda/sm90/select/device_model.h"

namespace dualfp {
namespace {

constexpr int kAlternatives = 5;  // that --explain lists

// By shape, so that operands are made once for each.
std::vector<gpu::TunePoint> PointsOf(const TuneArguments& arguments) {
  std::vector<gpu::TunePoint> points;
  for (const GemmShape& shape : arguments.shapes) {
    for (const std::string& format : arguments.formats) {
      for (const int m : arguments.m) {
        points.push_back({FormatByName(format).weights, shape.n, shape.k, m});
      }
    }
  }
  return points;
}

void PrintPoint(const gpu::TunedPoint& tuned, size_t done, size_t total) {
  fmt::print(stderr, "[{}/{}] {}: {:.2f} us, {} (of {} plans)\n", done, total, ToText(tuned.point),
             tuned.microseconds, tuned.plan, tuned.timed.size());
}

void SaveTable(const std::string& output, const sm90::TunedTable& table) {
  WriteFileAtomically(output, table.ToText());
  fmt::print("{}: {} rows for {}; DUALFP_TUNED_TABLE={} makes dualfp use it\n", output,
             table.rows.size(), table.device, output);
}

}  // namespace

void RunTune(const TuneArguments& arguments) {
  const std::vector<gpu::GpuInfo> gpus = gpu::SelectGpus(arguments.gpus, "tune");
  for (const gpu::GpuInfo& other : gpus) {
    Check(other.name == gpus.front().name, ErrorCode::kUnsupported, "tune: GPU ", other.index,
          " is ", other.name, ", GPU ", gpus.front().index, " ", gpus.front().name,
          ": choose GPUs of one kind with --gpus");
  }
  cuda::CheckCuda(cudaSetDevice(gpus.front().index), "cudaSetDevice");
  gpu::TuneOptions options;
  options.top = arguments.top;
  options.device = sm90::CurrentDevice();
  const std::vector<gpu::TunePoint> points = PointsOf(arguments);
  gpu::TuneLog log(arguments.log, gpu::RunRecord(gpus.front(), arguments.command));
  const size_t finished = std::count_if(points.begin(), points.end(),
                                        [&](const gpu::TunePoint& p) { return log.Has(p); });
  fmt::print(stderr, "Tuning {} points on {} x {}; {} are in {} already\n", points.size(),
             gpus.size(), gpus.front().name, finished, arguments.log);
  options.progress = [&](const gpu::TunedPoint& tuned, size_t done) {
    if (arguments.progress) {
      arguments.progress(static_cast<int64_t>(done), static_cast<int64_t>(points.size()));
    } else {
      PrintPoint(tuned, done, points.size());
    }
  };
  const int max_m = *std::max_element(arguments.m.begin(), arguments.m.end());
  const auto make_timer = [&](int index) {
    return std::make_unique<gpu::GemmTimer>(gpus[index].index, max_m);
  };
  gpu::Tune(points, static_cast<int>(gpus.size()), make_timer, options, log);
  if (log.failures() > 0) {
    fmt::print(stderr, "dualfp: warning: tune: {} plans failed and were left out; see {}\n",
               log.failures(), arguments.log);
  }
  SaveTable(arguments.output, gpu::TableFromRecords({arguments.log}));
}

void WriteTable(const std::vector<std::string>& records, const std::string& output) {
  SaveTable(output, gpu::TableFromRecords({records.begin(), records.end()}));
}

void ExplainChoice(int n, int k, int m, const std::vector<std::string>& formats,
                   const std::string& table) {
  // Without a GPU, for the default device of the model.
  int count = 0;
  const bool has_gpu = cudaGetDeviceCount(&count) == cudaSuccess && count > 0;
  const sm90::DeviceModel device = has_gpu ? sm90::CurrentDevice() : sm90::DeviceModel();
  sm90::Tables tables = sm90::DefaultTables(device);
  std::optional<sm90::TunedTable> extra;
  if (!table.empty()) {
    extra = sm90::LoadTunedTable(table);
    tables.insert(tables.begin(), &*extra);
  }
  for (const std::string& format : formats) {
    const gpu::TunePoint point{FormatByName(format).weights, n, k, m};
    gpu::PlansAt(point, device);  // for its error
    fmt::print("{}{}", format == formats.front() ? "" : "\n",
               sm90::Explain(ProblemOf(point), device, tables, kAlternatives));
  }
}

}  // namespace dualfp
