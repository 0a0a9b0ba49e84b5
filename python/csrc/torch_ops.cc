// The ops that a model calls at every step, against torch's stable ABI: one binary for every torch
// from 2.11 on. Schemas, fake implementations and all other ops are in python/dualfp/ops.py.
//
// Results and workspaces are torch's own memory, so that a captured graph keeps them in its pool.
// What is wrong with an argument is a std::runtime_error, which Python sees as a RuntimeError.

#include <dlfcn.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <sstream>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "capi/dualfp.h"

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kAlignment = 256;    // of workspaces
constexpr int64_t kRowAlignment = 16;  // of a GPU's rows

// Where a tensor without elements lies, whose null pointer would stand for "absent".
alignas(kAlignment) char no_elements[kAlignment];

std::atomic<int32_t> process_precision = DUALFP_EXACT;
thread_local int32_t thread_precision = -1;  // -1: the process's

template <typename... Parts>
[[noreturn]] void Fail(const Parts&... parts) {
  std::ostringstream message;
  (message << ... << parts);
  throw std::runtime_error(std::move(message).str());
}

void CheckStatus(dualfp_status status) {
  if (status != DUALFP_OK) {
    throw std::runtime_error(dualfp_last_error());
  }
}

void CheckTorch(AOTITorchError error, const char* what) {
  if (error != TORCH_SUCCESS) {
    Fail("dualfp: torch refused to ", what);
  }
}

int32_t DTypeOf(const Tensor& tensor) {
  switch (tensor.scalar_type()) {
    case ScalarType::Float:
      return DUALFP_F32;
    case ScalarType::Half:
      return DUALFP_F16;
    case ScalarType::BFloat16:
      return DUALFP_BF16;
    case ScalarType::Float8_e4m3fn:
      return DUALFP_F8_E4M3;
    case ScalarType::Byte:
      return DUALFP_U8;
    case ScalarType::Char:
      return DUALFP_I8;
    case ScalarType::Long:
      return DUALFP_I64;
    default:
      Fail("dualfp: a tensor of a dtype that no op takes");
  }
}

int32_t DeviceOf(const Tensor& tensor) {
  return tensor.is_cuda() ? tensor.get_device_index() : int32_t{DUALFP_CPU};
}

// Bytes stand for codes too, as some checkpoints have them.
bool IsCode(int32_t dtype) { return dtype == DUALFP_F8_E4M3 || dtype == DUALFP_U8; }

std::string ShapeOf(const Tensor& tensor) {
  std::ostringstream text;
  const char* separator = "[";
  for (const int64_t size : tensor.sizes()) {
    text << separator << size;
    separator = ", ";
  }
  text << (tensor.dim() == 0 ? "[]" : "]");
  return std::move(text).str();
}

dualfp_tensor Describe(const Tensor& tensor) {
  if (tensor.dim() < 1 || tensor.dim() > DUALFP_MAX_RANK) {
    Fail("dualfp: a tensor of ", tensor.dim(), " dimensions");
  }
  dualfp_tensor result{};
  void* data = tensor.data_ptr();
  result.data = data == nullptr ? no_elements : data;
  result.rank = static_cast<int32_t>(tensor.dim());
  for (int axis = 0; axis < result.rank; ++axis) {
    result.shape[axis] = tensor.size(axis);
    result.strides[axis] = tensor.stride(axis);
  }
  result.dtype = DTypeOf(tensor);
  result.device = DeviceOf(tensor);
  return result;
}

dualfp_tensor Describe(const std::optional<Tensor>& tensor) {
  return tensor.has_value() ? Describe(*tensor) : dualfp_tensor{};
}

Tensor Empty(const std::vector<int64_t>& sizes, int32_t dtype, const Tensor& beside) {
  std::vector<int64_t> strides(sizes.size(), 1);
  for (size_t axis = sizes.size(); axis-- > 1;) {
    strides[axis - 1] = strides[axis] * std::max<int64_t>(1, sizes[axis]);
  }
  AtenTensorHandle handle = nullptr;
  CheckTorch(aoti_torch_empty_strided(
                 static_cast<int64_t>(sizes.size()), sizes.data(), strides.data(), dtype,
                 beside.is_cuda() ? aoti_torch_device_type_cuda() : aoti_torch_device_type_cpu(),
                 beside.is_cuda() ? beside.get_device_index() : 0, &handle),
             "allocate a result");
  return Tensor(handle);
}

