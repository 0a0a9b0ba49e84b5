// GPU benchmark of the Hopper GEMMs against cuBLASLt, correctness beside speed, in one process.
//
//   gemm_bench check                       every kernel on odd shapes against FP64
//   gemm_bench speed nested|fp8 [options]  tune each point, then time it alternating with cuBLASLt
//   gemm_bench quantize | planes           bandwidth of the elementwise kernels against a copy
//
// Options: --shape N,K (repeatable) --m 1,16,... --top T --out FILE --lib PATH --only SUBSTRING
// One table row a point on standard output, one JSON line a measurement in FILE.

#include <cuda_runtime.h>
#include <unistd.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "bench/cuda/cublaslt.h"
#include "bench/cuda/device_tools.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/kernels/cuda/quantize.h"
#include "dualfp/kernels/cuda/sm90/choose.h"
#include "dualfp/kernels/cuda/sm90/gemm.h"

namespace dualfp::bench {
namespace {

using cuda::CheckCuda;

class DeviceMemory {
 public:
  explicit DeviceMemory(int64_t bytes) {
    CheckCuda(cudaMalloc(&data_, std::max<int64_t>(bytes, 16)), "cudaMalloc");
  }
  ~DeviceMemory() { cudaFree(data_); }
  DeviceMemory(const DeviceMemory&) = delete;
  DeviceMemory& operator=(const DeviceMemory&) = delete;

  uint8_t* bytes() const { return static_cast<uint8_t*>(data_); }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
};

struct Options {
  std::string command;
  std::string format = "nested";
  std::vector<std::pair<int, int>> shapes;
  std::vector<int> ms;
  int top = 24;
  std::string out;
  std::string library = "libcublasLt.so.13";
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

// A captured graph of `launches` calls of enqueue(i, stream).
class Replay {
 public:
  template <class Enqueue>
  Replay(cudaStream_t stream, int launches, const Enqueue& enqueue)
      : stream_(stream), launches_(launches) {
    CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
    for (int i = 0; i < launches; ++i) {
      enqueue(i, stream);
    }
    cudaGraph_t graph;
    CheckCuda(cudaStreamEndCapture(stream, &graph), "end capture");
    CheckCuda(cudaGraphInstantiate(&graph_, graph, 0), "instantiate");
    cudaGraphDestroy(graph);
    cudaEventCreate(&begin_);
    cudaEventCreate(&end_);
  }
  ~Replay() {
    cudaGraphExecDestroy(graph_);
    cudaEventDestroy(begin_);
    cudaEventDestroy(end_);
  }
  Replay(const Replay&) = delete;
  Replay& operator=(const Replay&) = delete;

  void Warm() { CheckCuda(cudaGraphLaunch(graph_, stream_), "graph launch"); }

  double MicrosecondsEach() {
    cudaEventRecord(begin_, stream_);
    CheckCuda(cudaGraphLaunch(graph_, stream_), "graph launch");
    cudaEventRecord(end_, stream_);
    CheckCuda(cudaEventSynchronize(end_), "synchronize");
    float ms = 0.0f;
    cudaEventElapsedTime(&ms, begin_, end_);
    return ms * 1e3 / launches_;
  }

 private:
  cudaStream_t stream_;
  int launches_;
  cudaGraphExec_t graph_;
  cudaEvent_t begin_;
  cudaEvent_t end_;
};

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// Ends the process if the device does not come back: a hung kernel cannot be stopped otherwise.
constexpr unsigned kWatchdogSeconds = 15;

double Screen(Replay& replay, int samples) {
  alarm(kWatchdogSeconds);
  replay.Warm();
  std::vector<double> values;
  for (int i = 0; i < samples; ++i) {
    values.push_back(replay.MicrosecondsEach());
  }
  return Median(values);
}

// Weights of one shape (several copies, so that L2 cannot hold them) and activations of every M.
struct Data {
  int n;
  int k;
  int max_m;
  int copies;
  DeviceMemory w16;
  DeviceMemory upper;
  DeviceMemory lower;
  DeviceMemory x16;
  DeviceMemory x8;
  DeviceMemory x_scale;
  DeviceMemory y;
  DeviceMemory rows;
  DeviceMemory reference;
  DeviceMemory error;
  DeviceMemory workspace;

  static constexpr int kRows = 8;

