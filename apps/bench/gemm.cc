// dualfp bench gemm: what the GEMM kernels of this build reach on this machine.
//
// Ceilings and kernels are sampled in turn, round after round, and the best sample of each counts:
// on a shared machine they then had the same chances. Weights rotate, so that none is served from
// a cache that a model would overflow.

#include "dualfp/kernels/gemm.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <bit>
#include <chrono>
#include <cmath>
#include <cstring>
#include <memory>
#include <random>

#include "apps/bench/bench_commands.h"
#include "apps/gemm/formats.h"
#include "apps/gemm/gemm_arguments.h"
#include "apps/gpu/gpu_commands.h"
#include "apps/statistics.h"
#include "dualfp/base/check.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/io/file.h"
#include "dualfp/io/json.h"
#include "dualfp/kernels/machine_probe.h"
#include "dualfp/kernels/nest.h"
#include "dualfp/kernels/nest12.h"
#include "dualfp/numeric/fp16.h"
#include "dualfp/numeric/fp8.h"
#include "dualfp/tensor/buffer.h"

namespace dualfp {
namespace {

// Weights of a format together exceed this: four times the largest last-level cache in sight.
constexpr int64_t kRotatedBytes = int64_t{128} << 20;
constexpr int64_t kProbeBytes = int64_t{32} << 20;
constexpr int kProbeParts = 8;
constexpr int kMinRounds = 5;
constexpr int64_t kErrorRows = 4;
constexpr int64_t kErrorColumns = 64;

struct BenchArguments {
  std::string device = "cpu";
  int64_t n = 4096;
  int64_t k = 4096;
  std::vector<int> m = {1, 8, 64, 512};
  std::vector<std::string> formats = {"f16", "nested", "nested-fp8"};
  int threads = 0;
  double seconds = 3.0;
  std::string clock = "wall";
  bool all_kernels = false;
  std::string json;
  GpuBenchArguments gpu;
};

// How a weight is stored and multiplied.
struct Format {
  std::string_view name;
  QuantFormat format;
  DType dtype;
  Precision precision;
  ActivationQuant quant;
};

constexpr Format kFormats[] = {
    {"f16", QuantFormat::kPlain, DType::kF16, Precision::kFp16, ActivationQuant::kNone},
    {"bf16", QuantFormat::kPlain, DType::kBF16, Precision::kFp16, ActivationQuant::kNone},
    {"f32", QuantFormat::kPlain, DType::kF32, Precision::kFp16, ActivationQuant::kNone},
    {"nested", QuantFormat::kNested, DType::kF8E4M3, Precision::kFp16, ActivationQuant::kNone},
    {"nested-fp8", QuantFormat::kNested, DType::kF8E4M3, Precision::kFp8,
     ActivationQuant::kDynamicPerToken},
    {"nested-fp8-weight-only", QuantFormat::kNested, DType::kF8E4M3, Precision::kFp8,
     ActivationQuant::kNone},
    {"nested12", QuantFormat::kNested12, DType::kF8E4M3, Precision::kFp16, ActivationQuant::kNone},
    {"nested12-fp8", QuantFormat::kNested12, DType::kF8E4M3, Precision::kFp8,
     ActivationQuant::kDynamicPerToken},
    {"fp8", QuantFormat::kFp8, DType::kF8E4M3, Precision::kFp8, ActivationQuant::kDynamicPerToken},
    {"fp8-weight-only", QuantFormat::kFp8, DType::kF8E4M3, Precision::kFp8, ActivationQuant::kNone},
};

std::string CpuFormatNames() {
  std::string names;
  for (const Format& format : kFormats) {
    names += StrCat(names.empty() ? "" : ", ", format.name);
  }
  return names;
}

double WallSeconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

double CpuSeconds() {
  timespec time{};
  clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
  return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_nsec) * 1e-9;
}

// Copies of one random weight in one format.
class Weights {
 public:
  // `fp16` [N, K] are the weights' exact bits.
  Weights(ThreadPool& threads, const Format& format, const Buffer& fp16, int64_t n, int64_t k) {
    const ConstTensorView source = fp16.View(DType::kF16, {n, k});
    Weight weight;
    weight.format = format.format;
    weight.n = n;
    weight.k = k;
    weight.shard = {0, n, 0, k};
    const int64_t bytes_read = format.precision == Precision::kFp8 ? n * k : n * k * int64_t{2};
    const int64_t copies = (kRotatedBytes + bytes_read - 1) / bytes_read;
    for (int64_t copy = 0; copy < copies; ++copy) {
      switch (format.format) {
        case QuantFormat::kNested: {
          const TensorView upper = Allocate(DType::kF8E4M3, n, k);
          const TensorView lower = Allocate(DType::kU8, n, k);
          Nest(threads, "random weight", source, upper, lower, 0, &outliers_);
          weight.values = upper;
          weight.lower = lower;
          break;
        }
        case QuantFormat::kNested12: {
          TensorView shifts = Allocate(DType::kI8, n, 1);
          shifts.rank = 1;
          const Nested12Planes planes = {.upper = Allocate(DType::kF8E4M3, n, k),
                                         .nibble = Allocate(DType::kU8, n, NibbleBytes(k)),
                                         .shift = shifts};
          Nest12(threads, "random weight", source, planes, n * k, &outliers_);
          weight.values = planes.upper;
          weight.lower = planes.nibble;
          weight.scales = planes.shift;
          break;
        }
        case QuantFormat::kFp8: {
          const TensorView codes = Allocate(DType::kF8E4M3, n, k);
          const TensorView scales = Allocate(DType::kF32, n, 1);
          Context context;
          context.threads = &threads;
          TensorView row_scales = scales;
          row_scales.rank = 1;
          QuantizeActivations(context, source, ActivationQuant::kDynamicPerToken, 0, codes,
                              row_scales);
          weight.values = codes;
          weight.scales = scales;
          weight.scale_granularity = ScaleGranularity::kPerChannel;
          break;
        }
        default:
          weight.values = Plain(source, format.dtype);
      }
      weights_.push_back(weight);
    }
    for (Weight& weight : weights_) {
      weight.outliers = outliers_.View();
    }
  }

