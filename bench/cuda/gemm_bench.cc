// GPU benchmarks that dualfp bench gemm does not have.
//
//   gemm_bench check                       every kernel on odd shapes against FP64
//   gemm_bench speed FORMAT [options]      tune each point, then time it alternating with cuBLASLt
//   gemm_bench quantize | planes           bandwidth of the elementwise kernels against a copy
//   gemm_bench clusters                    CTAs that run at one time, by cluster size
//
// Options: --shape N,K (repeatable) --m 1,16,... --top T --out FILE --lib PATH --only SUBSTRING
// One table row a point on standard output, one JSON line a measurement in FILE.

#include <cuda_runtime.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "apps/gemm/formats.h"
#include "apps/gpu/ceilings.h"
#include "apps/gpu/cublaslt.h"
#include "apps/gpu/device_memory.h"
#include "apps/gpu/device_tools.h"
#include "apps/gpu/gemm_data.h"
#include "apps/gpu/gemm_speed.h"
#include "apps/gpu/graph_replay.h"
#include "apps/statistics.h"
#include "dualfp/base/check.h"
#include "dualfp/base/watchdog.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/kernels/cuda/quantize.h"
#include "dualfp/kernels/cuda/sm90/gemm.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"

namespace dualfp::gpu {
namespace {

using cuda::CheckCuda;

struct Options {
  std::string command;
  std::string format = "nested";
  std::vector<std::pair<int, int>> shapes;
  std::vector<int> ms;
  int top = 24;
  std::string out;
  std::string library;
  std::string only;
};

std::vector<int> ParseInts(const char* text) {
  std::vector<int> values;
  for (const char* p = text; *p != '\0';) {
    char* end;
    values.push_back(static_cast<int>(std::strtol(p, &end, 10)));
    p = *end == ',' ? end + 1 : end;
  }
  return values;
}

Options Parse(int argc, char** argv) {
  Options options;
  std::vector<std::string> positional;
  for (int i = 1; i < argc; ++i) {
    const std::string flag = argv[i];
    const auto value = [&] {
      Check(i + 1 < argc, ErrorCode::kInvalidArgument, flag, " needs a value");
      return argv[++i];
    };
    if (flag == "--shape") {
      const std::vector<int> pair = ParseInts(value());
      options.shapes.emplace_back(pair.at(0), pair.at(1));
    } else if (flag == "--m") {
      options.ms = ParseInts(value());
    } else if (flag == "--top") {
      options.top = std::atoi(value());
    } else if (flag == "--out") {
      options.out = value();
    } else if (flag == "--lib") {
      options.library = value();
    } else if (flag == "--only") {
      options.only = value();
    } else {
      positional.push_back(flag);
    }
  }
  Check(!positional.empty(), ErrorCode::kInvalidArgument, "a command is expected");
  options.command = positional[0];
  if (positional.size() > 1) {
    options.format = positional[1];
  }
  if (options.shapes.empty()) {
    options.shapes = {{6144, 4096},  {4096, 4096},  {28672, 4096},
                      {4096, 14336}, {65536, 5120}, {5120, 32768}};
  }
  if (options.ms.empty()) {
    options.ms = {1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
  }
  return options;
}

constexpr std::chrono::milliseconds kHangLimit{15'000};

void Speed(const Options& options, cudaStream_t stream, FILE* out) {
  const GemmFormat& format = FormatByName(options.format);
  const bool fp8 = IsFp8(format.name);
  std::unique_ptr<CublasLt> baseline;
  try {
    if (!options.library.empty()) {
      setenv("DUALFP_CUBLASLT", options.library.c_str(), 1);
    }
    baseline = std::make_unique<CublasLt>();
    std::printf("cuBLASLt %s\n", baseline->version().c_str());
  } catch (const Error& error) {
    std::printf("no baseline: %s\n", error.what());
  }
  std::printf("%-12s %5s | %9s %9s %6s | %9s %6s | %8s %7s | %s\n", "N,K", "M", "cublas us",
              "ours us", "ratio", "no-PDL us", "ratio", "err", fp8 ? "with-q" : "TF/s", "plan");
  GeometricMean all;
  GeometricMean small;
  GeometricMean without_overlap;
  Watchdog dog(kHangLimit);
  for (const auto& [n, k] : options.shapes) {
    const int max_m = *std::max_element(options.ms.begin(), options.ms.end());
    GemmData data(n, k, max_m, GemmData::CopiesFor(n, k), stream);
    for (const int m : options.ms) {
      data.Prepare(format, m, stream);
      std::vector<sm90::Plan> plans;
      for (const sm90::RankedPlan& candidate :
           sm90::RankPlans(data.Problem(0), sm90::DeviceModel())) {
        if (static_cast<int>(plans.size()) < options.top &&
            Name(candidate.plan).find(options.only) != std::string::npos) {
          plans.push_back(candidate.plan);
        }
      }
      if (plans.empty()) {
        continue;
      }
      const Watchdog::Watch watch(dog, [&, m = m] { std::printf("HUNG at m=%d\n", m); });
      const GemmRecord r = MeasureGemm(data, plans, baseline.get(), stream);
      all.Add(r.Speed());
      without_overlap.Add(r.cublaslt_microseconds / r.no_overlap_microseconds);
      if (m <= 64) {
        small.Add(r.Speed());
      }
      std::printf("%5d,%-6d %5d | %9.2f %9.2f %6.3f | %9.2f %6.3f | %8.1e %7.1f | %s\n", n, k, m,
                  r.cublaslt_microseconds, r.microseconds, r.Speed(), r.no_overlap_microseconds,
                  r.cublaslt_microseconds / r.no_overlap_microseconds, r.error,
                  fp8 ? r.with_quantize_microseconds : r.Operations() / r.microseconds * 1e-6,
                  r.plan.c_str());
      if (out != nullptr) {
        std::fprintf(out, "%s\n", ToJson(r).dump().c_str());
        std::fflush(out);
      }
    }
  }
  std::printf(
      "speed / cuBLASLt: geomean %.3f worst %.3f; M <= 64 geomean %.3f worst %.3f; "
      "without overlap geomean %.3f worst %.3f (%d points)\n",
      all.Mean(), all.worst(), small.Mean(), small.worst(), without_overlap.Mean(),
      without_overlap.worst(), all.count());
}

void CheckAll(const Options& options, cudaStream_t stream) {
  struct Shape {
    int m, n, k;
  };
  const Shape shapes[] = {{1, 272, 144},   {3, 400, 1040},   {17, 1040, 2064}, {63, 528, 4112},
                          {65, 4096, 512}, {257, 1040, 336}, {1000, 784, 1616}};
  int runs = 0;
  int failures = 0;
  Watchdog dog(kHangLimit);
  for (const GemmFormat& format : GemmFormats()) {
    for (const Shape& shape : shapes) {
      GemmData data(shape.n, shape.k, shape.m, 1, stream);
      data.Prepare(format, shape.m, stream);
      for (const sm90::RankedPlan& candidate :
           sm90::RankPlans(data.Problem(0), sm90::DeviceModel())) {
        if (Name(candidate.plan).find(options.only) == std::string::npos) {
          continue;
        }
        const Watchdog::Watch watch(
            dog, [&] { std::printf("HUNG %s\n", Name(candidate.plan).c_str()); });
        data.Poison(stream);
        double error;
        try {
          Launch(candidate.plan, data.Problem(0), stream, runs % 2 == 1);
          error = data.Error(stream);
        } catch (const Error& e) {
          std::printf("FAILED %s m=%d n=%d k=%d: %s\n", Name(candidate.plan).c_str(), shape.m,
                      shape.n, shape.k, e.what());
          throw;
        }
        ++runs;
        if (!(error < format.largest_error)) {
          if (++failures <= 40) {
            std::printf("WRONG %s %s m=%d n=%d k=%d error %.3e\n", format.name,
                        Name(candidate.plan).c_str(), shape.m, shape.n, shape.k, error);
          }
        }
      }
    }
  }
  std::printf("check: %d runs, %d wrong\n", runs, failures);
}

void Clusters() {
  for (const sm90::KernelConfig& config : sm90::KernelConfigs()) {
    if (config.tokens != 16 && config.tokens != 128) {
      continue;
    }
    std::printf("%-36s stages %2d smem %6d CTAs in clusters of 1..8:", Name(config).c_str(),
                config.stages, config.shared_bytes);
    for (int size = 1; size <= 8; ++size) {
      std::printf(" %d", sm90::MaxActiveClusters(config, size) * size);
    }
    std::printf("\n");
  }
}

void Planes(cudaStream_t stream, FILE* out) {
  const double copy = CopyBytesPerMicrosecond(stream);
  std::printf("copy %.3f TB/s\n", copy * 1e-6);
  for (const auto& [rows, columns] : {std::pair{4096, 4096}, {28672, 4096}, {65536, 5120}}) {
    const int n = rows;  // lambdas of C++20 may not capture a binding in every compiler
    const int k = columns;
    GemmData data(n, k, 16, GemmData::CopiesFor(n, k), stream);
    DeviceMemory counts(sizeof(cuda::SplitCounts));
    DeviceMemory merged(int64_t{data.copies()} * n * k * 2);
    FillByte(counts.bytes(), sizeof(cuda::SplitCounts), 0, stream);
    cuda::OutlierSink sink;
    sink.counts = counts.as<cuda::SplitCounts>();
    const int64_t size = int64_t{n} * k;
    const int launches = data.copies() * std::max(1, 8 / data.copies());
    GraphReplay split(stream, launches, [&](int i, cudaStream_t s) {
      const int64_t c = i % data.copies();
      cuda::SplitPlanes(data.w16() + c * size * 2, n, k, data.upper() + c * size,
                        data.lower() + c * size, sink, s);
    });
    GraphReplay merge(stream, launches, [&](int i, cudaStream_t s) {
      const int64_t c = i % data.copies();
      cuda::MergePlanes(data.upper() + c * size, data.lower() + c * size, n, k,
                        merged.bytes() + c * size * 2, s);
    });
    const double split_rate = 4.0 * size / MedianMicroseconds(split, 5) / copy;
    const double merge_rate = 4.0 * size / MedianMicroseconds(merge, 5) / copy;
    std::vector<uint16_t> a(size);
    std::vector<uint16_t> b(size);
    cudaMemcpy(a.data(), data.w16(), size * 2, cudaMemcpyDeviceToHost);
    cudaMemcpy(b.data(), merged.bytes(), size * 2, cudaMemcpyDeviceToHost);
    std::printf("planes %d,%d: split %.2f of copy, merge %.2f of copy, %s\n", n, k, split_rate,
                merge_rate, a == b ? "round trip exact" : "ROUND TRIP WRONG");
    if (out != nullptr) {
      std::fprintf(out,
                   "{\"kind\":\"planes\",\"n\":%d,\"k\":%d,\"split_of_copy\":%.3f,"
                   "\"merge_of_copy\":%.3f,\"copy_tb_s\":%.3f}\n",
                   n, k, split_rate, merge_rate, copy * 1e-6);
    }
  }
}

void QuantizeSpeed(cudaStream_t stream, FILE* out) {
  const double copy = CopyBytesPerMicrosecond(stream);
  std::printf("copy %.3f TB/s\n%-8s %6s %6s | %9s %9s\n", copy * 1e-6, "source", "K", "M", "us",
              "of copy");
  constexpr const char* kNames[] = {"plain", "rmsnorm", "silu_mul", "halves", "tensor"};
  for (const int k : {4096, 14336, 32768}) {
    for (int source = 0; source < 5; ++source) {
      for (const int m : {1, 16, 256, 1024, 2048, 4096}) {
        const bool pair = source == 2 || source == 3;
        const int64_t in_elements = int64_t{m} * k * (pair ? 2 : 1);
        const int copies =
            static_cast<int>(std::clamp<int64_t>(180'000'000 / (in_elements * 2) + 1, 2, 64));
        DeviceMemory x(in_elements * 2 * copies);
        DeviceMemory q(int64_t{m} * k * copies);
        DeviceMemory residual(int64_t{m} * k * 2 * copies);
        DeviceMemory weight(k * 2);
        DeviceMemory scale(std::max<int64_t>(m, cuda::kPerTensorFloats) * 4);
        FillNormal(x.bytes(), in_elements * copies, 1.0f, 100.0f, 5, stream);
        FillNormal(residual.bytes(), int64_t{m} * k * copies, 0.001f, 100.0f, 6, stream);
        FillNormal(weight.bytes(), k, 1.0f, 100.0f, 7, stream);
        GraphReplay replay(stream, copies * std::max(1, 32 / copies), [&](int i, cudaStream_t s) {
          const int c = i % copies;
          if (source == 4) {
            cuda::QuantizePerTensor(x.bytes() + c * in_elements * 2, k, cuda::QuantizeType::kF16, m,
                                    k, q.bytes() + int64_t{c} * m * k, scale.as<float>(), s);
            return;
          }
          cuda::QuantizeArgs a;
          a.source = static_cast<cuda::QuantizeSource>(source);
          a.m = m;
          a.k = k;
          a.x = x.bytes() + c * in_elements * 2;
          a.x_stride = pair ? 2 * k : k;
          a.residual = source == 1 ? residual.bytes() + int64_t{c} * m * k * 2 : nullptr;
          a.weight = weight.bytes();
          a.q = q.bytes() + int64_t{c} * m * k;
          a.scale = scale.as<float>();
          cuda::Quantize(a, s, true);
        });
        const double us = MedianMicroseconds(replay, 5);
        // Bytes that must move: a per-tensor scale needs x twice only where L2 does not keep it.
        const double bytes = in_elements * 2.0 + 1.0 * m * k + (source == 1 ? 4.0 * m * k : 0.0);
        std::printf("%-8s %6d %6d | %9.2f %9.3f\n", kNames[source], k, m, us, bytes / us / copy);
        if (out != nullptr) {
          std::fprintf(out,
                       "{\"kind\":\"quantize\",\"source\":\"%s\",\"k\":%d,\"m\":%d,\"us\":%.3f,"
                       "\"of_copy\":%.3f}\n",
                       kNames[source], k, m, us, bytes / us / copy);
        }
      }
    }
  }
}

int Main(int argc, char** argv) {
  const Options options = Parse(argc, argv);
  cudaStream_t stream;
  CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  FILE* out = options.out.empty() ? nullptr : std::fopen(options.out.c_str(), "a");
  if (options.command == "check") {
    CheckAll(options, stream);
  } else if (options.command == "speed") {
    Speed(options, stream, out);
  } else if (options.command == "clusters") {
    Clusters();
  } else if (options.command == "planes") {
    Planes(stream, out);
  } else if (options.command == "quantize") {
    QuantizeSpeed(stream, out);
  } else {
    Fail(ErrorCode::kInvalidArgument, "unknown command ", options.command);
  }
  if (out != nullptr) {
    std::fclose(out);
  }
  return 0;
}

}  // namespace
}  // namespace dualfp::gpu

int main(int argc, char** argv) {
  try {
    return dualfp::gpu::Main(argc, argv);
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 1;
  }
}
