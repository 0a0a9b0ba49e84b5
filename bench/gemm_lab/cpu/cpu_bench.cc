// What the GEMM kernels of this build reach on this machine's CPUs.
//
// Ceilings and kernels are sampled in turn, round after round, and the best sample of each counts:
// on a shared machine they then had the same chances. Weights rotate, so that none is served from
// a cache that a model would overflow.

#include "bench/gemm_lab/cpu/cpu_bench.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include "bench/gemm_lab/cpu/rotated_weights.h"
#include "bench/statistics.h"
#include "dualfp/base/check.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json.h"
#include "dualfp/kernels/gemm.h"
#include "dualfp/kernels/machine_probe.h"
#include "dualfp/numeric/fp16.h"

namespace dualfp {
namespace {

constexpr int64_t kProbeBytes = int64_t{32} << 20;
constexpr int kProbeParts = 8;
constexpr int kMinRounds = 5;
constexpr int64_t kErrorRows = 4;
constexpr int64_t kErrorColumns = 64;

double WallSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// A kernel with a format at one M: what is sampled.
struct Candidate {
  const CpuFormat* format = nullptr;
  const RotatedWeights* weights = nullptr;
  const GemmKernel* kernel = nullptr;
  GemmArgs args;
  GemmDesc desc;
  double error = 0;  // relative to the exact product, Frobenius
  std::vector<double> seconds;

  double Best() const { return *std::min_element(seconds.begin(), seconds.end()); }
};

struct Ceilings {
  double bytes_per_second = 0;
  double operations_per_second = 0;
};

// The benchmark of one shape (n, k).
class GemmBench {
 public:
  explicit GemmBench(const CpuBenchArguments& arguments)
      : arguments_(arguments), threads_(arguments.threads) {
    context_.threads = &threads_;
    const int64_t n = arguments.n;
    const int64_t k = arguments.k;
    const int64_t max_m = *std::max_element(arguments.m.begin(), arguments.m.end());
    std::mt19937 random(1);
    // Trained weights are about this wide; none is an outlier. Eight significand bits, so that
    // BF16 and FP16 hold the same weights.
    std::normal_distribution<float> normal(0.0f, 0.02f);
    // Written, so that it is memory and not one page of zeros.
    probe_ = Buffer::AllocateCpu(kProbeParts * kProbeBytes);
    std::memset(probe_.data(), 1, probe_.size());
    fp16_ = Buffer::AllocateCpu(n * k * 2);
    for (int64_t i = 0; i < n * k; ++i) {
      const float value = std::clamp(normal(random), -1.0f, 1.0f);
      static_cast<uint16_t*>(fp16_.data())[i] = FloatToFp16(value) & 0xfff8;
    }
    x_ = Buffer::AllocateCpu(max_m * k * 4);
    y_ = Buffer::AllocateCpu(max_m * n * 4);
    std::normal_distribution<float> standard;
    for (int64_t i = 0; i < max_m * k; ++i) {
      static_cast<float*>(x_.data())[i] = standard(random);
    }
    for (const std::string& name : arguments.formats) {
      const CpuFormat& format = *FindCpuFormat(name);
      formats_.push_back(&format);
      weights_.push_back(std::make_unique<RotatedWeights>(threads_, format, fp16_, n, k));
    }
  }

  int threads() const { return threads_.num_threads(); }

  // Samples every candidate at `m`.
  std::vector<Candidate> Run(int64_t m, Ceilings& ceilings) {
    std::vector<Candidate> candidates = Candidates(m);
    for (Candidate& candidate : candidates) {
      RunOnce(candidate, 0);
      candidate.error = RelativeError(candidate);
    }
    ceilings = {};
    const double start = WallSeconds();
    for (int round = 0; round < kMinRounds || WallSeconds() - start < arguments_.seconds; ++round) {
      // A part of the probe's own memory that no cache has seen for several rounds.
      const char* part =
          static_cast<const char*>(probe_.data()) + round % kProbeParts * kProbeBytes;
      int64_t amount = 0;
      double seconds = Time([&] { amount = ProbeRead(threads_, part, kProbeBytes); });
      ceilings.bytes_per_second =
          std::max(ceilings.bytes_per_second, static_cast<double>(amount) / seconds);
      seconds = Time([&] { amount = ProbeMultiplyAdd(threads_); });
      ceilings.operations_per_second =
          std::max(ceilings.operations_per_second, static_cast<double>(amount) / seconds);
      for (Candidate& candidate : candidates) {
        candidate.seconds.push_back(Time([&] { RunOnce(candidate, round + 1); }));
      }
    }
    return candidates;
  }