int32_t TorchDType(const Tensor& tensor) {
  int32_t dtype = 0;
  CheckTorch(aoti_torch_get_dtype(tensor.get(), &dtype), "tell a dtype");
  return dtype;
}

// libtorch_cuda is there only where torch was built with CUDA.
void* CurrentStream(int32_t device) {
  using Function = AOTITorchError (*)(int32_t, void**);
  static const auto current = [] {
    void* library = dlopen("libtorch_cuda.so", RTLD_LAZY | RTLD_NOLOAD);
    return library == nullptr
               ? nullptr
               : reinterpret_cast<Function>(dlsym(library, "aoti_torch_get_current_cuda_stream"));
  }();
  if (current == nullptr) {
    Fail("dualfp: a tensor of a GPU, and this torch has no CUDA");
  }
  void* stream = nullptr;
  CheckTorch(current(device, &stream), "tell the current stream");
  return stream;
}

void* Aligned(const Tensor& memory) {
  auto* data = static_cast<char*>(memory.data_ptr());
  const auto past = static_cast<int64_t>(reinterpret_cast<uintptr_t>(data) % kAlignment);
  return data + (past == 0 ? 0 : kAlignment - past);
}

void* NewState(int32_t device, void* stream, const Tensor& beside) {
  int64_t bytes = 0;
  CheckStatus(dualfp_stream_state_bytes(device, &bytes));
  if (bytes == 0) {
    return nullptr;
  }
  // Kept as long as the process: graphs may refer to it.
  auto* memory = new Tensor(Empty({bytes + kAlignment}, aoti_torch_dtype_uint8(), beside));
  CheckStatus(dualfp_stream_state_init(device, Aligned(*memory), stream));
  return Aligned(*memory);
}

// What kernels keep on the current stream: one for each stream, and one that the graphs of a device
// share, since a capturing stream cannot be waited for. The first call on a device makes both.
void* DefaultState(int32_t device, void* stream, const Tensor& beside) {
  static std::mutex mutex;
  static std::map<std::pair<int32_t, void*>, void*> streams;
  static std::map<int32_t, void*> graphs;
  int32_t capturing = 0;
  CheckStatus(dualfp_stream_is_capturing(device, stream, &capturing));
  const std::lock_guard lock(mutex);
  if (capturing != 0) {
    const auto found = graphs.find(device);
    if (found == graphs.end()) {
      Fail(
          "dualfp: the first call on a GPU cannot be captured; call once before, or "
          "dualfp.torch.prepare(device)");
    }
    return found->second;
  }
  if (graphs.count(device) == 0) {
    graphs[device] = NewState(device, stream, beside);
  }
  const std::pair key{device, stream};
  const auto found = streams.find(key);
  return found != streams.end() ? found->second : streams[key] = NewState(device, stream, beside);
}

// X as [rows, k]; the tensor owns what a copy had to be made of.
struct Rows {
  dualfp_tensor view{};
  std::optional<Tensor> copy;
};

Tensor Contiguous(const Tensor& tensor) {
  const auto sizes = tensor.sizes();
  Tensor result = Empty({sizes.begin(), sizes.end()}, TorchDType(tensor), tensor);
  CheckTorch(aoti_torch_copy_(result.get(), tensor.get(), 0), "copy a tensor");
  return result;
}

bool KernelsRead(const dualfp_tensor& rows, bool gpu, size_t element) {
  const bool ordered = (rows.shape[1] <= 1 || rows.strides[1] == 1) &&
                       (rows.shape[0] <= 1 || rows.strides[0] >= rows.shape[1]);
  const bool several = rows.shape[0] > 1;
  return ordered &&
         (!gpu ||
          (reinterpret_cast<uintptr_t>(rows.data) % kRowAlignment == 0 &&
           (!several || rows.strides[0] * static_cast<int64_t>(element) % kRowAlignment == 0)));
}

