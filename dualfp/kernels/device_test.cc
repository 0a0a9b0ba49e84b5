// Every device of this machine; that a GPU's kernels run captured is tested with them.

#include "dualfp/kernels/device.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <stdexcept>
#include <vector>

#include "dualfp/base/error.h"

namespace dualfp {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::ThrowsMessage;

TEST(DeviceNameTest, NamesAndDevices) {
  EXPECT_EQ(DeviceName({}), "cpu");
  EXPECT_EQ(DeviceName({DeviceType::kCuda, 3}), "cuda:3");
  for (const char* name : {"cpu", "cuda:0", "cuda:12"}) {
    EXPECT_EQ(DeviceName(ParseDevice(name)), name);
  }
  EXPECT_EQ(ParseDevice("cuda"), (Device{DeviceType::kCuda, 0}));
  for (const char* name :
       {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda1", "cpu:0", "CUDA", "cuda:99999999999"}) {
    EXPECT_THAT([&] { ParseDevice(name); },
                ThrowsMessage<Error>(HasSubstr("expected cpu, cuda or cuda:INDEX")))
        << name;
  }
}

TEST(DevicesTest, TheCpuComesFirst) {
  ASSERT_FALSE(Devices().empty());
  EXPECT_EQ(Devices().front(), Device{});
}

TEST(DevicesTest, AMissingDeviceIsNamedBesideThoseThatAreThere) {
  static constexpr Device kMissing{DeviceType::kCuda, 999};
  const auto message =
      ThrowsMessage<Error>(AllOf(HasSubstr("no device cuda:999: this machine has cpu"),
                                 Devices().size() > 1 ? HasSubstr("cuda:0") : HasSubstr(";")));
  EXPECT_THAT([] { Allocate(kMissing, 16); }, message);
  EXPECT_THAT([] { AllocatePinned(kMissing, 16); }, message);
  EXPECT_THAT([] { MakeStream(kMissing); }, message);
  EXPECT_THAT([] { MakeEvent(kMissing); }, message);
  EXPECT_THAT([] { GetDeviceProperties(kMissing); }, message);
  EXPECT_THAT([] { FreeMemoryBytes(kMissing); }, message);
  EXPECT_THAT(
      [] {
        WrapStream({DeviceType::kCpu, 1}, nullptr);
      },
      ThrowsMessage<Error>(HasSubstr("no device cpu:1")));
}

class DeviceTest : public ::testing::TestWithParam<Device> {
 protected:
  Device device() const { return GetParam(); }

  // What a stream's work leaves in memory that it fills with `value`.
  static uint8_t Filled(Stream& stream, uint8_t value) {
    const Buffer memory = Allocate(stream.device(), 1);
    uint8_t back = 0;
    stream.Fill(memory.data(), value, 1);
    stream.Copy(&back, memory.data(), 1);
    stream.Synchronize();
    return back;
  }
};

TEST_P(DeviceTest, SaysWhatItIs) {
  const DeviceProperties properties = GetDeviceProperties(device());
  EXPECT_FALSE(properties.name.empty());
  EXPECT_GT(properties.multiprocessors, 0);
  EXPECT_GT(properties.memory_bytes, 0);
  EXPECT_GT(FreeMemoryBytes(device()), 0);
  EXPECT_LE(FreeMemoryBytes(device()), properties.memory_bytes);
  EXPECT_EQ(properties.compute_capability > 0, device().type == DeviceType::kCuda);
}

TEST_P(DeviceTest, MoreMemoryThanThereIs) {
  constexpr size_t kBytes = size_t{1} << 60;
  for (const bool pinned : {false, true}) {
    try {
      pinned ? AllocatePinned(device(), kBytes) : Allocate(device(), kBytes);
      FAIL() << "allocated an exbibyte";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
      EXPECT_THAT(error.what(), HasSubstr(std::to_string(kBytes)));
    }
  }
  EXPECT_EQ(Allocate(device(), 100).size(), 100u) << "after a failure";
}

TEST_P(DeviceTest, NoBytesAreNoMemory) {
  const Buffer nothing = Allocate(device(), 0);
  EXPECT_EQ(nothing.size(), 0u);
  EXPECT_EQ(nothing.data(), nullptr);
}

TEST_P(DeviceTest, CopiesThereAndBack) {
  constexpr size_t kBytes = 100'003;
  const std::unique_ptr<Stream> stream = MakeStream(device(), StreamUse::kCopies);
  EXPECT_EQ(stream->device(), device());
  const Buffer host = AllocatePinned(device(), kBytes);
  EXPECT_EQ(host.device(), Device{});
  std::iota(static_cast<uint8_t*>(host.data()), static_cast<uint8_t*>(host.data()) + kBytes,
            uint8_t{1});
  const Buffer first = Allocate(device(), kBytes);
  const Buffer second = Allocate(device(), kBytes);
  EXPECT_EQ(first.device(), device());
  std::vector<uint8_t> back(kBytes, 0);
  stream->Fill(second.data(), 0xA5, kBytes);
  stream->Copy(first.data(), host.data(), kBytes);
  stream->Copy(second.data(), first.data(), kBytes - 3);
  stream->Copy(back.data(), second.data(), kBytes);
  stream->Copy(nullptr, nullptr, 0);
  stream->Fill(nullptr, 0, 0);
  stream->Synchronize();
  EXPECT_EQ(std::memcmp(back.data(), host.data(), kBytes - 3), 0);
  EXPECT_EQ(std::vector<uint8_t>(back.end() - 3, back.end()), std::vector<uint8_t>(3, 0xA5));
}

TEST_P(DeviceTest, EventsOrderStreams) {
  constexpr size_t kBytes = 32 << 20;
  const std::unique_ptr<Stream> first = MakeStream(device(), StreamUse::kCopies);
  const std::unique_ptr<Stream> second = MakeStream(device(), StreamUse::kCopies);
  const std::unique_ptr<Event> filled = MakeEvent(device());
  filled->Synchronize();
  EXPECT_TRUE(filled->IsDone()) << "never recorded";
  const Buffer source = Allocate(device(), kBytes);
  const Buffer target = AllocatePinned(device(), kBytes);
  for (const uint8_t value : {uint8_t{1}, uint8_t{2}, uint8_t{3}}) {
    first->Fill(source.data(), value, kBytes);
    first->Record(*filled);
    second->WaitFor(*filled);
    second->Copy(target.data(), source.data(), kBytes);
    second->Synchronize();
    EXPECT_TRUE(filled->IsDone());
    EXPECT_EQ(static_cast<uint8_t*>(target.data())[kBytes - 1], value);
  }
}

TEST_P(DeviceTest, GraphsRunWhatWasCaptured) {
  const std::unique_ptr<Stream> stream = MakeStream(device());
  const Buffer from = AllocatePinned(device(), 64);
  const Buffer to = AllocatePinned(device(), 64);
  const Buffer between = Allocate(device(), 64);
  std::memset(to.data(), 0, 64);
  const std::unique_ptr<Graph> graph = Capture(*stream, [&] {
    stream->Copy(between.data(), from.data(), 64);
    stream->Copy(to.data(), between.data(), 64);
  });
  stream->Synchronize();
  EXPECT_EQ(static_cast<uint8_t*>(to.data())[0], 0) << "capturing runs nothing";
  for (const uint8_t value : {uint8_t{7}, uint8_t{8}}) {
    std::memset(from.data(), value, 64);
    graph->Launch();
    stream->Synchronize();
    EXPECT_EQ(static_cast<uint8_t*>(to.data())[63], value);
  }
}

// A device captures by calling the body, the CPU launches by doing so.
TEST_P(DeviceTest, WhatABodyThrowsIsThrownOn) {
  const std::unique_ptr<Stream> stream = MakeStream(device());
  EXPECT_THROW(
      Capture(*stream, [] { throw std::runtime_error("a step that cannot be"); })->Launch(),
      std::runtime_error);
  EXPECT_EQ(Filled(*stream, 9), 9) << "the stream can be used on";
}

TEST_P(DeviceTest, WrappedStreamsAreSomebodyElses) {
  const std::unique_ptr<Stream> owner = MakeStream(device(), StreamUse::kCopies);
  WrapStream(device(), owner->native()).reset();
  EXPECT_EQ(Filled(*owner, 5), 5);
}

INSTANTIATE_TEST_SUITE_P(All, DeviceTest, ::testing::ValuesIn(Devices()), [](const auto& test) {
  std::string name = DeviceName(test.param);
  std::erase(name, ':');
  return name;
});

}  // namespace
}  // namespace dualfp
