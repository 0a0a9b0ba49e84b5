// GPUs by the CUDA runtime.

#include <cuda_runtime_api.h>

#include <string>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/kernels/cuda/attention/attention.h"
#include "dualfp/kernels/cuda/common/cuda_check.h"
#include "dualfp/kernels/cuda/common/scoped_device.h"
#include "dualfp/kernels/cuda/sm90/gemm.h"
#include "dualfp/kernels/cuda/stream.h"
#include "dualfp/kernels/device_driver.h"

namespace dualfp {
namespace cuda {
namespace {

Device Gpu(int index) { return {DeviceType::kCuda, index}; }

int ComputeCapability(int index) {
  int major = 0;
  int minor = 0;
  CheckCuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, index),
            "cudaDeviceGetAttribute");
  CheckCuda(cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, index),
            "cudaDeviceGetAttribute");
  return 10 * major + minor;
}

class CudaEvent final : public Event {
 public:
  explicit CudaEvent(int index) {
    const ScopedDevice scope(index);
    CheckCuda(cudaEventCreateWithFlags(&event_, cudaEventDisableTiming), "cudaEventCreate");
  }
  ~CudaEvent() override { cudaEventDestroy(event_); }

  void Synchronize() override { CheckCuda(cudaEventSynchronize(event_), "cudaEventSynchronize"); }
  bool IsDone() const override {
    const cudaError_t status = cudaEventQuery(event_);
    if (status == cudaErrorNotReady) {
      return false;
    }
    CheckCuda(status, "cudaEventQuery");
    return true;
  }
  cudaEvent_t get() const { return event_; }

 private:
  cudaEvent_t event_ = nullptr;
};

cudaEvent_t NativeEvent(const Event& event) {
  const auto* native = dynamic_cast<const CudaEvent*>(&event);
  CheckInternal(native != nullptr, "an event of another kind of device on a CUDA stream");
  return native->get();
}

class CudaGraph final : public Graph {
 public:
  CudaGraph(CudaStream& stream, const std::function<void()>& body) : stream_(stream) {
    cudaGraph_t graph = CaptureBody(stream.get(), body);
    const ScopedDevice scope(stream.device().index);
    const cudaError_t status = cudaGraphInstantiate(&executable_, graph, 0);
    cudaGraphDestroy(graph);
    CheckCuda(status, "cudaGraphInstantiate");
  }
  ~CudaGraph() override { cudaGraphExecDestroy(executable_); }

  void Launch() override {
    const ScopedDevice scope(stream_.device().index);
    CheckCuda(cudaGraphLaunch(executable_, stream_.get()), "cudaGraphLaunch");
  }

 private:
  static cudaGraph_t CaptureBody(cudaStream_t stream, const std::function<void()>& body) {
    cudaGraph_t graph = nullptr;
    CheckCuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
              "cudaStreamBeginCapture");
    try {
      body();
    } catch (...) {
      // Ends the capture, valid or not, so that the stream works again.
      if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr) {
        cudaGraphDestroy(graph);
      }
      cudaGetLastError();
      throw;
    }
    CheckCuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
    return graph;
  }

  CudaStream& stream_;
  cudaGraphExec_t executable_ = nullptr;
};

class Driver final : public DeviceDriver {
 public:
  int Count() const override {
    int count = 0;
    return cudaGetDeviceCount(&count) == cudaSuccess ? count : 0;
  }

  std::string WhyNone() const override {
    int count = 0;
    const cudaError_t status = cudaGetDeviceCount(&count);
    cudaGetLastError();
    return status == cudaSuccess ? "the driver lists no GPU"
                                 : StrCat("the driver says: ", cudaGetErrorString(status));
  }

  DeviceProperties Properties(int index) const override {
    cudaDeviceProp properties;
    CheckCuda(cudaGetDeviceProperties(&properties, index), "cudaGetDeviceProperties");
    return {.name = properties.name,
            .memory_bytes = static_cast<int64_t>(properties.totalGlobalMem),
            .multiprocessors = properties.multiProcessorCount,
            .compute_capability = ComputeCapability(index)};
  }

  int64_t FreeBytes(int index) const override {
    const ScopedDevice scope(index);
    size_t free = 0;
    size_t total = 0;
    CheckCuda(cudaMemGetInfo(&free, &total), "cudaMemGetInfo");
    return static_cast<int64_t>(free);
  }

  Buffer Allocate(int index, size_t bytes) const override {
    if (bytes == 0) {
      return Buffer(nullptr, 0, Gpu(index), nullptr);
    }
    const ScopedDevice scope(index);
    void* data = nullptr;
    CheckAllocation(cudaMalloc(&data, bytes), index, bytes, "");
    return Buffer(data, bytes, Gpu(index), [](void* pointer, size_t) { cudaFree(pointer); });
  }

  Buffer AllocatePinned(int index, size_t bytes) const override {
    if (bytes == 0) {
      return Buffer();
    }
    const ScopedDevice scope(index);
    void* data = nullptr;
    CheckAllocation(cudaHostAlloc(&data, bytes, cudaHostAllocPortable), index, bytes,
                    " of pinned host memory");
    return Buffer(data, bytes, Device{}, [](void* pointer, size_t) { cudaFreeHost(pointer); });
  }

