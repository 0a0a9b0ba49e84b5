#include <cuda_runtime_api.h>

#include <algorithm>
#include <map>
#include <mutex>
#include <numeric>
#include <utility>
#include <vector>

#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/sm90/gpc_map.h"

namespace dualfp::sm90 {
namespace {

using cuda::CheckCuda;

constexpr int kSharedBytes = 160 << 10;  // one CTA an SM
constexpr int kCycles = 20'000;          // so that all of a launch run at one time

__global__ void __launch_bounds__(32, 1) WriteSm(uint32_t* sm) {
  uint32_t own;
  asm volatile("mov.u32 %0, %%smid;" : "=r"(own));
  sm[blockIdx.x] = own;
  const int64_t start = clock64();
  while (clock64() - start < kCycles) {
  }
}

// Sets of SMs. A GPC of 18 is one of 16 and a pair: whether a small cluster happens to join them
// differs from process to process, and kernels that DRAM bounds are a tenth slower where all 18
// have more tiles than other SMs.
constexpr int kMostMembers = 16;

class Groups {
 public:
  explicit Groups(int sms) : parent_(sms), members_(sms, 1) {
    std::iota(parent_.begin(), parent_.end(), 0);
  }

  int Of(int sm) {
    while (parent_[sm] != sm) {
      sm = parent_[sm] = parent_[parent_[sm]];
    }
    return sm;
  }
  // Unless they would be too many.
  void Join(int a, int b) {
    const int from = Of(a);
    const int to = Of(b);
    if (from != to && members_[from] + members_[to] <= kMostMembers) {
      parent_[from] = to;
      members_[to] += members_[from];
    }
  }

 private:
  std::vector<int> parent_;
  std::vector<int> members_;  // of sets, at their representatives
};

void JoinClusters(Groups& groups, int sms, int size, uint32_t* where, cudaStream_t stream) {
  cudaLaunchConfig_t launch{};
  cudaLaunchAttribute attribute{};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim = {static_cast<unsigned>(size), 1, 1};
  launch.attrs = &attribute;
  launch.numAttrs = 1;
  launch.gridDim = dim3(sms / size * size);
  launch.blockDim = dim3(32);
  launch.dynamicSmemBytes = kSharedBytes;
  launch.stream = stream;
  if (cudaLaunchKernelEx(&launch, WriteSm, where) != cudaSuccess) {
    cudaGetLastError();  // clusters of 16 are not for every device
    return;
  }
  std::vector<uint32_t> sm(launch.gridDim.x);
  CheckCuda(cudaMemcpyAsync(sm.data(), where, sm.size() * sizeof(uint32_t), cudaMemcpyDeviceToHost,
                            stream),
            "cudaMemcpyAsync");
  CheckCuda(cudaStreamSynchronize(stream), "clusters to find GPCs");
  for (size_t i = 0; i < sm.size(); ++i) {
    const uint32_t first = sm[i / size * size];
    if (sm[i] < static_cast<uint32_t>(sms) && first < static_cast<uint32_t>(sms)) {
      groups.Join(static_cast<int>(sm[i]), static_cast<int>(first));
    }
  }
}

GpcMap MapOf(Groups& groups, int sms) {
  std::map<int, int> members;
  for (int sm = 0; sm < sms; ++sm) {
    ++members[groups.Of(sm)];
  }
  std::vector<std::pair<int, int>> by_size;  // members, group
  by_size.reserve(members.size());
  for (const auto& [group, count] : members) {
    by_size.emplace_back(-count, group);
  }
  std::sort(by_size.begin(), by_size.end());
  GpcMap map;
  map.sms = sms;
  map.gpcs = std::min(static_cast<int>(by_size.size()), kMostGpcs);
  for (size_t i = 0; i < by_size.size(); ++i) {
    const int gpc = std::min(static_cast<int>(i), kMostGpcs - 1);
    for (int sm = 0; sm < sms; ++sm) {
      if (groups.Of(sm) == by_size[i].second) {
        map.of_sm[sm] = static_cast<uint8_t>(gpc);
        ++map.members[gpc];
      }
    }
  }
  return map;
}

GpcMap Discover() {
  int device = 0;
  int sms = 0;
  CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
  CheckCuda(cudaDeviceGetAttribute(&sms, cudaDevAttrMultiProcessorCount, device),
            "cudaDeviceGetAttribute");
  if (sms > kMostSlots) {
    return {};
  }
  CheckCuda(
      cudaFuncSetAttribute(WriteSm, cudaFuncAttributeMaxDynamicSharedMemorySize, kSharedBytes),
      "cudaFuncSetAttribute");
  CheckCuda(cudaFuncSetAttribute(WriteSm, cudaFuncAttributeNonPortableClusterSizeAllowed, 1),
            "cudaFuncSetAttribute");
  cudaStream_t stream = nullptr;
  CheckCuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  uint32_t* where = nullptr;
  CheckCuda(cudaMalloc(&where, kMostSlots * sizeof(uint32_t)), "cudaMalloc");
  Groups groups(sms);
  for (const int size : {16, 8, 4, 2}) {
    for (int repeat = 0; repeat < 3; ++repeat) {
      JoinClusters(groups, sms, size, where, stream);
    }
  }
  cudaFree(where);
  cudaStreamDestroy(stream);
  return MapOf(groups, sms);
}

std::mutex mutex;

GpcMap& Known() {
  static std::map<int, GpcMap> maps;
  int device = 0;
  CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
  return maps[device];
}

}  // namespace

const GpcMap& FindGpcs() {
  const std::lock_guard lock(mutex);
  GpcMap& map = Known();
  if (map.sms == 0) {
    map = Discover();
  }
  return map;
}

const GpcMap& KnownGpcs() {
  const std::lock_guard lock(mutex);
  return Known();
}

}  // namespace dualfp::sm90
