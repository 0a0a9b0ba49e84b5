#include "dualfp/kernels/cuda/sm90/gemm.h"

#include <algorithm>
#include <array>
#include <limits>
#include <map>
#include <mutex>
#include <set>
#include <tuple>
#include <utility>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/common/tensor_map.h"
#include "dualfp/kernels/cuda/sm90/gpc_map.h"
#include "dualfp/kernels/cuda/sm90/schedule.h"

namespace dualfp::sm90 {

void AddNestedSplit(std::vector<KernelConfig>& table);
void AddNestedPersistent(std::vector<KernelConfig>& table);
void AddNested12F16Split(std::vector<KernelConfig>& table);
void AddNested12F16Persistent(std::vector<KernelConfig>& table);
void AddNested12Bf16Split(std::vector<KernelConfig>& table);
void AddNested12Bf16Persistent(std::vector<KernelConfig>& table);
void AddE4m3Split(std::vector<KernelConfig>& table);
void AddE4m3Persistent(std::vector<KernelConfig>& table);
void AddE4m3PingPong(std::vector<KernelConfig>& table);
void AddE4m3Promoted(std::vector<KernelConfig>& table);
void AddPlainSplit(std::vector<KernelConfig>& table);
void AddPlainPersistent(std::vector<KernelConfig>& table);
void AddPlainPingPong(std::vector<KernelConfig>& table);

namespace {

constexpr int kLeastSms = 132;
constexpr int64_t kKeptX = 8 << 20;  // elements that may crowd out others from L2
constexpr uint64_t kEvictNormal = 0x1000000000000000;
constexpr uint64_t kEvictFirst = 0x12F0000000000000;
constexpr uint64_t kEvictLast = 0x14F0000000000000;

int CeilDiv(int a, int b) { return (a + b - 1) / b; }

// Tiles beside each other in a GPC: about as many as it has SMs.
constexpr int kGpcTiles = 16;

// Whether CTAs are counted, and so are as many in every launch of this cluster size.
bool Counts(const Plan& plan, const GemmProblem& problem) {
  return plan.config->family == Family::kPersistent && problem.workspace != nullptr &&
         plan.config->ctas == 1 && (plan.cluster.size() == 1 || plan.UsesWorkspace());
}

// `work`: CTAs that have any.
GpcPlacement MakePlacement(const Plan& plan, const GemmProblem& problem, int ctas, int work) {
  GpcPlacement placement;
  if (!Counts(plan, problem)) {
    return placement;
  }
  auto* counters = static_cast<uint32_t*>(problem.workspace);
  placement.kind = plan.cluster.size() - 1;
  placement.started = counters + placement.kind;
  placement.ctas = Divisor(ctas);
  const GpcMap& map = KnownGpcs();
  if (plan.cluster.size() == 1 && map.sms == ctas) {
    placement.taken = counters + 64;
    placement.placed = counters + 128;
    placement.gpcs = map.gpcs;
    std::copy(map.of_sm.begin(), map.of_sm.end(), placement.gpc_of_sm);
    // Each GPC has its share of the work so far, rounded up to whole tiles.
    const int split_k = std::max(plan.split_k, 1);
    const int busy = std::min(work, ctas);
    int sms = 0;
    int dealt = 0;
    for (int gpc = 0; gpc < map.gpcs; ++gpc) {
      const int own = map.members[gpc];
      sms += own;
      const int share = CeilDiv(CeilDiv(busy * sms, ctas), split_k) * split_k;
      const int next = std::min({share, busy, dealt + own});
      placement.of_gpc[gpc] = {own, dealt, next - dealt};
      dealt = next;
    }
    CheckInternal(dealt == busy, "slots for ", dealt, " of ", busy, " CTAs");
  }
  return placement;
}

// Tiles along the weights that are walked together where neighbours lie in a GPC: those whose
// kGpcTiles tiles read least.
int GpcRasterGroup(const GemmParams& p, const KernelConfig& config) {
  const int tiles = std::max(1, kGpcTiles / static_cast<int>(p.split_k.value));
  int best = 1;
  int least = std::numeric_limits<int>::max();
  for (int group = tiles; group >= 1; group /= 2) {
    const int wide = std::min(tiles / group, p.token_clusters);
    const int high = std::max(tiles / wide, group);
    const int reads = high * (config.by_token ? config.tokens : config.rows) +
                      wide * (config.by_token ? config.rows : config.tokens);
    if (reads < least) {
      least = reads;
      best = group;
    }
  }
  return best;
}

// A bit for each of `count` ranks that lie `step` from each other, from 0 on.
uint32_t Peers(int count, int step) {
  uint32_t mask = 0;
  for (int i = 0; i < count; ++i) {
    mask |= 1u << i * step;
  }
  return mask;
}

GemmParams MakeParams(const Plan& plan, const GemmProblem& problem, int clusters) {
  const KernelConfig& config = *plan.config;
  GemmParams p;
  const bool plain = IsPlain(config.format);
  const bool x8 = IsE4m3(config.format);
  // For the copy engine 16 bits are 16 bits.
  p.maps[kW] = cuda::EncodeTensorMap(
      {problem.w, plain ? cuda::MapElement::kF16 : cuda::MapElement::kU8, problem.n, problem.k,
       problem.k, config.rows / plan.cluster.share_w, config.k});
  p.maps[kLower] = p.maps[kW];
  if (config.format == WeightFormat::kNested) {
    p.maps[kLower] =
        cuda::EncodeTensorMap({problem.w_lower, cuda::MapElement::kU8, problem.n, problem.k,
                               problem.k, config.rows / plan.cluster.share_w, config.k});
  } else if (IsNested12(config.format)) {
    // Blocks of columns one below the other.
    const int64_t blocks = CeilDiv(problem.k, cuda::kNibbleBlock);
    p.maps[kLower] = cuda::EncodeTensorMap(
        {problem.w_lower, cuda::MapElement::kU8, blocks * problem.n, cuda::kNibbleBlock / 2,
         cuda::kNibbleBlock / 2, config.rows / plan.cluster.share_w, config.k / 2});
    p.tiny = problem.tiny;
  }
  if (config.format == WeightFormat::kNested12Bf16) {
    p.decode_mask = kNested12SignMask;
  }
  p.maps[kX] = cuda::EncodeTensorMap(
      {problem.x, x8 ? cuda::MapElement::kU8 : cuda::MapElement::kF16, problem.m, problem.k,
       problem.x_stride, config.tokens / plan.cluster.share_x, x8 ? 128 : 64});
  p.epilogue = problem.epilogue;
  p.outliers = problem.outliers;
  p.outliers.x = problem.x;
  p.outliers.x_stride = problem.x_stride;
  p.block = problem.block;
  p.m = problem.m;
  p.n = problem.n;
  p.k = problem.k;
  p.cluster = plan.cluster;
  p.row_clusters = CeilDiv(problem.n, config.rows * plan.cluster.share_x);
  p.token_clusters = CeilDiv(problem.m, config.tokens * plan.cluster.share_w);
  p.stages = Divisor(CeilDiv(problem.k, config.k));
  p.split = Divisor(plan.cluster.split);
  // Weights that are read once, or by CTAs that run at one time, need not stay in L2; X need, for
  // the next rows of weights.
  const bool passing = problem.m <= config.tokens ||
                       p.row_clusters * p.token_clusters * plan.cluster.size() <= kLeastSms;
  const bool small_x = static_cast<int64_t>(problem.m) * problem.k <= kKeptX;
  p.w_policy = passing ? kEvictFirst : kEvictNormal;
  p.x_policy = passing && small_x ? kEvictLast : kEvictNormal;
  if (config.by_token) {
    std::swap(p.maps[kW], p.maps[kX]);
    std::swap(p.w_policy, p.x_policy);
    std::swap(p.cluster.share_w, p.cluster.share_x);
    std::swap(p.row_clusters, p.token_clusters);
  }
  p.x_peers = Peers(p.cluster.share_x, p.cluster.split);
  p.w_peers = Peers(p.cluster.share_w, p.cluster.split * p.cluster.share_x);
  if (config.family == Family::kPersistent) {
    const int tiles = p.row_clusters * p.token_clusters;
    p.split_k = Divisor(std::max(plan.split_k, 1));
    p.placement = MakePlacement(
        plan, problem, clusters * plan.cluster.size(),
        plan.split_k == Plan::kStreamK ? clusters : tiles * std::max(plan.split_k, 1));
    const bool by_gpc = p.placement.gpcs > 0 && plan.raster_group == Plan().raster_group;
    const int group =
        std::min(by_gpc ? GpcRasterGroup(p, config) : plan.raster_group, p.row_clusters);
    const int last = p.row_clusters % group;
    p.raster_group = Divisor(group);
    p.raster_last_group = Divisor(last == 0 ? group : last);
    p.raster_group_tiles = Divisor(group * p.token_clusters);
    p.whole_tiles = tiles;
    p.one_each = plan.split_k > 1 || (plan.split_k != Plan::kStreamK && tiles <= clusters);
    if (plan.split_k > 1) {
      p.split_tiles = tiles;
      p.whole_tiles = 0;
    } else if (plan.split_k == Plan::kStreamK) {
      // Up to two tiles' worth a cluster: then most tiles have two contributors at most.
      p.whole_tiles = std::max(0, tiles / clusters - 1) * clusters;
      const int stages = (tiles - p.whole_tiles) * static_cast<int>(p.stages.value);
      p.share_stages = stages / clusters;
      p.share_longer = stages % clusters;
    }
    CheckInternal(config.ctas > 1 || clusters <= kMostSlots, clusters, " clusters at one time");
    for (int cluster = 0; config.ctas == 1 && cluster < clusters; ++cluster) {
      const Work work = Schedule(p).First(cluster, clusters);
      const TileIndex tile = TileAt(p, work.tile);
      p.first[cluster] = {static_cast<uint16_t>(tile.row), static_cast<uint16_t>(tile.token),
                          static_cast<uint16_t>(work.begin), static_cast<uint16_t>(work.end),
                          work.tile};
    }
    if (plan.UsesWorkspace()) {
      p.partials = static_cast<uint8_t*>(problem.workspace) + kWorkspaceHeaderBytes;
    }
  }
  return p;
}

}  // namespace

std::span<const KernelConfig> KernelConfigs() {
  static const std::vector<KernelConfig> table = [] {
    std::vector<KernelConfig> t;
    AddNestedSplit(t);
    AddNestedPersistent(t);
    AddNested12F16Split(t);
    AddNested12F16Persistent(t);
    AddNested12Bf16Split(t);
    AddNested12Bf16Persistent(t);
    AddE4m3Split(t);
    AddE4m3Persistent(t);
    AddE4m3PingPong(t);
    AddE4m3Promoted(t);
    AddPlainSplit(t);
    AddPlainPersistent(t);
    AddPlainPingPong(t);
    return t;
  }();
  return table;
}

std::string_view FormatName(WeightFormat format) {
  switch (format) {
    case WeightFormat::kNested:
      return "nested";
    case WeightFormat::kNested12F16:
      return "nested12_f16";
    case WeightFormat::kNested12Bf16:
      return "nested12_bf16";
    case WeightFormat::kE4m3:
      return "e4m3";
    case WeightFormat::kE4m3Promoted:
      return "e4m3_promoted";
    case WeightFormat::kF16:
      return "f16";
    case WeightFormat::kBf16:
      return "bf16";
  }
  return "";
}

std::string Name(const KernelConfig& config) {
  std::string name(FormatName(config.format));
  name += config.family == Family::kSplit ? "_split"
          : config.ping_pong              ? "_pingpong"
                                          : "_persistent";
  const std::string rows =
      StrCat("_r", config.rows, config.blocks == 2 && !config.ping_pong ? "b2" : "");
  const std::string tokens = StrCat("_t", config.tokens);
  name += config.by_token ? tokens + rows : rows + tokens;
  name += StrCat("_k", config.k);
  if (config.ctas != 1) {
    name += StrCat("_c", config.ctas);
  }
  return name;
}

std::string Name(const Plan& plan) {
  const ClusterShape& c = plan.cluster;
  std::string name = Name(*plan.config);
  std::string how = c.split > 1 ? StrCat("s", c.split) : "";
  how += c.share_x > 1 ? StrCat("x", c.share_x) : "";
  how += c.share_w > 1 ? StrCat("w", c.share_w) : "";
  how += plan.raster_group != 8 ? StrCat("g", plan.raster_group) : "";
  how += plan.split_k == Plan::kStreamK ? "k" : plan.split_k > 1 ? StrCat("k", plan.split_k) : "";
  return how.empty() ? name : name + "/" + how;
}

bool PartsAligned(const RowParts& parts, int rows) {
  for (int i = 0; i < parts.count; ++i) {
    const int base = parts.interleaved != 0 && rows < 128 ? rows / 2 : rows;
    if (parts.scale_base[i] % base != 0 ||
        (parts.interleaved == 0 && parts.first_row[i] % rows != 0)) {
      return false;
    }
  }
  return true;
}

std::string Unsupported(const Plan& plan, const GemmProblem& problem) {
  const KernelConfig& config = *plan.config;
  const ClusterShape& c = plan.cluster;
  if (config.format != problem.format) {
    return "another weight format";
  }
  if (problem.n % 16 != 0 || problem.k % 16 != 0) {
    return "N and K must be multiples of 16";
  }
  if (problem.outliers.count > 0 && (IsPlain(problem.format) || IsNested12(problem.format))) {
    return "weights of this format have no outliers";
  }
  if (problem.block.w != nullptr &&
      !PartsAligned(problem.block.parts, config.by_token ? 128 : 16)) {
    return "parts of the weight begin where lanes would need several scales";
  }
  if (c.split < 1 || c.share_x < 1 || c.share_w < 1 || c.size() > kMostClusterSize) {
    return "a cluster has 1..8 CTAs";
  }
  if ((c.share_x & (c.share_x - 1)) != 0 || (c.share_w & (c.share_w - 1)) != 0) {
    return "operands are shared by a power of two of CTAs";
  }
  if (config.tokens % (8 * c.share_x) != 0 || config.rows % (8 * c.share_w) != 0) {
    return "shares of a tile are multiples of 8 rows";
  }
  if (plan.UsesWorkspace() && (problem.workspace == nullptr || !config.shareable)) {
    return "split-K and stream-K need a kernel that shares tiles and a workspace";
  }
  const Epilogue& e = problem.epilogue;
  if (e.y_stride % 4 != 0 || reinterpret_cast<uintptr_t>(e.y) % 16 != 0 ||
      e.residual_stride % 4 != 0 || reinterpret_cast<uintptr_t>(e.residual) % 8 != 0) {
    return "rows of Y and of the residual must start at multiples of 8 bytes";
  }
  if (CeilDiv(problem.k, config.k) > kMostK / 64) {
    return StrCat("K is at most ", kMostK);
  }
  if (config.family == Family::kSplit) {
    if (c.split > CeilDiv(problem.k, config.k)) {
      return "each part of K needs a stage";
    }
    // This CTA's partial sums, and those of the others for its share of the tokens.
    const int stride = (config.rows + 4) * 4;
    const int tokens = std::min(config.tokens, problem.m);
    if ((tokens + (c.split - 1) * CeilDiv(tokens, c.split)) * stride > config.region_bytes) {
      return "the partial sums do not fit in shared memory";
    }
    return "";
  }
  if (CeilDiv(problem.n, config.rows) > kMostSideTiles ||
      CeilDiv(problem.m, config.tokens) > kMostSideTiles) {
    return "there are too many tiles for a persistent kernel";
  }
  if (plan.split_k > 1 &&
      (c.size() > 1 || plan.split_k > kMostSplitK || plan.split_k > CeilDiv(problem.k, config.k) ||
       plan.split_k > CeilDiv(config.by_token ? config.rows : config.tokens, 32) ||
       plan.split_k * CeilDiv(problem.n, config.rows * c.share_x) *
               CeilDiv(problem.m, config.tokens * c.share_w) >
           kLeastSms)) {
    return "split-K must fit in one wave, a stage each at least, without clusters";
  }
  if (c.split != 1) {
    return "persistent kernels do not split K";
  }
  if (e.y_type == OutputType::kF32) {
    return "persistent kernels write 16-bit types";
  }
  if ((e.silu_mul || e.residual != nullptr) && !config.finishes) {
    return "the tile is too large for an activation or a residual";
  }
  if (problem.outliers.count > 0) {
    return "persistent kernels do not add outliers";
  }
  if (e.y_stride % 8 != 0) {
    return "rows of Y must start at multiples of 16 bytes";
  }
  return "";
}

namespace {

// Once for each kernel and device; a kernel must be allowed its shared memory before it runs.
void AllowSharedMemory(const KernelConfig& config) {
  static std::mutex mutex;
  static std::set<std::pair<const void*, int>> allowed;
  int device = 0;
  cuda::CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard lock(mutex);
  if (allowed.insert({config.function, device}).second) {
    cuda::CheckCuda(
        cudaFuncSetAttribute(config.function, cudaFuncAttributeMaxDynamicSharedMemorySize,
                             config.shared_bytes),
        "cudaFuncSetAttribute");
  }
}

}  // namespace

int MaxActiveClusters(const KernelConfig& config, int cluster_size) {
  static std::mutex mutex;
  static std::map<std::tuple<int, const void*, int>, int> known;
  AllowSharedMemory(config);
  int device = 0;
  cuda::CheckCuda(cudaGetDevice(&device), "cudaGetDevice");
  const std::lock_guard lock(mutex);
  int& clusters = known[{device, config.function, cluster_size}];
  if (clusters == 0) {
    cudaLaunchConfig_t launch{};
    cudaLaunchAttribute attribute{};
    attribute.id = cudaLaunchAttributeClusterDimension;
    attribute.val.clusterDim = {static_cast<unsigned>(cluster_size), 1, 1};
    launch.gridDim = dim3(cluster_size);
    launch.blockDim = dim3(config.threads);
    launch.dynamicSmemBytes = config.shared_bytes;
    launch.attrs = &attribute;
    launch.numAttrs = 1;
    cuda::CheckCuda(cudaOccupancyMaxActiveClusters(&clusters, config.function, &launch),
                    "cudaOccupancyMaxActiveClusters");
    Check(clusters > 0, ErrorCode::kUnsupported, Name(config), " does not fit on this device");
  }
  return clusters;
}

void InitWorkspace(void* workspace, cudaStream_t stream) {
  FindGpcs();
  cuda::CheckCuda(cudaMemsetAsync(workspace, 0, kWorkspaceBytes, stream), "cudaMemsetAsync");
}

void Launch(const Plan& plan, const GemmProblem& problem, cudaStream_t stream, bool overlap) {
  const KernelConfig& config = *plan.config;
  const ClusterShape& c = plan.cluster;
  AllowSharedMemory(config);
  const bool persistent = config.family == Family::kPersistent;
  const int most = persistent ? MaxActiveClusters(config, c.size()) : 0;
  const GemmParams params = MakeParams(plan, problem, most);
  const int tiles = params.row_clusters * params.token_clusters;
  std::array<cudaLaunchAttribute, 2> attributes{};
  attributes[0].id = cudaLaunchAttributeClusterDimension;
  attributes[0].val.clusterDim = {static_cast<unsigned>(c.size()), 1, 1};
  attributes[1].id = cudaLaunchAttributeProgrammaticStreamSerialization;
  attributes[1].val.programmaticStreamSerializationAllowed = 1;
  cudaLaunchConfig_t launch{};
  const int clusters = Counts(plan, problem) ? most : std::min(tiles, most);
  launch.gridDim = persistent ? dim3(clusters * c.size())
                              : dim3(params.row_clusters * c.size(), params.token_clusters);
  launch.blockDim = dim3(config.threads);
  launch.dynamicSmemBytes = config.shared_bytes;
  launch.stream = stream;
  launch.attrs = attributes.data();
  launch.numAttrs = overlap ? 2 : 1;
  void* arguments[] = {const_cast<GemmParams*>(&params)};
  cuda::CheckCuda(cudaLaunchKernelExC(&launch, config.function, arguments), "cudaLaunchKernelExC");
}

}  // namespace dualfp::sm90