 private:
  std::vector<Candidate> Candidates(int64_t m) {
    std::vector<Candidate> candidates;
    int64_t workspace = 0;
    for (size_t i = 0; i < formats_.size(); ++i) {
      Candidate candidate;
      candidate.format = formats_[i];
      candidate.weights = weights_[i].get();
      candidate.args.x = x_.View(DType::kF32, {m, arguments_.k});
      candidate.args.y = y_.View(DType::kF32, {m, arguments_.n});
      candidate.args.weight = &(*weights_[i])[0];
      candidate.args.precision = formats_[i]->precision;
      candidate.args.activation_quant = formats_[i]->quant;
      candidate.desc = DescribeGemm(candidate.args);
      const GemmKernel& selected = SelectGemmKernel(candidate.desc);
      for (const GemmKernel& kernel : GemmKernels()) {
        if (&kernel == &selected ||
            (arguments_.all_kernels && kernel.supports(candidate.desc).empty())) {
          candidate.kernel = &kernel;
          candidates.push_back(candidate);
          if (kernel.workspace_bytes != nullptr) {
            workspace = std::max(workspace, kernel.workspace_bytes(candidate.desc));
          }
        }
      }
    }
    workspace_ = Buffer::AllocateCpu(workspace);
    context_.workspace = workspace_.View(DType::kU8, {workspace});
    return candidates;
  }

  // Seconds that `work` takes by the chosen clock.
  template <typename Work>
  double Time(const Work& work) const {
    const auto now = arguments_.clock == "wall" ? WallSeconds : CpuSeconds;
    const double begin = now();
    work();
    return now() - begin;
  }

  void RunOnce(Candidate& candidate, int64_t round) {
    candidate.args.weight = &(*candidate.weights)[round];
    candidate.kernel->run(context_, candidate.desc, candidate.args);
  }

  // Of a sample of y against the product in double of the unquantized operands.
  double RelativeError(const Candidate& candidate) const {
    const int64_t k = arguments_.k;
    const auto* x = static_cast<const float*>(x_.data());
    const auto* w = static_cast<const uint16_t*>(fp16_.data());
    double error = 0;
    double norm = 0;
    for (int64_t m = 0; m < std::min(candidate.desc.m, kErrorRows); ++m) {
      for (int64_t i = 0; i < kErrorColumns; ++i) {
        const int64_t n = i * 131 % arguments_.n;
        double exact = 0;
        for (int64_t j = 0; j < k; ++j) {
          exact += static_cast<double>(x[m * k + j]) * Fp16ToFloat(w[n * k + j]);
        }
        const double y = static_cast<const float*>(y_.data())[m * arguments_.n + n];
        error += (y - exact) * (y - exact);
        norm += exact * exact;
      }
    }
    return std::sqrt(error / norm);
  }

