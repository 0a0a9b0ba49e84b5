// GPU benchmark of the kernels around the GEMMs, against a copy in the same run, and of what the
// rarer formats cost beside the common ones.
//
//   bench_elementwise_cuda quantize [FILE]   activation quantizers
//   bench_elementwise_cuda planes [FILE]     split, check, merge and permute of weights
//   bench_elementwise_cuda planes12 [FILE]   split and merge of Nested12 weights
//   bench_elementwise_cuda formats [FILE]    outliers, promoted sums and block scales
//
// "of copy" is the bytes that must move (counted beside each source) over the time, as a share of
// what a copy kernel reaches on a gigabyte; "of same" the share of a copy of as many bytes as this
// launch moves, launched in the same way. FILE gets one JSON line a measurement.

#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <string>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/nested12_planes.h"
#include "dualfp/kernels/cuda/planes.h"
#include "dualfp/kernels/cuda/quantize.h"
#include "dualfp/kernels/cuda/sm90/select/choose.h"

namespace dualfp::bench {
namespace {

using cuda::CheckCuda;

class Memory {
 public:
  explicit Memory(int64_t bytes) {
    CheckCuda(cudaMalloc(&data_, std::max<int64_t>(bytes, 16)), "cudaMalloc");
  }
  ~Memory() { cudaFree(data_); }
  Memory(const Memory&) = delete;
  Memory& operator=(const Memory&) = delete;
  uint8_t* bytes() const { return static_cast<uint8_t*>(data_); }

 private:
  void* data_ = nullptr;
};

__global__ void FillKernel(__half2* out, int64_t pairs, float deviation) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < pairs;
       i += int64_t{gridDim.x} * blockDim.x) {
    uint64_t z = (i + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z ^= z >> 27;
    const float radius =
        deviation * sqrtf(-2.0f * __logf((static_cast<uint32_t>(z) + 1.0f) * 0x1p-32f));
    float s;
    float c;
    __sincosf(6.2831853f * static_cast<uint32_t>(z >> 32) * 0x1p-32f, &s, &c);
    out[i] = __floats2half2_rn(radius * c, radius * s);
  }
}

void Fill(void* f16, int64_t count, float deviation, cudaStream_t stream) {
  FillKernel<<<2048, 256, 0, stream>>>(static_cast<__half2*>(f16), count / 2, deviation);
  CheckCuda(cudaGetLastError(), "Fill");
}

__global__ void __launch_bounds__(256) CopyKernel(const uint4* from, uint4* to, int64_t count) {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  const int64_t first = blockIdx.x * int64_t{1024} + threadIdx.x;
  uint4 v[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + 256 * i < count) {
      v[i] = from[first + 256 * i];
    }
  }
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    if (first + 256 * i < count) {
      to[first + 256 * i] = v[i];
    }
  }
}

// Moves `bytes`, half of them read and half written, like the quantizers after the previous kernel.
void Copy(const uint8_t* from, uint8_t* to, int64_t bytes, cudaStream_t stream) {
  const int64_t count = bytes / 2 / 16;
  cudaLaunchConfig_t launch{};
  launch.gridDim = dim3(static_cast<unsigned>((count + 1023) / 1024));
  launch.blockDim = dim3(256);
  launch.stream = stream;
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attribute.val.programmaticStreamSerializationAllowed = 1;
  launch.attrs = &attribute;
  launch.numAttrs = 1;
  CheckCuda(cudaLaunchKernelEx(&launch, CopyKernel, reinterpret_cast<const uint4*>(from),
                               reinterpret_cast<uint4*>(to), count),
            "Copy");
}