  int64_t size() const { return static_cast<int64_t>(weights_.size()); }
  const Weight& operator[](int64_t index) const { return weights_[index % size()]; }

 private:
  TensorView Allocate(DType dtype, int64_t n, int64_t k) {
    buffers_.push_back(Buffer::AllocateCpu(n * k * DTypeSize(dtype)));
    return buffers_.back().View(dtype, {n, k});
  }

  // Weights are drawn so that BF16 and F32 hold them exactly, too.
  TensorView Plain(const ConstTensorView& source, DType dtype) {
    const TensorView view = Allocate(dtype, source.shape[0], source.shape[1]);
    if (dtype == DType::kF16) {
      std::memcpy(view.data, source.data, source.num_bytes());
      return view;
    }
    for (int64_t i = 0; i < source.num_elements(); ++i) {
      const float value = Fp16ToFloat(source.as<uint16_t>()[i]);
      const auto bits = std::bit_cast<uint32_t>(value);
      if (dtype == DType::kF32) {
        view.as<float>()[i] = value;
      } else {
        view.as<uint16_t>()[i] = static_cast<uint16_t>(bits >> 16);
      }
    }
    return view;
  }

  std::vector<Buffer> buffers_;
  std::vector<Weight> weights_;
  OutlierBuffers outliers_;
};

// A kernel with a format at one M: what is sampled.
struct Candidate {
  const Format* format = nullptr;
  const Weights* weights = nullptr;
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
  explicit GemmBench(const BenchArguments& arguments)
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
      const Format& format = *std::find_if(std::begin(kFormats), std::end(kFormats),
                                           [&](const Format& f) { return f.name == name; });
      formats_.push_back(&format);
      weights_.push_back(std::make_unique<Weights>(threads_, format, fp16_, n, k));
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

