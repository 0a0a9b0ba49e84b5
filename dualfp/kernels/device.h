// A device and what runs on it: memory, streams, events, copies and graphs. No header of a GPU
// toolkit is needed here; the CPU offers the same with everything done at once.
//
// Device and stream are named by the caller (Context), never taken from what is current, and what
// is current is left as it was. Functions throw kNotFound for a device that this machine does not
// have, saying which it has, kResourceExhausted where memory is lacking, saying how much was asked
// for and how much there is, and kInternal with the driver's words for anything else.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/tensor/buffer.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

struct DeviceProperties {
  std::string name;            // "NVIDIA H200"; of the CPU, CpuDescription()
  int64_t memory_bytes = 0;    // all of it
  int multiprocessors = 0;     // of the CPU: hardware threads
  int compute_capability = 0;  // 90 for 9.0; 0 for the CPU
};

// "cpu", "cuda:0".
std::string DeviceName(Device device);
// The inverse; "cuda" is "cuda:0". Throws kInvalidArgument for anything else.
Device ParseDevice(std::string_view name);

// All of this machine: the CPU, then the GPUs that this build and the driver can use.
std::vector<Device> Devices();
DeviceProperties GetDeviceProperties(Device device);
int64_t FreeMemoryBytes(Device device);

// Uninitialised memory of the device, aligned to 256 bytes (a CPU's: zeros, to 64 at least).
Buffer Allocate(Device device, size_t bytes);

// Memory of the host that copies to and from `device` run on their own from: pinned for a GPU.
Buffer AllocatePinned(Device device, size_t bytes);

// A place in a stream's work. Made once and recorded again and again: recording allocates nothing.
class Event {
 public:
  virtual ~Event() = default;
  // Returns when the work before the last Record() has finished; at once where there was none.
  virtual void Synchronize() = 0;
  virtual bool IsDone() const = 0;
};

// Work in order. What a kernel keeps from launch to launch (counters that are zero once, partial
// sums) belongs to the stream and ends with it, so that one stream's kernels never meet another's.
// One thread uses a stream at a time.
class Stream {
 public:
  virtual ~Stream() = default;
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device device() const { return device_; }
  // A cudaStream_t; nullptr for the CPU.
  virtual void* native() const = 0;

  // From and to any device or the host. A copy from host memory that is not pinned has read it when
  // this returns; of pinned memory, `from` must stay as it is until the stream has come by.
  virtual void Copy(void* to, const void* from, size_t bytes) = 0;
  virtual void Fill(void* to, uint8_t value, size_t bytes) = 0;
  virtual void Record(Event& event) = 0;
  // Work enqueued from here on waits for the event's last Record(), on whichever stream.
  virtual void WaitFor(const Event& event) = 0;
  // Returns when everything enqueued has finished.
  virtual void Synchronize() = 0;

 protected:
  explicit Stream(Device device) : device_(device) {}

 private:
  Device device_;
};

// kCopies: nothing but copies, fills and events run on it, so it need not own what kernels keep
// (22 MB on a Hopper GPU).
enum class StreamUse : uint8_t { kOps, kCopies };

std::unique_ptr<Stream> MakeStream(Device device, StreamUse use = StreamUse::kOps);

// Somebody else's stream (`native` is a cudaStream_t that outlives the result), for ops. Waits for
// the device once, when made; not while `native` is being captured.
std::unique_ptr<Stream> WrapStream(Device device, void* native);

// What kernels keep between launches, for streams that are wrapped with the caller's memory for it:
// as many bytes of the device, aligned to 256; none of a device whose kernels keep nothing.
int64_t StreamStateBytes(Device device);

// Makes memory such a state, by work on the stream `native`. Waits for the device the first time.
void InitStreamState(Device device, void* state, void* native);

// WrapStream() with the caller's initialised state, which outlives the result and belongs to one
// stream at a time. Allocates no memory of the device and waits for nothing.
std::unique_ptr<Stream> WrapStream(Device device, void* native, void* state);

std::unique_ptr<Event> MakeEvent(Device device);

// A captured run of work, to be launched many times on the stream it was captured on.
class Graph {
 public:
  virtual ~Graph() = default;
  virtual void Launch() = 0;
};

// Calls `body`, which enqueues work on `stream` and nothing else, and captures that work without
// running it. On the CPU there is nothing to capture: Launch() calls `body`, which therefore keeps
// what it refers to alive as long as the graph. What `body` throws is thrown on, and the stream can
// then be used as before.
std::unique_ptr<Graph> Capture(Stream& stream, std::function<void()> body);

}  // namespace dualfp
