// Random GEMM problems in every weight format, with the exact values beside the codes, so that a
// result can be compared with the product computed in double. The expectation is built from the
// scalar codecs in numeric/ (verified on their own) and shares no code with any kernel.

#pragma once

#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "dualfp/kernels/gemm.h"

namespace dualfp {

// Memory that ends where the process may not read on: an access past the end is a crash.
class GuardedBuffer {
 public:
  explicit GuardedBuffer(size_t size);
  ~GuardedBuffer();
  GuardedBuffer(GuardedBuffer&& other) noexcept;
  GuardedBuffer& operator=(GuardedBuffer&&) = delete;

  template <typename T>
  T* as() const {
    return reinterpret_cast<T*>(data_);
  }

 private:
  char* mapping_;
  size_t mapping_size_;
  char* data_;
};

// The projections that a weight is made of.
enum class TestParts : uint8_t {
  kOne,
  kBelow,        // three of uneven sizes, as q, k and v; the first begins inside a block of scales
  kInterleaved,  // two, as gate and up
};

// One way to store a weight and to multiply by it.
struct TestFormat {
  std::string name;
  QuantFormat format = QuantFormat::kPlain;
  DType dtype = DType::kF16;
  ScaleGranularity scale = ScaleGranularity::kNone;
  Precision precision = Precision::kExact;
  ActivationQuant quant = ActivationQuant::kNone;
  bool outliers = false;
  TestParts parts = TestParts::kOne;
  bool part_input_scales = false;
};

// Every combination that some kernel has to support.
const std::vector<TestFormat>& TestFormats();

// K must be a multiple of this.
int64_t KMultiple(const TestFormat& format);

// Random weights [n, k] of about N(0, 1/k), and their exact values.
struct TestWeight {
  TestWeight(const TestFormat& format, int64_t n, int64_t k, uint32_t seed);

  // The weight that a GEMM at `precision` multiplies by; [n * k].
  std::vector<double> Values(Precision precision) const;

  Weight weight;

 private:
  void MakePlain(const std::vector<float>& values);
  void MakeNested(const std::vector<float>& values, bool outliers);
  void MakeNested12(const std::vector<float>& values);
  void AddOutliers(const std::vector<int64_t>& index, const std::vector<float>& remainder);
  void MakeParts(const TestFormat& format);
  void MakeScaled(const TestFormat& format, const std::vector<float>& values);
  ConstTensorView Constants(const std::vector<float>& values);

  friend struct TestProblem;

  std::vector<GuardedBuffer> buffers_;
  std::vector<int> part_of_row_;
  std::vector<int64_t> block_of_row_;
  std::vector<float> input_scales_;
  std::vector<double> values_fp16_;
  std::vector<double> values_fp8_;
};

struct TestEpilogue {
  Activation activation = Activation::kNone;
  bool bias = false;
  bool residual = false;
};

// Roundings that a kernel may add to those of FP32 sums.
struct TestTolerance {
  double sum = 0;     // relative to the sum of the products' magnitudes
  double stored = 0;  // relative to the scaled and biased sum, before the activation
};

// X, Y, and what surrounds them. Rows are strided: `gap` elements lie between them.
struct TestProblem {
  TestProblem(const TestFormat& format, const TestWeight& weight, int64_t m, DType x_dtype,
              DType y_dtype, const TestEpilogue& epilogue, uint32_t seed, int64_t gap = 3);

  // Runs `kernel` with `threads` threads and returns y.
  std::vector<float> Run(const GemmKernel& kernel, int threads);

  // Compares y, [m, y columns], with the product in double. The tolerance is the forward error
  // bound of K float additions in any order plus the roundings of scales, epilogue and y, and
  // `more`. Returns the relative Frobenius error.
  double ExpectNear(const std::vector<float>& y, const TestTolerance& more = {}) const;

  int64_t m;
  int64_t y_columns;
  GemmArgs args;
  GemmDesc desc;
  std::vector<float> x_values;  // as stored

 private:
  std::vector<double> QuantizedX(float static_scale) const;

  const TestWeight& weight_;
  std::vector<GuardedBuffer> buffers_;
  std::vector<float> bias_;
  std::vector<float> residual_;
};

// Elements of a row of dtype F32, F16 or BF16.
float LoadTestElement(const void* row, DType dtype, int64_t index);
// Rounded to dtype; returns the value stored.
float StoreTestElement(void* row, DType dtype, int64_t index, float value);

}  // namespace dualfp
