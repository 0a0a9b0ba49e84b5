#include "bench/gemm_lab/gpu/nested12_data.h"

#include <algorithm>
#include <numeric>

#include "bench/gemm_lab/gpu/device_tools.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"

namespace dualfp::gpu {
namespace {

using cuda::CheckCuda;

template <class T>
std::vector<T> ToHost(const DeviceMemory& memory, int64_t count) {
  std::vector<T> host(count);
  CheckCuda(cudaMemcpy(host.data(), memory.bytes(), count * sizeof(T), cudaMemcpyDeviceToHost),
            "cudaMemcpy");
  return host;
}

}  // namespace

Nested12Data::Nested12Data(const void* w, int copies, int n, int k, cudaStream_t stream)
    : n_(n),
      k_(k),
      upper_(int64_t{copies} * n * k),
      nibbles_(copies * cuda::NibblePlaneBytes(n, k)),
      row_scale_(int64_t{copies} * n * 4) {
  const int64_t weights = int64_t{n} * k;
  const int64_t capacity = weights / 100;
  DeviceMemory counts(sizeof(cuda::Nested12Counts));
  DeviceMemory index(capacity * 8);
  DeviceMemory bf16(capacity * 2);
  cuda::TinySink sink;
  sink.counts = counts.as<cuda::Nested12Counts>();
  sink.index = index.as<int64_t>();
  sink.bf16 = bf16.as<uint16_t>();
  sink.capacity = capacity;
  std::vector<cuda::TinyWeight> batches;
  for (int copy = 0; copy < copies; ++copy) {
    FillByte(counts.bytes(), sizeof(cuda::Nested12Counts), 0, stream);
    cuda::SplitNested12(static_cast<const uint8_t*>(w) + copy * weights * 2, n, k,
                        upper_.bytes() + copy * weights,
                        nibbles_.bytes() + copy * cuda::NibblePlaneBytes(n, k),
                        row_scale_.as<float>() + int64_t{copy} * n, sink, stream);
    CheckCuda(cudaStreamSynchronize(stream), "SplitNested12");
    const auto count = static_cast<int64_t>(ToHost<cuda::Nested12Counts>(counts, 1)[0].tiny);
    Check(count <= capacity, ErrorCode::kInternal, count, " tiny weights of ", weights);
    const std::vector<int64_t> listed = ToHost<int64_t>(index, count);
    const std::vector<uint16_t> values = ToHost<uint16_t>(bf16, count);
    std::vector<int64_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    std::sort(order.begin(), order.end(),
              [&](int64_t a, int64_t b) { return listed[a] < listed[b]; });
    std::vector<int64_t> sorted_index;
    std::vector<uint16_t> sorted_bf16;
    for (const int64_t i : order) {
      sorted_index.push_back(listed[i]);
      sorted_bf16.push_back(values[i]);
    }
    tiny_begin_.push_back(static_cast<int64_t>(batches.size()));
    const std::vector<cuda::TinyWeight> own =
        cuda::MakeTinyBatches(n, k, sorted_index, sorted_bf16);
    batches.insert(batches.end(), own.begin(), own.end());
  }
  tiny_.emplace(static_cast<int64_t>(batches.size() * sizeof(cuda::TinyWeight)));
  CheckCuda(cudaMemcpy(tiny_->bytes(), batches.data(), batches.size() * sizeof(cuda::TinyWeight),
                       cudaMemcpyHostToDevice),
            "cudaMemcpy");
}

}  // namespace dualfp::gpu
