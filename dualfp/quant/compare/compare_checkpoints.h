// How far the weights of one checkpoint are from those of another, tensor by tensor.

#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "dualfp/base/thread_pool.h"

namespace dualfp {

// Of a tensor b against a reference a of the same shape, both as F32 values; all sums are over the
// elements, in double.
struct TensorDifference {
  std::string name;
  std::vector<int64_t> shape;
  std::string format_a;  // "BF16", "fp8_per_channel", "nested12", ...
  std::string format_b;
  // ||b - a|| / ||a||, of Frobenius norms. Of a zero a: 0 where b is zero too, else infinity.
  double relative_error = 0;
  // 10 log10(sum a^2 / sum (b - a)^2), in dB: the ratio of signal to quantization noise. Infinity
  // where the values are equal, minus infinity where only a is zero.
  double sqnr_db = 0;
  // Share of b's codes that are at the format's largest magnitude (E4M3: 448): what clipped, and
  // what met the limit exactly, as the largest weight of a scale does. 0 where b has no codes.
  double clipped_share = 0;
  // sum a b / (||a|| ||b||). 1 where both are zero, 0 where one is.
  double cosine = 1;
  bool equal = true;  // every value is; -0 is 0
};

struct UncomparedTensor {
  std::string name;
  // Only one checkpoint has it, shapes differ, there are no floats (integers, say), or a value is
  // NaN or infinite.
  std::string reason;
};

struct Comparison {
  std::string a;  // the directories
  std::string b;
  std::vector<TensorDifference> tensors;     // by relative error, the largest first, then by name
  std::vector<UncomparedTensor> uncompared;  // by name
};

// Elements done and in total, from the calling thread.
using ComparisonProgress = std::function<void(int64_t done, int64_t total)>;

// `a` and `b` are directories of checkpoints in any format that the engine reads. One tensor of
// each is open at a time, and a row of it per thread is held as floats; the result does not depend
// on the number of threads. Throws as DequantizedCheckpoint does, and kInvalidArgument where no
// tensor is in both.
Comparison CompareCheckpoints(const std::filesystem::path& a, const std::filesystem::path& b,
                              ThreadPool& threads, const ComparisonProgress& progress = {});

}  // namespace dualfp