  const BenchArguments& arguments_;
  ThreadPool threads_;
  Context context_;
  Buffer probe_;
  Buffer fp16_;
  Buffer x_;
  Buffer y_;
  Buffer workspace_;
  std::vector<const Format*> formats_;
  std::vector<std::unique_ptr<Weights>> weights_;
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
  fmt::print("{:<22} {:>5} {:>9.1f} {:>7.1f} {:>5.0f}% {:>8.1f} {:>5.0f}% {:>7} {:>9.1e}  {}\n",
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

void RunOnCpu(const BenchArguments& arguments) {
  Check(arguments.clock == "wall" || arguments.threads == 1, ErrorCode::kInvalidArgument,
        "bench gemm: --clock cpu measures one thread; add --threads 1");
  for (const std::string& name : arguments.formats) {
    const bool known = std::any_of(std::begin(kFormats), std::end(kFormats),
                                   [&](const Format& f) { return f.name == name; });
    Check(known, ErrorCode::kInvalidArgument, "bench gemm: --format ", name, ": expected ",
          CpuFormatNames());
  }
  GemmBench bench(arguments);
  fmt::print("{}, {} threads; W [{}, {}], X and Y float; best of interleaved samples, {} time\n",
             CpuDescription(), bench.threads(), arguments.n, arguments.k, arguments.clock);
  fmt::print("{:<22} {:>5} {:>9} {:>7} {:>6} {:>8} {:>6} {:>7} {:>9}  {}\n", "format", "M", "us",
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
    fmt::print("{:<22} {:>5} {:>9} {:>7.1f} {:>6} {:>8.1f}\n", "  measured ceilings", "", "",
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

// The shapes, sizes and formats that --device cuda measures unless flags say otherwise.
void RunOnGpu(const CLI::App& command, const BenchArguments& arguments) {
  GpuBenchArguments gpu = arguments.gpu;
  gpu.json = arguments.json;
  gpu.command = CommandLine(command);
  if (command.count("--n") + command.count("--k") > 0) {
    gpu.shapes.push_back(ParseShape(StrCat(arguments.n, ",", arguments.k)));
  } else if (gpu.shapes.empty()) {
    gpu.shapes = SummaryShapes();
  }
  gpu.m = {1, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096};
  if (command.count("--m") > 0) {
    gpu.m = arguments.m;
  }
  gpu.formats = command.count("--format") > 0 ? arguments.formats : FormatNames();
  for (std::string& name : gpu.formats) {
    // As on CPUs: the upper planes are FP8 weights.
    name = name == "nested-fp8" ? "fp8" : name;
    if (FindFormat(name) == nullptr) {
      throw CLI::ValidationError("--format", fmt::format("{} is not measured on GPUs; expected {}",
                                                         name, fmt::join(FormatNames(), ", ")));
    }
  }
  RunGpuGemmBench(gpu);
}

void CheckGpuFlagsUnused(const CLI::App& command) {
  for (const char* flag : {"--shape", "--top", "--plot"}) {
    if (command.count(flag) > 0) {
      throw CLI::ValidationError(flag, "needs --device cuda");
    }
  }
}

}  // namespace

void AddBenchGemm(CLI::App& bench) {
  CLI::App* gemm = bench.add_subcommand(
      "gemm",
      "Y[M,N] = X[M,K] W[N,K]^T: speed beside the machine's measured ceilings (on GPUs: beside "
      "cuBLASLt), and the error against FP64");
  gemm->footer(
      fmt::format("Example: dualfp bench gemm --device cuda --shape 4096,14336 --m 1,16,256 --plot "
                  "plots\n"
                  "Formats on GPUs: {}; each beside cuBLASLt in the same type.\n"
                  "DUALFP_CUBLASLT names the baseline's library where it is not the system's.",
                  fmt::join(FormatNames(), ", ")));
  auto arguments = std::make_shared<BenchArguments>();
  BenchArguments& a = *arguments;
  constexpr const char* kWhat = "What to measure";
  gemm->add_option("--device", a.device, "Where (default cpu)")
      ->check(CLI::IsMember({"cpu", "cuda"}))
      ->option_text("{cpu,cuda}")
      ->group(kWhat);
  gemm->add_option("--n", a.n, "Rows of W (default 4096)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->option_text("N")
      ->group(kWhat);
  gemm->add_option("--k", a.k, "Columns of W (default 4096)")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 24))
      ->option_text("K")
      ->group(kWhat);
  AddSizesOption(*gemm, "--m", a.m, "Rows of X (default 1,8,64,512)")->group(kWhat);
  gemm->add_option("--format", a.formats, "Of: " + CpuFormatNames())
      ->delimiter(',')
      ->option_text("FORMAT,...")
      ->group(kWhat);
  gemm->add_option("--json", a.json, "Write the results to this file, too")
      ->option_text("FILE")
      ->group("Output");

  constexpr const char* kCpu = "On CPUs";
  gemm->add_option("--threads", a.threads, "Threads (default one a core)")
      ->check(CLI::Range(0, 4096))
      ->option_text("T")
      ->group(kCpu);
  gemm->add_option("--seconds", a.seconds, "Time for each M (default 3)")
      ->check(CLI::Range(0.0, 3600.0))
      ->option_text("S")
      ->group(kCpu);
  gemm->add_option("--clock", a.clock, "cpu: without what others took (with --threads 1)")
      ->check(CLI::IsMember({"wall", "cpu"}))
      ->option_text("{wall,cpu}")
      ->group(kCpu);
  gemm->add_flag("--all-kernels", a.all_kernels, "Also kernels that would not be chosen")
      ->group(kCpu);

  constexpr const char* kGpu = "On GPUs (default six shapes, M = 1,16,...,4096, all formats)";
  AddShapesOption(*gemm, "--shape", a.gpu.shapes, "Another weight; repeatable")->group(kGpu);
  gemm->add_option("--top", a.gpu.top, "Best of so many plans (default: the chosen one)")
      ->check(CLI::Range(1, 1 << 20))
      ->option_text("T")
      ->group(kGpu);
  gemm->add_option("--plot", a.gpu.plots, "Draw TFLOP/s and GB/s over M as SVG here")
      ->option_text("DIR")
      ->group(kGpu);
  gemm->callback([gemm, arguments] {
    if (arguments->device == "cuda") {
      RunOnGpu(*gemm, *arguments);
    } else {
      CheckGpuFlagsUnused(*gemm);
      RunOnCpu(*arguments);
    }
  });
}

}  // namespace dualfp