  Data(int n_in, int k_in, int m_in, int copies_in, cudaStream_t stream)
      : n(n_in),
        k(k_in),
        max_m(m_in),
        copies(copies_in),
        w16(int64_t{copies} * n * k * 2),
        upper(int64_t{copies} * n * k),
        lower(int64_t{copies} * n * k),
        x16(int64_t{m_in} * k * 2),
        x8(int64_t{m_in} * k),
        x_scale(int64_t{m_in} * 4),
        y(int64_t{m_in} * n * 2),
        rows(kRows * sizeof(int)),
        reference(int64_t{kRows} * n * sizeof(double)),
        error(2 * sizeof(double)),
        workspace(sm90::kStreamWorkspaceBytes) {
    FillByte(workspace.bytes(), sm90::kStreamFlagBytes, 0, stream);
    FillNormal(w16.bytes(), int64_t{copies} * n * k, 0.02f, 1.75f, 1 + n, stream);
    FillNormal(x16.bytes(), int64_t{max_m} * k, 1.0f, 100.0f, 7 + k, stream);
    DeviceMemory counts(sizeof(cuda::SplitCounts));
    FillByte(counts.bytes(), sizeof(cuda::SplitCounts), 0, stream);
    cuda::OutlierSink sink;
    sink.counts = counts.as<cuda::SplitCounts>();
    cuda::SplitPlanes(w16.bytes(), int64_t{copies} * n, k, upper.bytes(), lower.bytes(), sink,
                      stream);
    cuda::QuantizeArgs quantize;
    quantize.m = max_m;
    quantize.k = k;
    quantize.x = x16.bytes();
    quantize.x_stride = k;
    quantize.q = x8.bytes();
    quantize.scale = x_scale.as<float>();
    cuda::Quantize(quantize, stream, false);
    CheckCuda(cudaStreamSynchronize(stream), "fill");
  }

  sm90::GemmProblem Problem(bool fp8, int m, int copy) const {
    sm90::GemmProblem p;
    p.format = fp8 ? sm90::WeightFormat::kE4m3 : sm90::WeightFormat::kNested;
    p.m = m;
    p.n = n;
    p.k = k;
    p.w = upper.bytes() + int64_t{copy} * n * k;
    p.w_lower = lower.bytes() + int64_t{copy} * n * k;
    p.x = fp8 ? x8.bytes() : x16.bytes();
    p.x_stride = k;
    p.workspace = workspace.bytes();
    p.epilogue.y = y.bytes();
    p.epilogue.y_stride = n;
    if (fp8) {
      p.epilogue.alpha = 1.0f / 256;
      p.epilogue.x_scale = x_scale.as<float>();
      p.epilogue.x_scale_stride = 1;
    }
    return p;
  }

  // Prepares Error() for weights copy 0.
  void MakeReference(bool fp8, int m, cudaStream_t stream) {
    std::mt19937 random(m);
    std::vector<int> chosen{0, m - 1};
    while (chosen.size() < kRows) {
      chosen.push_back(static_cast<int>(random() % m));
    }
    CheckCuda(cudaMemcpyAsync(rows.bytes(), chosen.data(), kRows * sizeof(int),
                              cudaMemcpyHostToDevice, stream),
              "copy");
    Reference(fp8 ? x8.bytes() : x16.bytes(), fp8 ? upper.bytes() : w16.bytes(), fp8,
              rows.as<int>(), kRows, n, k, reference.as<double>(), stream);
  }

  void Poison(int m, cudaStream_t stream) { FillByte(y.bytes(), int64_t{m} * n * 2, 0xFF, stream); }