Rows RowsOf(const Tensor& x) {
  Rows result;
  const int64_t k = x.size(x.dim() - 1);
  const int64_t count = k == 0 ? 0 : x.numel() / k;
  if (x.dim() == 2) {
    result.view = Describe(x);
  } else if (x.is_contiguous()) {
    void* data = x.data_ptr();
    result.view.data = data == nullptr ? no_elements : data;
    result.view.dtype = DTypeOf(x);
    result.view.device = DeviceOf(x);
    result.view.rank = 2;
    result.view.shape[0] = count;
    result.view.shape[1] = k;
    result.view.strides[0] = k;
    result.view.strides[1] = 1;
  }
  if (result.view.data == nullptr || !KernelsRead(result.view, x.is_cuda(), x.element_size())) {
    result.copy = Contiguous(x);
    return {.view = RowsOf(*result.copy).view, .copy = std::move(result.copy)};
  }
  return result;
}

void CheckBeside(const std::optional<Tensor>& tensor, const Tensor& weight, const char* op,
                 const char* name) {
  if (tensor.has_value() && DeviceOf(*tensor) != DeviceOf(weight)) {
    Fail("dualfp::", op, ": ", name, " is not on the weight's device");
  }
}

struct Call {
  const char* op;
  int32_t precision = DUALFP_EXACT;
  int32_t activation_quant = DUALFP_PER_TOKEN;
};

// y = x weight^T + bias in a tensor of x's leading dimensions.
Tensor Multiply(const Call& call, const Tensor& x, const dualfp_weight& weight,
                const Tensor& weight_tensor, const std::optional<Tensor>& x_scales,
                const std::optional<Tensor>& bias, const std::optional<Tensor>& state,
                int32_t torch_dtype) {
  if (x.dim() < 1 || x.size(x.dim() - 1) != weight.k) {
    Fail("dualfp::", call.op, ": x is ", ShapeOf(x), "; the weight wants [..., ", weight.k, "]");
  }
  if (DeviceOf(x) != DeviceOf(weight_tensor)) {
    Fail("dualfp::", call.op, ": x and the weight are on different devices");
  }
  CheckBeside(bias, weight_tensor, call.op, "bias");
  std::vector<int64_t> sizes(x.sizes().begin(), x.sizes().end());
  sizes.back() = weight.n;
  Tensor y = Empty(sizes, torch_dtype, x);
  if (x.numel() == 0) {
    return y;
  }
  const Rows rows = RowsOf(x);
  dualfp_gemm_args args{};
  args.struct_size = sizeof args;
  args.precision = call.precision;
  args.activation_quant = call.activation_quant;
  args.weight = &weight;
  args.x = rows.view;
  if (x_scales.has_value()) {
    args.x.dtype = DUALFP_F8_E4M3;
  }
  args.x_scales = Describe(x_scales);
  if (args.x_scales.data != nullptr) {
    args.x_scales.rank = 1;
    args.x_scales.shape[0] = x_scales->numel();
    args.x_scales.strides[0] = 1;
  }
  args.y.data = y.data_ptr();
  args.y.rank = 2;
  args.y.dtype = DTypeOf(y);
  args.y.device = DeviceOf(y);
  args.y.shape[0] = rows.view.shape[0];
  args.y.shape[1] = weight.n;
  args.y.strides[0] = weight.n;
  args.y.strides[1] = 1;
  args.bias = Describe(bias);
  std::optional<Tensor> workspace;
  CheckStatus(dualfp_gemm_workspace_bytes(&args, &args.workspace_bytes));
  if (args.workspace_bytes > 0) {
    workspace = Empty({args.workspace_bytes + kAlignment}, aoti_torch_dtype_uint8(), x);
    args.workspace = Aligned(*workspace);
  }
  if (x.is_cuda()) {
    args.stream = CurrentStream(args.x.device);
    args.stream_state = state.has_value() && state->numel() > 0
                            ? state->data_ptr()
                            : DefaultState(args.x.device, args.stream, x);
  }
  CheckStatus(dualfp_gemm(&args));
  return y;
}

dualfp_weight Matrix(const Tensor& values, int32_t format, const char* op) {
  if (values.dim() != 2 || !IsCode(DTypeOf(values))) {
    Fail("dualfp::", op, ": the weight is ", ShapeOf(values), "; expected float8_e4m3fn [n, k]");
  }
  dualfp_weight weight{};
  weight.struct_size = sizeof weight;
  weight.format = format;
  weight.n = values.size(0);
  weight.k = values.size(1);
  weight.values = Describe(values);
  weight.values.dtype = DUALFP_F8_E4M3;
  return weight;
}

