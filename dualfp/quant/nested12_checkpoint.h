// Checkpoints of BF16 weights as Nested12 ones (formats.md), three quarters of the size, and back:
// an archive that loses nothing. One tensor is in memory at a time.

#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"

namespace dualfp {

struct ConversionReport {
  int64_t converted = 0;          // matrices
  int64_t remainders = 0;         // of those
  std::vector<std::string> kept;  // BF16 matrices with too many remainders, which stay as they are
  int64_t bytes_in = 0;           // of all tensors
  int64_t bytes_out = 0;
};

// Writes the directory `out` from `in`: every BF16 matrix NAME.weight as planes but those with
// remainders in more than 1 % of their weights, other tensors and files as they are, and
// config.json with quantization_config. Both throw kInvalidFile or kUnsupported for a checkpoint
// that is not of the kind that they convert, or has a NaN or infinity; kInvalidArgument where `out`
// is `in`; and as Checkpoint and CheckpointWriter. config.json is written last.
ConversionReport WriteNested12Checkpoint(const std::filesystem::path& in,
                                         const std::filesystem::path& out, ThreadPool& threads);

// The BF16 checkpoint that a Nested12 one was made from, bit for bit.
ConversionReport WriteBf16Checkpoint(const std::filesystem::path& in,
                                     const std::filesystem::path& out);

}  // namespace dualfp
