// A safetensors file from memory: what is accepted must be readable to its last byte.

#include <numeric>
#include <span>
#include <vector>

#include "dualfp/io/safetensors.h"
#include "fuzz/fuzz.h"

using dualfp::SafetensorsFile;
using dualfp::TensorData;
using dualfp::TensorEntry;
using dualfp::fuzz::Require;

namespace {

void Check(std::span<const std::byte> bytes) {
  dualfp::fuzz::ExpectOnlyInputErrors([&] {
    const SafetensorsFile file = SafetensorsFile::FromMemory(bytes, "fuzz.safetensors");
    uint64_t end = file.entries().empty() ? bytes.size() : file.entries()[0].offset;
    uint32_t sum = 0;
    for (const TensorEntry& entry : file.entries()) {
      Require(entry.offset == end, "tensors without hole or overlap");
      end += entry.num_bytes;
      Require(file.Find(entry.name) == &entry, "tensors found by name");
      if (entry.shape.size() <= dualfp::kMaxRank) {
        const TensorData tensor = file.Read(entry);
        const auto* data = tensor.view().as<uint8_t>();
        sum = std::accumulate(data, data + tensor.view().num_bytes(), sum);
        Require(static_cast<uint64_t>(tensor.view().num_bytes()) == entry.num_bytes,
                "a view of the tensor's size");
      }
    }
    Require(end == bytes.size(), "tensors that cover the file");
    volatile uint32_t keep = sum;  // so that the reads are not optimised away
    (void)keep;
  });
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr size_t kLengthBytes = 8;
  const auto bytes = std::as_bytes(std::span(data, size));
  Check(bytes);
  // Once more with the header's length made to fit its last brace: most mutations break the length,
  // and none would then reach the rest.
  const size_t brace = dualfp::fuzz::AsText(data, size).rfind('}');
  if (brace != std::string_view::npos && brace >= kLengthBytes) {
    std::vector<std::byte> fitted(bytes.begin(), bytes.end());
    for (size_t i = 0; i < kLengthBytes; ++i) {
      fitted[i] = static_cast<std::byte>((brace + 1 - kLengthBytes) >> (8 * i));
    }
    Check(fitted);
  }
  return 0;
}