// Median microseconds of one of `launches` calls of enqueue(i, stream), replayed as a graph.
template <class Enqueue>
double Time(cudaStream_t stream, int launches, const Enqueue& enqueue) {
  CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin capture");
  for (int i = 0; i < launches; ++i) {
    enqueue(i, stream);
  }
  cudaGraph_t graph;
  CheckCuda(cudaStreamEndCapture(stream, &graph), "end capture");
  cudaGraphExec_t executable;
  CheckCuda(cudaGraphInstantiate(&executable, graph, 0), "instantiate");
  cudaGraphDestroy(graph);
  cudaEvent_t begin;
  cudaEvent_t end;
  cudaEventCreate(&begin);
  cudaEventCreate(&end);
  std::vector<double> samples;
  for (int i = 0; i < 6; ++i) {
    cudaEventRecord(begin, stream);
    CheckCuda(cudaGraphLaunch(executable, stream), "graph launch");
    cudaEventRecord(end, stream);
    CheckCuda(cudaEventSynchronize(end), "synchronize");
    float ms = 0.0f;
    cudaEventElapsedTime(&ms, begin, end);
    if (i > 0) {
      samples.push_back(ms * 1e3 / launches);
    }
  }
  cudaEventDestroy(begin);
  cudaEventDestroy(end);
  cudaGraphExecDestroy(executable);
  std::sort(samples.begin(), samples.end());
  return samples[samples.size() / 2];
}

double CopyBytesPerMicrosecond(cudaStream_t stream) {
  const int64_t bytes = int64_t{1} << 30;
  Memory from(bytes);
  Memory to(bytes);
  Fill(from.bytes(), bytes / 2, 1.0f, stream);
  const double us =
      Time(stream, 4, [&](int, cudaStream_t s) { Copy(from.bytes(), to.bytes(), 2 * bytes, s); });
  const double rate = 2.0 * bytes / us;
  std::printf("copy %.3f TB/s\n", rate * 1e-6);
  return rate;
}

struct Source {
  const char* name;
  cuda::QuantizeSource source;
  bool per_tensor;
  bool grouped;
  int in_elements;  // read from x for one of q
  double bytes;     // moved for one element of q
};

// x read, q written; the norm also reads and writes its residual. Scales and the norm's weight are
// less than a thousandth. A scale per tensor needs x a second time only where the chip cannot keep
// it, which counts as one reading here.
constexpr Source kSources[] = {
    {"plain", cuda::QuantizeSource::kPlain, false, false, 1, 3},
    {"group128", cuda::QuantizeSource::kPlain, false, true, 1, 3},
    {"rmsnorm", cuda::QuantizeSource::kRmsNorm, false, false, 1, 7},
    {"silu_mul", cuda::QuantizeSource::kSiluMul, false, false, 2, 5},
    {"halves", cuda::QuantizeSource::kSiluMulHalves, false, false, 2, 5},
    {"tensor", cuda::QuantizeSource::kPlain, true, false, 1, 3},
};