  const CpuBenchArguments& arguments_;
  ThreadPool threads_;
  Context context_;
  Buffer probe_;
  Buffer fp16_;
  Buffer x_;
  Buffer y_;
  Buffer workspace_;
  std::vector<const CpuFormat*> formats_;
  std::vector<std::unique_ptr<RotatedWeights>> weights_;
};

// Bytes that must move: the weight, X and Y once.
double BytesMoved(const Candidate& candidate) {
  const GemmDesc& desc = candidate.desc;
  return static_cast<double>(candidate.args.weight->BytesRead(desc.precision)) +
         static_cast<double>(desc.m * (desc.k + desc.n) * 4);
}

double Operations(const Candidate& candidate) {
  const GemmDesc& desc = candidate.desc;
  return 2.0 * static_cast<double>(desc.m) * static_cast<double>(desc.n) *
         static_cast<double>(desc.k);
}

Json ToJson(const Candidate& candidate, const Ceilings& ceilings, double f16_seconds) {
  const double best = candidate.Best();
  Json row = {
      {"format", candidate.format->name},
      {"kernel", candidate.kernel->name},
      {"m", candidate.desc.m},
      {"n", candidate.desc.n},
      {"k", candidate.desc.k},
      {"samples", candidate.seconds.size()},
      {"seconds_best", best},
      {"seconds_median", Median(candidate.seconds)},
      {"bytes", BytesMoved(candidate)},
      {"operations", Operations(candidate)},
      {"bandwidth_share", BytesMoved(candidate) / best / ceilings.bytes_per_second},
      {"multiply_add_share", Operations(candidate) / best / ceilings.operations_per_second},
      {"relative_error", candidate.error},
  };
  if (f16_seconds > 0) {
    row["speed_vs_f16"] = f16_seconds / best;
  }
  return row;
}

void PrintRow(const Candidate& candidate, const Ceilings& ceilings, double f16_seconds) {
  const double best = candidate.Best();
  fmt::print("{:<27} {:>5} {:>9.1f} {:>7.1f} {:>5.0f}% {:>8.1f} {:>5.0f}% {:>7} {:>9.1e}  {}\n",
             candidate.format->name, candidate.desc.m, best * 1e6,
             BytesMoved(candidate) / best * 1e-9,
             BytesMoved(candidate) / best / ceilings.bytes_per_second * 100,
             Operations(candidate) / best * 1e-9,
             Operations(candidate) / best / ceilings.operations_per_second * 100,
             f16_seconds > 0 ? fmt::format("{:.2f}x", f16_seconds / best) : "-", candidate.error,
             candidate.kernel->name);
}

// The time of plain FP16's selected kernel, or 0 where it was not asked for.
double F16Seconds(const std::vector<Candidate>& candidates) {
  for (const Candidate& candidate : candidates) {
    if (candidate.format->name == "f16") {
      return candidate.Best();
    }
  }
  return 0;
}

}  // namespace

void RunCpuGemmBench(const CpuBenchArguments& arguments) {
  Check(arguments.clock == "wall" || arguments.threads == 1, ErrorCode::kInvalidArgument,
        "bench gemm: --clock cpu measures one thread; add --threads 1");
  for (const std::string& name : arguments.formats) {
    Check(FindCpuFormat(name) != nullptr, ErrorCode::kInvalidArgument, "bench gemm: --format ",
          QuoteForMessage(name), ": expected ",
          fmt::format("{}", fmt::join(CpuFormatNames(), ", ")));
  }
  GemmBench bench(arguments);
  fmt::print("{}, {} threads; W [{}, {}], X and Y float; best of interleaved samples, {} time\n",
             CpuDescription(), bench.threads(), arguments.n, arguments.k, arguments.clock);
  fmt::print("{:<27} {:>5} {:>9} {:>7} {:>6} {:>8} {:>6} {:>7} {:>9}  {}\n", "format", "M", "us",
             "GB/s", "read", "GFLOP/s", "FMA", "vs f16", "error", "kernel");
  Json rows = Json::array();
  for (const int m : arguments.m) {
    Ceilings ceilings;
    const std::vector<Candidate> candidates = bench.Run(m, ceilings);
    const double f16_seconds = F16Seconds(candidates);
    for (const Candidate& candidate : candidates) {
      PrintRow(candidate, ceilings, f16_seconds);
      Json row = ToJson(candidate, ceilings, f16_seconds);
      row["read_bytes_per_second"] = ceilings.bytes_per_second;
      row["multiply_add_operations_per_second"] = ceilings.operations_per_second;
      rows.push_back(row);
    }
    fmt::print("{:<27} {:>5} {:>9} {:>7.1f} {:>6} {:>8.1f}\n", "  measured ceilings", "", "",
               ceilings.bytes_per_second * 1e-9, "", ceilings.operations_per_second * 1e-9);
  }
  if (!arguments.json.empty()) {
    const Json result = {{"benchmark", "gemm"},
                         {"cpu", CpuDescription()},
                         {"threads", bench.threads()},
                         {"clock", arguments.clock},
                         {"results", rows}};
    WriteFileAtomically(arguments.json, result.dump(2) + "\n");
  }
}

}  // namespace dualfp
