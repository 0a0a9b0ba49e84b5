// Calibration data from files.

#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

#include "dualfp/text/tokenizer.h"

namespace dualfp {

struct SampleLimits {
  int64_t max_samples = 512;
  int64_t max_tokens = 2048;  // of a sample
};

// The token sequences of a file, never padded:
//   *.jsonl  a sample a line: {"messages": [...]} goes through the chat template that `directory`
//            (the model's) has, {"text": "..."} does not; both are cut at max_tokens
//   others   text, as a whole, in pieces of max_tokens
// Throws kNotFound, kIo, kInvalidFile naming the line, kInvalidArgument where a conversation has no
// template or where all of it is no token.
std::vector<std::vector<int32_t>> ReadCalibrationSamples(const std::filesystem::path& file,
                                                         const std::filesystem::path& directory,
                                                         const SampleLimits& limits);

}  // namespace dualfp