void QuantizeSpeed(cudaStream_t stream, FILE* out) {
  const double copy = CopyBytesPerMicrosecond(stream);
  std::printf("%-8s %6s %5s | %8s %7s %7s | %s\n", "source", "K", "M", "us", "of copy", "of same",
              "us with 1, 2, 4, 8 chunks a thread");
  for (const Source& source : kSources) {
    double log_sum = 0.0;
    double worst = 1e9;
    int points = 0;
    for (const int k : {4096, 5120, 14336, 32768}) {
      for (const int m : {1, 16, 64, 256, 1024, 2048, 4096}) {
        const int64_t in = int64_t{m} * k * source.in_elements;
        const int64_t codes = int64_t{m} * k;
        const int copies = static_cast<int>(std::clamp<int64_t>(180'000'000 / (in * 2) + 1, 2, 64));
        Memory x(in * 2 * copies);
        Memory q(codes * copies);
        Memory residual(codes * 2 * copies);
        Memory weight(k * 4);
        Memory scale(std::max<int64_t>(cuda::kPerTensorFloats, int64_t{m + 4} * (k / 128)) * 4);
        Fill(x.bytes(), in * copies, 1.0f, stream);
        Fill(residual.bytes(), codes * copies, 0.001f, stream);
        CheckCuda(cudaMemsetAsync(weight.bytes(), 0x3F, k * 4, stream), "cudaMemset");
        const int launches = copies * std::max(1, 32 / copies);
        const auto time = [&](int chunks) {
          return Time(stream, launches, [&](int i, cudaStream_t s) {
            const int c = i % copies;
            auto* scales = reinterpret_cast<float*>(scale.bytes());
            if (source.per_tensor) {
              cuda::QuantizePerTensor(x.bytes() + c * in * 2, k, cuda::QuantizeType::kF16, m, k,
                                      q.bytes() + c * codes, scales, s);
              return;
            }
            cuda::QuantizeArgs a;
            a.source = source.source;
            a.m = m;
            a.k = k;
            a.x = x.bytes() + c * in * 2;
            a.x_stride = k * source.in_elements;
            a.residual = source.source == cuda::QuantizeSource::kRmsNorm
                             ? residual.bytes() + c * codes * 2
                             : nullptr;
            a.weight = reinterpret_cast<const float*>(weight.bytes());
            a.group_stride = source.grouped ? (m + 3) / 4 * 4 : 0;
            a.q = q.bytes() + c * codes;
            a.scale = scales;
            a.chunks = chunks;
            cuda::Quantize(a, s, true);
          });
        };
        const double us = time(0);
        std::string variants;
        for (const int chunks : {1, 2, 4, 8}) {
          const int threads = (k / 8 + chunks - 1) / chunks;
          if (!source.per_tensor && threads <= (chunks <= 2 ? 1024 : 512) && threads >= 64) {
            char text[32];
            std::snprintf(text, sizeof(text), " %d:%.2f", chunks, time(chunks));
            variants += text;
          }
        }
        const double bytes = source.bytes * codes;
        const auto same_bytes = static_cast<int64_t>(bytes) / 32 * 32;
        const int64_t room = in * 2 * copies;
        const double same = Time(stream, launches, [&](int i, cudaStream_t s) {
          const int64_t offset = (i % copies) * (same_bytes / 2);
          // Both halves lie in memory that the quantizer touches, in other places each time.
          const bool fits =
              offset + same_bytes / 2 <= room && offset + same_bytes / 2 <= codes * 2 * copies;
          Copy(x.bytes() + (fits ? offset : 0), residual.bytes() + (fits ? offset : 0),
               std::min<int64_t>(same_bytes, codes * 4 * copies), s);
        });
        const double share = bytes / us / copy;
        if (m >= 1024) {
          log_sum += std::log(share);
          worst = std::min(worst, share);
          ++points;
        }
        std::printf("%-8s %6d %5d | %8.2f %7.3f %7.3f |%s\n", source.name, k, m, us, share,
                    same / us, variants.c_str());
        if (out != nullptr) {
          std::fprintf(out,
                       "{\"kind\":\"quantize\",\"source\":\"%s\",\"k\":%d,\"m\":%d,\"us\":%.3f,"
                       "\"of_copy\":%.3f,\"of_same_copy\":%.3f}\n",
                       source.name, k, m, us, share, same / us);
        }
      }
    }
    std::printf("%-8s M >= 1024: geometric mean %.3f of copy, worst %.3f\n", source.name,
                std::exp(log_sum / points), worst);
  }
}

// FP16 values rounded to BF16, in place.
__global__ void ToBf16(uint16_t* w, int64_t count) {
  for (int64_t i = blockIdx.x * int64_t{blockDim.x} + threadIdx.x; i < count;
       i += int64_t{gridDim.x} * blockDim.x) {
    w[i] = __bfloat16_as_ushort(__float2bfloat16_rn(__half2float(__ushort_as_half(w[i]))));
  }
}

