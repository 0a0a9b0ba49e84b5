// dualfp bench gemm --device cuda.

#include <fmt/core.h>

#include <algorithm>
#include <cmath>
#include <memory>

#include "bench/gemm_lab/compare.h"
#include "bench/gemm_lab/gemm_lab.h"
#include "bench/gemm_lab/gpu/ceilings.h"
#include "bench/gemm_lab/gpu/gpu_info.h"
#include "bench/gemm_lab/report/formats.h"
#include "bench/gemm_lab/report/plots.h"
#include "bench/gemm_lab/tune/tuner.h"
#include "bench/statistics.h"
#include "dualfp/base/check.h"
#include "dualfp/base/watchdog.h"
#include "dualfp/io/file.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"
#include "dualfp/kernels/cuda/sm90/select/device_model.h"

namespace dualfp {
namespace {

constexpr std::chrono::milliseconds kHangLimit{60'000};  // of a point

std::vector<sm90::Plan> PlansFor(const sm90::GemmProblem& problem, int top,
                                 const sm90::DeviceModel& device, const sm90::Tables& tables) {
  std::vector<sm90::Plan> plans = {sm90::Choose(problem, device, tables).plan};
  const std::vector<sm90::RankedPlan> ranked =
      top > 0 ? sm90::RankPlans(problem, device) : std::vector<sm90::RankedPlan>();
  for (const sm90::RankedPlan& candidate : ranked) {
    if (static_cast<int>(plans.size()) < top && Name(candidate.plan) != Name(plans.front())) {
      plans.push_back(candidate.plan);
    }
  }
  return plans;
}

// Before anything is measured: a run of hours should not end at its last format.
void CheckKernels(const GpuBenchArguments& arguments, const sm90::DeviceModel& device) {
  for (const std::string& format : arguments.formats) {
    for (const GemmShape& shape : arguments.shapes) {
      gpu::PlansAt({FormatByName(format).weights, shape.n, shape.k, arguments.m.front()}, device);
    }
  }
}

void PrintHeader() {
  fmt::print("{:<12} {:>13} {:>5} {:>9} {:>9} {:>6} {:>9} {:>8} {:>7} {:>8} {:>9}  {}\n", "format",
             "N,K", "M", "cublas us", "ours us", "speed", "no-PDL us", "+quant.", "TFLOP/s", "GB/s",
             "error", "plan");
}

void PrintRow(const GemmRecord& r) {
  const auto time = [](double us) { return us > 0 ? fmt::format("{:.2f}", us) : "-"; };
  fmt::print(
      "{:<12} {:>13} {:>5} {:>9} {:>9.2f} {:>6} {:>9.2f} {:>8} {:>7.1f} {:>8.0f} {:>9.1e}  {}\n",
      r.format, fmt::format("{},{}", r.n, r.k), r.m, time(r.cublaslt_microseconds), r.microseconds,
      r.cublaslt_microseconds > 0 ? fmt::format("{:.3f}", r.Speed()) : "-",
      r.no_overlap_microseconds, time(r.with_quantize_microseconds),
      r.Operations() / r.microseconds * 1e-6, r.Bytes() / r.microseconds * 1e-3, r.error, r.plan);
}

void PrintSummary(const std::vector<GemmRecord>& records) {
  for (const GemmFormat& format : GemmFormats()) {
    GeometricMean speed;
    for (const GemmRecord& record : records) {
      if (record.format == format.name && record.cublaslt_microseconds > 0) {
        speed.Add(record.Speed());
      }
    }
    if (speed.count() > 0) {
      fmt::print("{}: speed over {} {:.3f} (geometric mean of {}), worst {:.3f}\n", format.title,
                 format.baseline, speed.Mean(), speed.count(), speed.worst());
    }
  }
}

Json CeilingsRecord(const Ceilings& ceilings) {
  return {{"kind", "ceilings"},
          {"copy_tb_s", ceilings.bytes_per_microsecond * 1e-6},
          {"fp16_tflop_s", ceilings.fp16_flop_per_microsecond * 1e-6},
          {"fp8_tflop_s", ceilings.fp8_flop_per_microsecond * 1e-6}};
}

}  // namespace

void RunGpuGemmBench(const GpuBenchArguments& arguments) {
  const gpu::GpuInfo info = gpu::SelectGpus({}, "bench gemm").front();
  cuda::CheckCuda(cudaSetDevice(info.index), "cudaSetDevice");
  cudaStream_t stream = nullptr;
  cuda::CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  const sm90::DeviceModel device = sm90::CurrentDevice();
  const sm90::Tables tables = sm90::DefaultTables(device);
  CheckKernels(arguments, device);
  const std::unique_ptr<gpu::CublasLt> baseline = gpu::OpenCublasLt("dualfp is measured alone");

  Json run = gpu::RunRecord(info, arguments.command);
  run["cublaslt"] = baseline != nullptr ? baseline->version() : "none";
  const Ceilings ceilings = gpu::MeasureCeilings(baseline.get(), stream);
  std::string lines = run.dump() + "\n" + CeilingsRecord(ceilings).dump() + "\n";
  fmt::print(
      "{}, driver {}, CUDA {}, cuBLASLt {}; copy {:.2f} TB/s, FP16 {:.0f}, FP8 {:.0f} TFLOP/s\n",
      info.name, run["driver"].get<std::string>(), run["cuda"].get<std::string>(),
      run["cublaslt"].get<std::string>(), ceilings.bytes_per_microsecond * 1e-6,
      ceilings.fp16_flop_per_microsecond * 1e-6, ceilings.fp8_flop_per_microsecond * 1e-6);
  PrintHeader();

  Watchdog dog(kHangLimit);
  std::vector<GemmRecord> records;
  const int max_m = *std::max_element(arguments.m.begin(), arguments.m.end());
  for (const GemmShape& shape : arguments.shapes) {
    gpu::GemmData data(shape.n, shape.k, max_m, gpu::GemmData::CopiesFor(shape.n, shape.k), stream);
    for (const std::string& format_name : arguments.formats) {
      const GemmFormat& format = FormatByName(format_name);
      for (const int m : arguments.m) {
        const Watchdog::Watch watch(dog, [&] {
          fmt::print(stderr, "dualfp: error: bench gemm: {} N {} K {} M {} did not finish\n",
                     format_name, shape.n, shape.k, m);
        });
        data.Prepare(format, m, stream);
        const std::vector<sm90::Plan> plans =
            PlansFor(data.Problem(0), arguments.top, device, tables);
        records.push_back(gpu::MeasureGemm(data, plans, baseline.get(), stream));
        lines += ToJson(records.back()).dump() + "\n";
        PrintRow(records.back());
        std::fflush(stdout);
      }
    }
    // After each shape, so that a run that is cut short leaves what it has.
    if (!arguments.json.empty()) {
      WriteFileAtomically(arguments.json, lines);
    }
  }
  PrintSummary(records);
  if (!arguments.plots.empty()) {
    WritePlots(arguments.plots, SpeedPlots(records));
    WritePlots(arguments.plots, RatePlots(records, CompleteCeilings(ceilings, records)));
  }
}

}  // namespace dualfp