  std::unique_ptr<Stream> MakeStream(int index, StreamUse use) const override {
    return std::make_unique<CudaStream>(index, use);
  }
  std::unique_ptr<Stream> WrapStream(int index, void* native) const override {
    return std::make_unique<CudaStream>(index, static_cast<cudaStream_t>(native));
  }
  int64_t StreamStateBytes(int index) const override {
    return ComputeCapability(index) / 10 == 9 ? sm90::kWorkspaceBytes : 0;
  }
  void InitStreamState(int index, void* state, void* native) const override {
    if (StreamStateBytes(index) > 0) {
      const ScopedDevice scope(index);
      sm90::InitWorkspace(state, static_cast<cudaStream_t>(native));
    }
  }
  std::unique_ptr<Stream> WrapStream(int index, void* native, void* state) const override {
    return std::make_unique<CudaStream>(index, static_cast<cudaStream_t>(native), state);
  }
  std::unique_ptr<Event> MakeEvent(int index) const override {
    return std::make_unique<CudaEvent>(index);
  }
  std::unique_ptr<Graph> Capture(Stream& stream, std::function<void()> body) const override {
    return std::make_unique<CudaGraph>(static_cast<CudaStream&>(stream), body);
  }

 private:
  void CheckAllocation(cudaError_t status, int index, size_t bytes, const char* kind) const {
    // The latter for sizes that no machine has.
    if (status == cudaErrorMemoryAllocation || status == cudaErrorInvalidValue) [[unlikely]] {
      cudaGetLastError();
      const DeviceProperties properties = Properties(index);
      Fail(ErrorCode::kResourceExhausted, DeviceName(Gpu(index)), " (", properties.name,
           "): cannot allocate ", bytes, " bytes", kind, "; ", FreeBytes(index), " of its ",
           properties.memory_bytes, " bytes are free");
    }
    CheckCuda(status, "allocation");
  }
};

}  // namespace

CudaStream::CudaStream(int index, StreamUse use) : Stream(Gpu(index)), owned_(true) {
  const ScopedDevice scope(index);
  CheckCuda(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "cudaStreamCreate");
  if (use == StreamUse::kOps) {
    try {
      PrepareForOps();
    } catch (...) {
      cudaStreamDestroy(stream_);
      throw;
    }
  }
}

CudaStream::CudaStream(int index, cudaStream_t borrowed)
    : Stream(Gpu(index)), owned_(false), stream_(borrowed) {
  const ScopedDevice scope(index);
  PrepareForOps();
}

CudaStream::CudaStream(int index, cudaStream_t borrowed, void* state)
    : Stream(Gpu(index)),
      owned_(false),
      lent_(true),
      stream_(borrowed),
      sm90_workspace_(state, state == nullptr ? 0 : sm90::kWorkspaceBytes, Gpu(index), nullptr) {}

CudaStream::~CudaStream() {
  if (lent_) {
    return;
  }
  cudaStreamSynchronize(stream_);  // kernels may still use the workspace
  if (owned_) {
    cudaStreamDestroy(stream_);
  }
}

void CudaStream::PrepareForOps() {
  if (ComputeCapability(device().index) / 10 == 9) {
    sm90_workspace_ = Allocate(device(), sm90::kWorkspaceBytes);
    sm90::InitWorkspace(sm90_workspace_.data(), stream_);
  }
  counters_ = Allocate(device(), kAttentionCounters * sizeof(unsigned));
  Fill(counters_.data(), 0, counters_.size());
  // A graph may be the first to use them, on whichever stream.
  Synchronize();
}

void CudaStream::Copy(void* to, const void* from, size_t bytes) {
  if (bytes > 0) {
    const ScopedDevice scope(device().index);
    CheckCuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDefault, stream_), "cudaMemcpyAsync");
  }
}

void CudaStream::Fill(void* to, uint8_t value, size_t bytes) {
  if (bytes > 0) {
    const ScopedDevice scope(device().index);
    CheckCuda(cudaMemsetAsync(to, value, bytes, stream_), "cudaMemsetAsync");
  }
}

void CudaStream::Record(Event& event) {
  const ScopedDevice scope(device().index);
  CheckCuda(cudaEventRecord(NativeEvent(event), stream_), "cudaEventRecord");
}

void CudaStream::WaitFor(const Event& event) {
  const ScopedDevice scope(device().index);
  CheckCuda(cudaStreamWaitEvent(stream_, NativeEvent(event), 0), "cudaStreamWaitEvent");
}

void CudaStream::Synchronize() {
  CheckCuda(cudaStreamSynchronize(stream_), "cudaStreamSynchronize");
}

const CudaStream& StreamOf(const Context& context) {
  const auto* stream = dynamic_cast<const CudaStream*>(context.stream);
  Check(stream != nullptr && stream->device() == context.device, ErrorCode::kInvalidArgument,
        "a context for ", DeviceName(context.device), " needs a stream of that device");
  return *stream;
}

}  // namespace cuda

const DeviceDriver* CudaDriver() {
  static const cuda::Driver driver;
  return &driver;
}

}  // namespace dualfp
