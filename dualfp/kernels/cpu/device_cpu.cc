// The CPU as a device: memory is memory, and work is done when it is asked for.

#include <unistd.h>

#include <cstring>
#include <thread>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/base/cpu_features.h"
#include "dualfp/kernels/device_driver.h"

namespace dualfp {
namespace {

class CpuEvent final : public Event {
 public:
  void Synchronize() override {}
  bool IsDone() const override { return true; }
};

class CpuStream final : public Stream {
 public:
  CpuStream() : Stream(Device{}) {}
  void* native() const override { return nullptr; }
  void Copy(void* to, const void* from, size_t bytes) override {
    if (bytes > 0) {
      std::memcpy(to, from, bytes);
    }
  }
  void Fill(void* to, uint8_t value, size_t bytes) override {
    if (bytes > 0) {
      std::memset(to, value, bytes);
    }
  }
  void Record(Event&) override {}
  void WaitFor(const Event&) override {}
  void Synchronize() override {}
};

class CpuGraph final : public Graph {
 public:
  explicit CpuGraph(std::function<void()> body) : body_(std::move(body)) {}
  void Launch() override { body_(); }

 private:
  std::function<void()> body_;
};

int64_t Pages(int name) {
  return static_cast<int64_t>(sysconf(name)) * static_cast<int64_t>(sysconf(_SC_PAGESIZE));
}

class Driver final : public DeviceDriver {
 public:
  int Count() const override { return 1; }
  std::string WhyNone() const override { return ""; }
  DeviceProperties Properties(int) const override {
    return {.name = CpuDescription(),
            .memory_bytes = Pages(_SC_PHYS_PAGES),
            .multiprocessors = static_cast<int>(std::thread::hardware_concurrency())};
  }
  int64_t FreeBytes(int) const override { return Pages(_SC_AVPHYS_PAGES); }
  Buffer Allocate(int, size_t bytes) const override { return Buffer::AllocateCpu(bytes); }
  Buffer AllocatePinned(int, size_t bytes) const override { return Buffer::AllocateCpu(bytes); }
  std::unique_ptr<Stream> MakeStream(int, StreamUse) const override {
    return std::make_unique<CpuStream>();
  }
  std::unique_ptr<Stream> WrapStream(int, void* native) const override {
    Check(native == nullptr, ErrorCode::kInvalidArgument, "the CPU has no streams to wrap");
    return std::make_unique<CpuStream>();
  }
  int64_t StreamStateBytes(int) const override { return 0; }
  void InitStreamState(int, void*, void*) const override {}
  std::unique_ptr<Stream> WrapStream(int index, void* native, void*) const override {
    return WrapStream(index, native);
  }
  std::unique_ptr<Event> MakeEvent(int) const override { return std::make_unique<CpuEvent>(); }
  std::unique_ptr<Graph> Capture(Stream&, std::function<void()> body) const override {
    return std::make_unique<CpuGraph>(std::move(body));
  }
};

}  // namespace

const DeviceDriver& CpuDriver() {
  static const Driver driver;
  return driver;
}

}  // namespace dualfp
