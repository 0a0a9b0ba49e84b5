#include "dualfp/kernels/gemm.h"

#include <algorithm>
#include <memory>
#include <optional>

#include "capi/guard.h"
#include "capi/host_threads.h"
#include "capi/views.h"
#include "dualfp/base/check.h"
#include "dualfp/kernels/device.h"

namespace dualfp::capi {
namespace {

// The library's arguments, and what they point to.
struct Problem {
  explicit Problem(const dualfp_gemm_args* given) {
    Check(given != nullptr, ErrorCode::kInvalidArgument, "gemm: no arguments");
    CheckSize(given->struct_size, sizeof(dualfp_gemm_args), "dualfp_gemm_args");
    Check(given->weight != nullptr, ErrorCode::kInvalidArgument, "gemm: no weight");
    weight = ToWeight(*given->weight);
    args.weight = &weight;
    args.x = ToView(given->x, "x");
    args.x_scales = ToView(given->x_scales, "x_scales");
    args.y = ToView(given->y, "y");
    args.bias = ToView(given->bias, "bias");
    args.residual = ToView(given->residual, "residual");
    args.precision = ToPrecision(given->precision);
    args.activation_quant = ToActivationQuant(given->activation_quant);
    args.accumulation = given->promoted != 0 ? Accumulation::kPromoted : Accumulation::kFast;
    args.activation = given->silu_mul != 0 ? Activation::kSiluMul : Activation::kNone;
    desc = DescribeGemm(args);
  }
  Problem(const Problem&) = delete;
  Problem& operator=(const Problem&) = delete;

  Weight weight;
  GemmArgs args;
  GemmDesc desc;
};

void Run(const dualfp_gemm_args* given) {
  const Problem problem(given);
  if (problem.desc.m == 0) {
    return;
  }
  const Device device = problem.desc.device;
  Context context;
  context.device = device;
  Check(given->workspace_bytes >= 0 && reinterpret_cast<uintptr_t>(given->workspace) % 256 == 0,
        ErrorCode::kInvalidArgument, "gemm: the workspace must begin at a multiple of 256");
  if (given->workspace != nullptr) {
    context.workspace = TensorView(given->workspace, DType::kU8, {given->workspace_bytes}, device);
  }
  std::optional<HostThreads> threads;
  std::unique_ptr<Stream> stream;
  if (device.type == DeviceType::kCpu) {
    threads.emplace();
    context.threads = &threads->pool();
  } else {
    Check(given->stream_state != nullptr || StreamStateBytes(device) == 0,
          ErrorCode::kInvalidArgument,
          "gemm: no stream_state; allocate dualfp_stream_state_bytes() while loading");
    stream = WrapStream(device, given->stream, given->stream_state);
    context.stream = stream.get();
  }
  Gemm(context, problem.args);
}

}  // namespace
}  // namespace dualfp::capi

using dualfp::capi::Guarded;

dualfp_status dualfp_gemm_workspace_bytes(const dualfp_gemm_args* args, int64_t* bytes) {
  return Guarded([&] {
    const dualfp::capi::Problem problem(args);
    *bytes = dualfp::GemmWorkspaceBytes(problem.desc);
  });
}

dualfp_status dualfp_gemm(const dualfp_gemm_args* args) {
  return Guarded([&] { dualfp::capi::Run(args); });
}

dualfp_status dualfp_gemm_kernel(const dualfp_gemm_args* args, char* name, size_t size) {
  return Guarded([&] {
    const dualfp::capi::Problem problem(args);
    const std::string_view kernel = dualfp::SelectGemmKernel(problem.desc).name;
    dualfp::Check(size > 0, dualfp::ErrorCode::kInvalidArgument, "gemm_kernel: no room for a name");
    const size_t length = std::min(size - 1, kernel.size());
    std::copy_n(kernel.data(), length, name);
    name[length] = '\0';
  });
}