void Planes12(cudaStream_t stream, FILE* out) {
  const double copy = CopyBytesPerMicrosecond(stream);
  for (const auto& [n, k] : {std::pair{4096, 4096}, {28672, 4096}, {4096, 14336}, {65536, 5120}}) {
    const int64_t size = int64_t{n} * k;
    const int64_t nibble_bytes = cuda::NibblePlaneBytes(n, k);
    const int copies = std::max<int>(2, static_cast<int>(170'000'000 / size) + 1);
    Memory w(copies * size * 2);
    Memory upper(copies * size);
    Memory nibbles(copies * nibble_bytes);
    Memory row_scale(copies * int64_t{n} * 4);
    Memory merged(copies * size * 2);
    Memory counts(sizeof(cuda::Nested12Counts));
    Fill(w.bytes(), copies * size, 0.02f, stream);
    ToBf16<<<2048, 256, 0, stream>>>(reinterpret_cast<uint16_t*>(w.bytes()), copies * size);
    CheckCuda(cudaMemsetAsync(counts.bytes(), 0, sizeof(cuda::Nested12Counts), stream), "memset");
    cuda::TinySink sink;
    sink.counts = reinterpret_cast<cuda::Nested12Counts*>(counts.bytes());
    const int launches = copies * std::max(1, 8 / copies);
    const auto at = [&](const Memory& m, int i, int64_t bytes) {
      return m.bytes() + (i % copies) * bytes;
    };
    const auto scale = [&](int i) {
      return reinterpret_cast<float*>(at(row_scale, i, int64_t{n} * 4));
    };
    const auto share = [&](const auto& enqueue) {
      return 3.5 * size / Time(stream, launches, enqueue) / copy;
    };
    const double split = share([&](int i, cudaStream_t s) {
      cuda::SplitNested12(at(w, i, 2 * size), n, k, at(upper, i, size),
                          at(nibbles, i, nibble_bytes), scale(i), sink, s);
    });
    const double merge = share([&](int i, cudaStream_t s) {
      cuda::MergeNested12(at(upper, i, size), at(nibbles, i, nibble_bytes), scale(i), nullptr, n, k,
                          at(merged, i, 2 * size), s);
    });
    std::printf("planes12 %5d,%-5d: split %.3f, merge %.3f of copy\n", n, k, split, merge);
    if (out != nullptr) {
      std::fprintf(out,
                   "{\"kind\":\"planes12\",\"n\":%d,\"k\":%d,\"split_of_copy\":%.3f,"
                   "\"merge_of_copy\":%.3f,\"copy_tb_s\":%.3f}\n",
                   n, k, split, merge, copy * 1e-6);
    }
  }
}

void Planes(cudaStream_t stream, FILE* out) {
  const double copy = CopyBytesPerMicrosecond(stream);
  for (const auto& [n, k] : {std::pair{4096, 4096}, {28672, 4096}, {65536, 5120}}) {
    const int64_t size = int64_t{n} * k;
    const int copies = std::max<int>(2, static_cast<int>(170'000'000 / size) + 1);
    Memory w(copies * size * 2);
    Memory upper(copies * size);
    Memory lower(copies * size);
    Memory merged(copies * size * 2);
    Memory counts(sizeof(cuda::SplitCounts));
    Fill(w.bytes(), copies * size, 0.02f, stream);
    CheckCuda(cudaMemsetAsync(counts.bytes(), 0, sizeof(cuda::SplitCounts), stream), "memset");
    cuda::OutlierSink sink;
    sink.counts = reinterpret_cast<cuda::SplitCounts*>(counts.bytes());
    const int launches = copies * std::max(1, 8 / copies);
    const auto at = [&](const Memory& m, int i, int bytes) {
      return m.bytes() + (i % copies) * size * bytes;
    };
    const auto share = [&](double bytes, const auto& enqueue) {
      return bytes * size / Time(stream, launches, enqueue) / copy;
    };
    const double split = share(4, [&](int i, cudaStream_t s) {
      cuda::SplitPlanes(at(w, i, 2), n, k, at(upper, i, 1), at(lower, i, 1), sink, s);
    });
    const double merge = share(4, [&](int i, cudaStream_t s) {
      cuda::MergePlanes(at(upper, i, 1), at(lower, i, 1), n, k, at(merged, i, 2), s);
    });
    const double check = share(2, [&](int i, cudaStream_t s) {
      cuda::CheckPlanes(at(upper, i, 1), at(lower, i, 1), n, k, sink.counts, s);
    });
    const double permute = share(2, [&](int i, cudaStream_t s) {
      cuda::PermuteBytes(at(upper, i, 1), at(upper, i, 1), size, s);
    });
    const double to_device = share(4, [&](int i, cudaStream_t s) {
      cuda::PlanesToDevice(at(upper, i, 1), at(lower, i, 1), n, k, s);
    });
    std::printf(
        "planes %5d,%-5d: split %.3f, merge %.3f, check %.3f, permute %.3f, to device %.3f of "
        "copy\n",
        n, k, split, merge, check, permute, to_device);
    if (out != nullptr) {
      std::fprintf(out,
                   "{\"kind\":\"planes\",\"n\":%d,\"k\":%d,\"split_of_copy\":%.3f,"
                   "\"merge_of_copy\":%.3f,\"check_of_copy\":%.3f,\"permute_of_copy\":%.3f,"
                   "\"to_device_of_copy\":%.3f,\"copy_tb_s\":%.3f}\n",
                   n, k, split, merge, check, permute, to_device, copy * 1e-6);
    }
  }
}

