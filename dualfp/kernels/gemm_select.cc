// The choice among the backends' GEMM kernels.

#include <algorithm>
#include <array>
#include <vector>

#include "dualfp/base/check.h"
#include "dualfp/base/env.h"
#include "dualfp/kernels/backend.h"
#include "dualfp/kernels/device.h"

namespace dualfp {
namespace {

std::vector<GemmKernel> AllKernels() {
  std::vector<GemmKernel> kernels;
  for (const Backend& backend : Backends()) {
    kernels.insert(kernels.end(), backend.gemms.begin(), backend.gemms.end());
  }
  return kernels;
}

const GemmKernel& ForcedKernel(const std::string& name, const GemmDesc& desc) {
  std::string names;
  for (const GemmKernel& kernel : GemmKernels()) {
    if (kernel.name == name) {
      const std::string reason = kernel.supports(desc);
      Check(reason.empty(), ErrorCode::kUnsupported, "DUALFP_KERNEL=", name, " cannot run ",
            reason.empty() ? "" : Describe(desc), ": ", reason);
      return kernel;
    }
    names += StrCat(names.empty() ? "" : ", ", kernel.name);
  }
  Fail(ErrorCode::kInvalidArgument, "DUALFP_KERNEL=", name, ": expected one of ", names);
}

int64_t WorkspaceBytes(const GemmKernel& kernel, const GemmDesc& desc) {
  return kernel.workspace_bytes == nullptr ? 0 : kernel.workspace_bytes(desc);
}

// The kernels that run `desc` at some M: those that support it, up to the first that never yields.
template <typename Body>
void ForEachCandidate(std::span<const GemmKernel> kernels, const GemmDesc& desc, const Body& body) {
  for (const GemmKernel& kernel : kernels) {
    if (kernel.supports(desc).empty()) {
      body(kernel);
      if (kernel.yields == nullptr) {
        return;
      }
    }
  }
}

struct Choice {
  const GemmKernel* kernel = nullptr;
  int64_t workspace_bytes = 0;  // GemmWorkspaceBytes()
};

Choice MakeChoice(const GemmDesc& desc) {
  const GemmKernel& kernel = SelectGemmKernel(desc);
  return {&kernel, GetEnv("DUALFP_KERNEL") ? WorkspaceBytes(kernel, desc)
                                           : GemmWorkspaceBytes(GemmKernels(), desc)};
}

// A small set-associative cache: a model has a handful of shapes, each at a few values of M. With
// one way, shapes that share a place would be selected anew in every layer of every step.
Choice CachedChoice(const GemmDesc& desc) {
  struct Entry {
    GemmDesc desc;
    Choice choice;
  };
  constexpr uint64_t kSets = 64;
  constexpr int kWays = 8;
  struct Set {
    std::array<Entry, kWays> entries;
    uint32_t next = 0;  // to be replaced
  };
  thread_local std::array<Set, kSets> cache;
  uint64_t hash = 0;
  for (const int64_t part :
       {desc.m, desc.n, desc.k, static_cast<int64_t>(desc.weight_format),
        static_cast<int64_t>(desc.precision), static_cast<int64_t>(desc.has_residual)}) {
    hash = (hash ^ static_cast<uint64_t>(part)) * 0x9e3779b97f4a7c15u;
    hash ^= hash >> 32;
  }
  Set& set = cache[hash % kSets];
  for (const Entry& entry : set.entries) {
    if (entry.choice.kernel != nullptr && entry.desc == desc) {
      return entry.choice;
    }
  }
  const Choice choice = MakeChoice(desc);
  set.entries[set.next] = {desc, choice};
  set.next = (set.next + 1) % kWays;
  return choice;
}

}  // namespace

std::span<const GemmKernel> GemmKernels() {
  static const std::vector<GemmKernel> kernels = AllKernels();
  return kernels;
}

const GemmKernel& SelectGemmKernel(std::span<const GemmKernel> kernels, const GemmDesc& desc) {
  const GemmKernel* yielding = nullptr;
  std::string reasons;
  for (const GemmKernel& kernel : kernels) {
    const std::string reason = kernel.supports(desc);
    if (!reason.empty()) {
      reasons += StrCat("; ", kernel.name, ": ", reason);
    } else if (kernel.yields == nullptr || !kernel.yields(desc)) {
      return kernel;
    } else if (yielding == nullptr) {
      yielding = &kernel;
    }
  }
  if (yielding == nullptr) {
    Fail(ErrorCode::kUnsupported, "gemm: no kernel runs ", Describe(desc), " on ",
         DeviceName(desc.device), reasons);
  }
  return *yielding;
}

const GemmKernel& SelectGemmKernel(const GemmDesc& desc) {
  if (const auto forced = GetEnv("DUALFP_KERNEL")) {
    return ForcedKernel(*forced, desc);
  }
  return SelectGemmKernel(GemmKernels(), desc);
}

int64_t GemmWorkspaceBytes(std::span<const GemmKernel> kernels, const GemmDesc& desc) {
  int64_t bytes = 0;
  ForEachCandidate(kernels, desc, [&](const GemmKernel& kernel) {
    bytes = std::max(bytes, WorkspaceBytes(kernel, desc));
  });
  return bytes;
}

int64_t GemmWorkspaceBytes(const GemmDesc& desc) { return CachedChoice(desc).workspace_bytes; }

std::string GemmUnsupported(const GemmDesc& desc) {
  try {
    SelectGemmKernel(GemmKernels(), desc);
    return "";
  } catch (const Error& error) {
    if (error.code() != ErrorCode::kUnsupported) {
      throw;
    }
    return error.what();
  }
}

bool GemmRowsAreIndependent(const GemmDesc& desc) {
  const GemmKernel& selected = SelectGemmKernel(desc);
  if (!selected.row_invariant || desc.activation_quant == ActivationQuant::kDynamicPerTensor) {
    return false;
  }
  // Two kernels need not add in the same order.
  int candidates = 0;
  ForEachCandidate(GemmKernels(), desc, [&](const GemmKernel&) { ++candidates; });
  return candidates == 1 || GetEnv("DUALFP_KERNEL").has_value();
}

void Gemm(const Context& context, const GemmArgs& args) {
  const GemmDesc desc = DescribeGemm(args);
  if (desc.m == 0) {
    return;
  }
  if (context.device != desc.device) {
    Fail(ErrorCode::kInvalidArgument, "gemm: x is on ", DeviceName(desc.device),
         ", but the context is for ", DeviceName(context.device));
  }
  const GemmKernel& kernel = *CachedChoice(desc).kernel;
  const int64_t wanted = WorkspaceBytes(kernel, desc);
  const int64_t given = context.workspace ? context.workspace.num_bytes() : 0;
  if (given < wanted) {
    Fail(ErrorCode::kInvalidArgument, "gemm: ", kernel.name, " wants a workspace of ", wanted,
         " bytes and got ", given);
  }
  if (desc.device.type == DeviceType::kCpu) {
    Check(context.threads != nullptr, ErrorCode::kInvalidArgument, "gemm: no thread pool");
  }
  kernel.run(context, desc, args);
}

}  // namespace dualfp