int32_t FloatDType(const Tensor& x, const char* op) {
  const ScalarType type = x.scalar_type();
  if (type != ScalarType::Float && type != ScalarType::Half && type != ScalarType::BFloat16) {
    Fail("dualfp::", op, ": x must be float16, bfloat16 or float32");
  }
  return TorchDType(x);
}

// NOLINTBEGIN(performance-unnecessary-value-param): TORCH_BOX calls functions of values.
Tensor Linear(Tensor x, Tensor upper, Tensor lower, std::optional<Tensor> scales,
              std::optional<Tensor> outlier_index, std::optional<Tensor> outlier_value,
              std::optional<Tensor> bias, std::optional<Tensor> state, int64_t precision) {
  constexpr const char* kOp = "linear";
  dualfp_weight weight = Matrix(upper, scales.has_value() ? DUALFP_NESTED12 : DUALFP_NESTED, kOp);
  weight.lower = Describe(lower);
  weight.scales = Describe(scales);
  if (outlier_index.has_value() && outlier_index->numel() > 0) {
    weight.outlier_index = Describe(outlier_index);
    // A GPU's remainders of 12-bit planes come packed, without values of their own.
    if (!(scales.has_value() && upper.is_cuda())) {
      weight.outlier_value = Describe(outlier_value);
    }
  }
  const int32_t in_force = thread_precision >= 0 ? thread_precision : process_precision.load();
  return Multiply({kOp, precision < 0 ? in_force : static_cast<int32_t>(precision)}, x, weight,
                  upper, std::nullopt, bias, state, FloatDType(x, kOp));
}

dualfp_weight Codes(const Tensor& values, const Tensor& scales, const char* op) {
  dualfp_weight weight = Matrix(values, DUALFP_FORMAT_FP8, op);
  if (scales.numel() != 1 && scales.numel() != weight.n) {
    Fail("dualfp::", op, ": ", scales.numel(), " scales for ", weight.n, " rows; expected 1 or ",
         weight.n);
  }
  weight.granularity = scales.numel() == 1 ? DUALFP_SCALE_PER_TENSOR : DUALFP_SCALE_PER_CHANNEL;
  weight.scales = Describe(scales);
  return weight;
}

Tensor Fp8Linear(Tensor x, Tensor weight, Tensor scales, std::optional<Tensor> bias,
                 std::optional<Tensor> input_scale, std::optional<Tensor> state) {
  constexpr const char* kOp = "fp8_linear";
  dualfp_weight codes = Codes(weight, scales, kOp);
  codes.input_scale = Describe(input_scale);
  return Multiply({kOp, DUALFP_FP8, input_scale.has_value() ? DUALFP_STATIC : DUALFP_PER_TOKEN}, x,
                  codes, weight, std::nullopt, bias, state, FloatDType(x, kOp));
}

Tensor Fp8LinearQuantized(Tensor codes, Tensor x_scales, Tensor weight, Tensor scales,
                          std::optional<Tensor> bias, ScalarType dtype,
                          std::optional<Tensor> state) {
  constexpr const char* kOp = "fp8_linear_quantized";
  if (!IsCode(DTypeOf(codes))) {
    Fail("dualfp::", kOp, ": codes must be float8_e4m3fn or uint8");
  }
  const int32_t torch_dtype = dtype == ScalarType::Half       ? aoti_torch_dtype_float16()
                              : dtype == ScalarType::BFloat16 ? aoti_torch_dtype_bfloat16()
                                                              : aoti_torch_dtype_float32();
  return Multiply({kOp, DUALFP_FP8}, codes, Codes(weight, scales, kOp), weight, x_scales, bias,
                  state, torch_dtype);
}

// NOLINTEND(performance-unnecessary-value-param)

void Implement(torch::stable::detail::StableLibrary& library) {
  library.impl("linear", TORCH_BOX(&Linear));
  library.impl("fp8_linear", TORCH_BOX(&Fp8Linear));
  library.impl("fp8_linear_quantized", TORCH_BOX(&Fp8LinearQuantized));
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(dualfp, CPU, library) { Implement(library); }
STABLE_TORCH_LIBRARY_IMPL(dualfp, CUDA, library) { Implement(library); }

// Called by python/dualfp/ops.py: `thread` is the calling thread's, or -1.
extern "C" [[gnu::visibility("default")]] void dualfp_torch_set_precision(int32_t process,
                                                                          int32_t thread) {
  process_precision = process;
  thread_precision = thread;
}