// Best of the model's `top` plans.
double BestTime(const sm90::GemmProblem& problem, int copies, int top, cudaStream_t stream,
                std::string* plan) {
  std::vector<sm90::RankedPlan> plans = sm90::RankPlans(problem, sm90::DeviceModel());
  plans.resize(std::min<size_t>(plans.size(), top));
  const double weight_us = 1e-6 * problem.n * problem.k / 4.0;
  const int launches = copies * std::max(1, static_cast<int>(200 / (copies * (3 + weight_us))));
  double best = 1e30;
  for (const sm90::RankedPlan& candidate : plans) {
    const double us = Time(stream, launches, [&](int i, cudaStream_t s) {
      sm90::GemmProblem p = problem;
      const int64_t offset = int64_t{i % copies} * p.n * p.k;
      p.w = static_cast<const uint8_t*>(p.w) + offset;
      p.w_lower = static_cast<const uint8_t*>(p.w_lower) + offset;
      sm90::Launch(candidate.plan, p, s, true);
    });
    if (us < best) {
      best = us;
      *plan = Name(candidate.plan);
    }
  }
  return best;
}

void Formats(cudaStream_t stream, FILE* out) {
  constexpr int kMostTokens = 4096;
  std::printf("%12s %5s | %8s %8s | %8s %8s %8s  us, best of 16 plans\n", "N,K", "M", "nested",
              "outliers", "fp8 fast", "promoted", "blocks");
  for (const auto& [n, k] : {std::pair{4096, 4096}, {28672, 4096}, {4096, 14336}}) {
    const int64_t size = int64_t{n} * k;
    const int copies = std::max<int>(2, static_cast<int>(120'000'000 / size) + 1);
    Memory w16(copies * size * 2);
    Memory upper(copies * size);
    Memory lower(copies * size);
    Memory x16(int64_t{kMostTokens} * k * 2);
    Memory x8(int64_t{kMostTokens} * k);
    Memory x_scale(int64_t{kMostTokens} * 4);
    Memory group_scale(int64_t{kMostTokens} * ((k + 127) / 128) * 4);
    Memory block_scale(int64_t{(n + 127) / 128} * ((k + 127) / 128) * 4);
    Memory y(int64_t{kMostTokens} * n * 2);
    Memory counts(sizeof(cuda::SplitCounts));
    Fill(w16.bytes(), copies * size, 0.02f, stream);
    Fill(x16.bytes(), int64_t{kMostTokens} * k, 1.0f, stream);
    // Any finite scales do: halves as floats are small numbers.
    Fill(block_scale.bytes(), int64_t{(n + 127) / 128} * ((k + 127) / 128) * 2, 0.01f, stream);
    CheckCuda(cudaMemsetAsync(counts.bytes(), 0, sizeof(cuda::SplitCounts), stream), "memset");
    cuda::OutlierSink sink;
    sink.counts = reinterpret_cast<cuda::SplitCounts*>(counts.bytes());
    cuda::SplitPlanes(w16.bytes(), int64_t{copies} * n, k, upper.bytes(), lower.bytes(), sink,
                      stream);
    cuda::QuantizeArgs quantize;
    quantize.m = kMostTokens;
    quantize.k = k;
    quantize.x = x16.bytes();
    quantize.x_stride = k;
    quantize.q = x8.bytes();
    quantize.scale = reinterpret_cast<float*>(x_scale.bytes());
    cuda::Quantize(quantize, stream, false);
    quantize.group_stride = kMostTokens;
    quantize.scale = reinterpret_cast<float*>(group_scale.bytes());
    cuda::Quantize(quantize, stream, false);
    // One weight in 100,000 is an outlier.
    const int outliers = static_cast<int>(size / 100'000);
    std::vector<int64_t> index(outliers);
    std::vector<float> value(outliers, 2.5f);
    for (int i = 0; i < outliers; ++i) {
      index[i] = int64_t{i} * 100'000 + i * 7919 % 100'000;
    }
    Memory outlier_index(outliers * 8);
    Memory outlier_value(outliers * 4);
    CheckCuda(
        cudaMemcpy(outlier_index.bytes(), index.data(), index.size() * 8, cudaMemcpyHostToDevice),
        "copy");
    CheckCuda(
        cudaMemcpy(outlier_value.bytes(), value.data(), value.size() * 4, cudaMemcpyHostToDevice),
        "copy");
    CheckCuda(cudaStreamSynchronize(stream), "fill");
    for (const int m : {16, 64, 256, 1024, 4096}) {
      sm90::GemmProblem p;
      p.m = m;
      p.n = n;
      p.k = k;
      p.w = upper.bytes();
      p.w_lower = lower.bytes();
      p.x = x16.bytes();
      p.x_stride = k;
      p.epilogue.y = y.bytes();
      p.epilogue.y_stride = n;
      std::string plans[5];
      double us[5];
      const auto time = [&](int i) { us[i] = BestTime(p, copies, 16, stream, &plans[i]); };
      time(0);
      p.outliers.index = reinterpret_cast<const int64_t*>(outlier_index.bytes());
      p.outliers.value = reinterpret_cast<const float*>(outlier_value.bytes());
      p.outliers.count = outliers;
      time(1);
      p.outliers.count = 0;
      p.x = x8.bytes();
      p.format = sm90::WeightFormat::kE4m3;
      p.epilogue.x_scale = reinterpret_cast<const float*>(x_scale.bytes());
      p.epilogue.x_scale_stride = 1;
      time(2);
      p.format = sm90::WeightFormat::kE4m3Promoted;
      time(3);
      p.epilogue.x_scale = nullptr;
      p.block.w = reinterpret_cast<const float*>(block_scale.bytes());
      p.block.w_stride = (k + 127) / 128;
      p.block.x = reinterpret_cast<const float*>(group_scale.bytes());
      p.block.x_stride = kMostTokens;
      time(4);
      std::printf("%6d,%-5d %5d | %8.2f %8.2f | %8.2f %8.2f %8.2f  %s, %s\n", n, k, m, us[0], us[1],
                  us[2], us[3], us[4], plans[3].c_str(), plans[4].c_str());
      if (out != nullptr) {
        std::fprintf(out,
                     "{\"kind\":\"formats\",\"n\":%d,\"k\":%d,\"m\":%d,\"nested_us\":%.3f,"
                     "\"nested_outliers_us\":%.3f,\"fp8_us\":%.3f,\"fp8_promoted_us\":%.3f,"
                     "\"fp8_blocks_us\":%.3f}\n",
                     n, k, m, us[0], us[1], us[2], us[3], us[4]);
      }
    }
  }
}

int Main(int argc, char** argv) {
  Check(argc >= 2, ErrorCode::kInvalidArgument, "expected quantize, planes, planes12 or formats");
  const std::string command = argv[1];
  FILE* out = argc > 2 ? std::fopen(argv[2], "a") : nullptr;
  std::setvbuf(stdout, nullptr, _IOLBF, 0);
  cudaStream_t stream;
  CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  if (command == "quantize") {
    QuantizeSpeed(stream, out);
  } else if (command == "planes12") {
    Planes12(stream, out);
  } else if (command == "planes") {
    Planes(stream, out);
  } else if (command == "formats") {
    Formats(stream, out);
  } else {
    Fail(ErrorCode::kInvalidArgument, "unknown command ", command);
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