  // Relative Frobenius error of Y over the sampled rows.
  double Error(bool fp8, cudaStream_t stream) {
    FillByte(error.bytes(), 2 * sizeof(double), 0, stream);
    Compare(y.bytes(), n, rows.as<int>(), kRows, n, reference.as<double>(), fp8 ? 256.0 : 1.0,
            fp8 ? x_scale.as<float>() : nullptr, error.as<double>(), stream);
    double host[2];
    CheckCuda(cudaMemcpyAsync(host, error.bytes(), sizeof(host), cudaMemcpyDeviceToHost, stream),
              "copy");
    CheckCuda(cudaStreamSynchronize(stream), "Error");
    return std::sqrt(host[0] / host[1]);
  }
};

struct Summary {
  double log_sum = 0.0;
  double worst = 1e9;
  int count = 0;
  void Add(double ratio) {
    log_sum += std::log(ratio);
    worst = std::min(worst, ratio);
    ++count;
  }
  double Mean() const { return count == 0 ? 0.0 : std::exp(log_sum / count); }
};

void Speed(const Options& options, cudaStream_t stream, FILE* out) {
  const bool fp8 = options.format == "fp8";
  std::unique_ptr<CublasLt> baseline;
  try {
    baseline = std::make_unique<CublasLt>(options.library);
    std::printf("cuBLASLt %zu\n", baseline->version());
  } catch (const Error& error) {
    std::printf("no baseline: %s\n", error.what());
  }
  std::printf("%-12s %5s | %9s %9s %6s | %9s %6s | %8s %7s | %s\n", "N,K", "M", "cublas us",
              "ours us", "ratio", "no-PDL us", "ratio", "err", fp8 ? "with-q" : "TF/s", "plan");
  Summary all;
  Summary small;
  Summary without_overlap;
  for (const auto& [n, k] : options.shapes) {
    const int copies = std::max<int>(2, 170'000'000 / (int64_t{n} * k) + 1);
    const int max_m = *std::max_element(options.ms.begin(), options.ms.end());
    Data data(n, k, max_m, copies, stream);
    for (const int m : options.ms) {
      data.MakeReference(fp8, m, stream);
      const double flops = 2.0 * m * n * k;
      const double guess = 3 + std::max(flops / 7e8, n * 1.0 * k * (fp8 ? 1 : 2) / 4.2e6);
      const int launches = copies * std::max(1, static_cast<int>(400 / (guess * copies)));
      // Baseline algorithms.
      int best_algorithm = -1;
      double best_baseline = 1e30;
      if (baseline != nullptr) {
        CublasLt::Problem p;
        p.fp8 = fp8;
        p.m = m;
        p.n = n;
        p.k = k;
        p.w = fp8 ? data.upper.bytes() : data.w16.bytes();
        p.x = fp8 ? data.x8.bytes() : data.x16.bytes();
        p.y = data.y.bytes();
        const int found = baseline->Prepare(p, 8);
        for (int a = 0; a < found; ++a) {
          Replay replay(stream, launches, [&](int i, cudaStream_t s) {
            baseline->Run(
                a, static_cast<const uint8_t*>(p.w) + int64_t{i % copies} * n * k * (fp8 ? 1 : 2),
                s);
          });
          const double us = Screen(replay, 3);
          if (us < best_baseline) {
            best_baseline = us;
            best_algorithm = a;
          }
        }
      }
      // Our plans, most promising first.
      std::vector<sm90::RankedPlan> plans =
          sm90::RankPlans(data.Problem(fp8, m, 0), sm90::DeviceModel());
      if (!options.only.empty()) {
        std::erase_if(plans, [&](const sm90::RankedPlan& p) {
          return Name(p.plan).find(options.only) == std::string::npos;
        });
      }
      if (static_cast<int>(plans.size()) > options.top) {
        plans.resize(options.top);
      }
      struct Timed {
        const sm90::Plan* plan;
        double us;
        double error;
      };
      std::vector<Timed> timed;
      for (const sm90::RankedPlan& candidate : plans) {
        alarm(kWatchdogSeconds);
        data.Poison(m, stream);
        Launch(candidate.plan, data.Problem(fp8, m, 0), stream, false);
        const double error = data.Error(fp8, stream);
        Replay replay(stream, launches, [&](int i, cudaStream_t s) {
          Launch(candidate.plan, data.Problem(fp8, m, i % copies), s, true);
        });
        const double us = Screen(replay, 3);
        if (out != nullptr) {
          std::fprintf(out,
                       "{\"kind\":\"candidate\",\"format\":\"%s\",\"n\":%d,\"k\":%d,\"m\":%d,"
                       "\"plan\":\"%s\",\"us\":%.3f,\"model_us\":%.3f,\"error\":%.3e}\n",
                       options.format.c_str(), n, k, m, Name(candidate.plan).c_str(), us,
                       candidate.microseconds, error);
        }
        if (!(error < (fp8 ? 5e-3 : 5e-4))) {
          std::printf("WRONG %s error %.3e\n", Name(candidate.plan).c_str(), error);
          continue;
        }
        timed.push_back({&candidate.plan, us, error});
      }
      if (timed.empty()) {
        continue;
      }
      // The clock follows the load, so that single screenings mislead: the best few again,
      // alternating.
      std::sort(timed.begin(), timed.end(),
                [](const Timed& a, const Timed& b) { return a.us < b.us; });
      timed.resize(std::min<size_t>(timed.size(), 6));
      std::vector<std::unique_ptr<Replay>> finalists;
      std::vector<std::vector<double>> final_us(timed.size());
      for (const Timed& t : timed) {
        finalists.push_back(std::make_unique<Replay>(stream, launches, [&](int i, cudaStream_t s) {
          Launch(*t.plan, data.Problem(fp8, m, i % copies), s, true);
        }));
      }
      for (int round = 0; round < 5; ++round) {
        for (size_t f = 0; f < timed.size(); ++f) {
          final_us[f].push_back(finalists[f]->MicrosecondsEach());
        }
      }
      for (size_t f = 0; f < timed.size(); ++f) {
        timed[f].us = Median(final_us[f]);
      }
      finalists.clear();
      const Timed& winner = *std::min_element(
          timed.begin(), timed.end(), [](const Timed& a, const Timed& b) { return a.us < b.us; });
      const sm90::Plan* best = winner.plan;
      const double best_error = winner.error;
      // The winners again, alternating.
      Replay ours(stream, launches, [&](int i, cudaStream_t s) {
        Launch(*best, data.Problem(fp8, m, i % copies), s, true);
      });
      Replay plain(stream, launches, [&](int i, cudaStream_t s) {
        Launch(*best, data.Problem(fp8, m, i % copies), s, false);
      });
      std::unique_ptr<Replay> theirs;
      if (best_algorithm >= 0) {
        theirs = std::make_unique<Replay>(stream, launches, [&](int i, cudaStream_t s) {
          const uint8_t* w = fp8 ? data.upper.bytes() : data.w16.bytes();
          baseline->Run(best_algorithm, w + int64_t{i % copies} * n * k * (fp8 ? 1 : 2), s);
        });
      }
      std::unique_ptr<Replay> with_quantize;
      if (fp8) {
        with_quantize = std::make_unique<Replay>(stream, launches, [&](int i, cudaStream_t s) {
          cuda::QuantizeArgs q;
          q.m = m;
          q.k = k;
          q.x = data.x16.bytes();
          q.x_stride = k;
          q.q = data.x8.bytes();
          q.scale = data.x_scale.as<float>();
          cuda::Quantize(q, s, true);
          Launch(*best, data.Problem(fp8, m, i % copies), s, true);
        });
      }
      std::vector<double> samples[4];
      for (int round = 0; round < 6; ++round) {
        Replay* replays[4] = {theirs.get(), &ours, &plain, with_quantize.get()};
        for (int r = 0; r < 4; ++r) {
          if (replays[r] != nullptr) {
            const double us = replays[r]->MicrosecondsEach();
            if (round > 0) {
              samples[r].push_back(us);
            }
          }
        }
      }
      const double ours_us = Median(samples[1]);
      const double plain_us = Median(samples[2]);
      const double theirs_us = theirs == nullptr ? 0.0 : Median(samples[0]);
      const double quantized_us = fp8 ? Median(samples[3]) : 0.0;
      all.Add(theirs_us / ours_us);
      without_overlap.Add(theirs_us / plain_us);
      if (m <= 64) {
        small.Add(theirs_us / ours_us);
      }
      std::printf("%5d,%-6d %5d | %9.2f %9.2f %6.3f | %9.2f %6.3f | %8.1e %7.1f | %s\n", n, k, m,
                  theirs_us, ours_us, theirs_us / ours_us, plain_us, theirs_us / plain_us,
                  best_error, fp8 ? quantized_us : flops / ours_us * 1e-6, Name(*best).c_str());
      std::fflush(stdout);
      if (out != nullptr) {
        std::fprintf(out,
                     "{\"kind\":\"point\",\"format\":\"%s\",\"n\":%d,\"k\":%d,\"m\":%d,"
                     "\"plan\":\"%s\",\"us\":%.3f,\"no_overlap_us\":%.3f,\"cublaslt_us\":%.3f,"
                     "\"with_quantize_us\":%.3f,\"error\":%.3e}\n",
                     options.format.c_str(), n, k, m, Name(*best).c_str(), ours_us, plain_us,
                     theirs_us, quantized_us, best_error);
        std::fflush(out);
      }
    }
  }
  std::printf(
      "speed / cuBLASLt: geomean %.3f worst %.3f; M <= 64 geomean %.3f worst %.3f; "
      "without overlap geomean %.3f worst %.3f (%d points)\n",
      all.Mean(), all.worst, small.Mean(), small.worst, without_overlap.Mean(),
      without_overlap.worst, all.count);
}

void CheckAll(const Options& options, cudaStream_t stream) {
  struct Shape {
    int m, n, k;
  };
  const Shape shapes[] = {{1, 272, 144},   {3, 400, 1040},   {17, 1040, 2064}, {63, 528, 4112},
                          {65, 4096, 512}, {257, 1040, 336}, {1000, 784, 1616}};
  int runs = 0;
  int failures = 0;
  for (const bool fp8 : {false, true}) {
    for (const Shape& shape : shapes) {
      Data data(shape.n, shape.k, shape.m, 1, stream);
      data.MakeReference(fp8, shape.m, stream);
      for (const sm90::RankedPlan& candidate :
           sm90::RankPlans(data.Problem(fp8, shape.m, 0), sm90::DeviceModel())) {
        if (Name(candidate.plan).find(options.only) == std::string::npos) {
          continue;
        }
        alarm(kWatchdogSeconds);
        data.Poison(shape.m, stream);
        double error;
        try {
          Launch(candidate.plan, data.Problem(fp8, shape.m, 0), stream, runs % 2 == 1);
          error = data.Error(fp8, stream);
        } catch (const Error& e) {
          std::printf("FAILED %s m=%d n=%d k=%d: %s\n", Name(candidate.plan).c_str(), shape.m,
                      shape.n, shape.k, e.what());
          throw;
        }
        ++runs;
        if (!(error < (fp8 ? 5e-3 : 5e-4))) {
          if (++failures <= 40) {
            std::printf("WRONG %s m=%d n=%d k=%d error %.3e\n", Name(candidate.plan).c_str(),
                        shape.m, shape.n, shape.k, error);
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

double CopyBytesPerMicrosecond(cudaStream_t stream) {
  const int64_t bytes = int64_t{1} << 30;
  DeviceMemory from(bytes);
  DeviceMemory to(bytes);
  FillNormal(from.bytes(), bytes / 2, 1.0f, 8.0f, 3, stream);
  Replay replay(stream, 4, [&](int, cudaStream_t s) { Copy(from.bytes(), to.bytes(), bytes, s); });
  return 2.0 * bytes / Screen(replay, 5);
}

void Planes(cudaStream_t stream, FILE* out) {
  const double copy = CopyBytesPerMicrosecond(stream);
  std::printf("copy %.3f TB/s\n", copy * 1e-6);
  for (const auto& [n, k] : {std::pair{4096, 4096}, {28672, 4096}, {65536, 5120}}) {
    Data data(n, k, 16, std::max<int>(2, 170'000'000 / (int64_t{n} * k) + 1), stream);
    DeviceMemory counts(sizeof(cuda::SplitCounts));
    DeviceMemory merged(int64_t{data.copies} * n * k * 2);
    FillByte(counts.bytes(), sizeof(cuda::SplitCounts), 0, stream);
    cuda::OutlierSink sink;
    sink.counts = counts.as<cuda::SplitCounts>();
    const int64_t size = int64_t{n} * k;
    const int launches = data.copies * std::max(1, 8 / data.copies);
    Replay split(stream, launches, [&](int i, cudaStream_t s) {
      const int64_t c = i % data.copies;
      cuda::SplitPlanes(data.w16.bytes() + c * size * 2, n, k, data.upper.bytes() + c * size,
                        data.lower.bytes() + c * size, sink, s);
    });
    Replay merge(stream, launches, [&](int i, cudaStream_t s) {
      const int64_t c = i % data.copies;
      cuda::MergePlanes(data.upper.bytes() + c * size, data.lower.bytes() + c * size, n, k,
                        merged.bytes() + c * size * 2, s);
    });
    const double split_rate = 4.0 * size / Screen(split, 5) / copy;
    const double merge_rate = 4.0 * size / Screen(merge, 5) / copy;
    std::vector<uint16_t> a(size);
    std::vector<uint16_t> b(size);
    cudaMemcpy(a.data(), data.w16.bytes(), size * 2, cudaMemcpyDeviceToHost);
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
        Replay replay(stream, copies * std::max(1, 32 / copies), [&](int i, cudaStream_t s) {
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
        const double us = Screen(replay, 5);
        // Bytes that must move: a per-tensor scale needs x twice only where L2 does not keep it.
        const double bytes = in_elements * 2.0 + double(m) * k + (source == 1 ? 4.0 * m * k : 0.0);
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
}  // namespace dualfp::bench

int main(int argc, char** argv) {
  try {
    return dualfp::bench::Main(argc, argv);
  } catch (const std::exception& error) {
    std::printf("error: %s\n", error.what());
    return 1;
  }
}
