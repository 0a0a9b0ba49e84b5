// One nested linear layer through the installed headers and libraries: the same weight at both
// precisions, from one copy.

#include <dualfp/kernels/gemm.h>
#include <dualfp/numeric/fp16.h>
#include <dualfp/numeric/nested.h>
#include <dualfp/tensor/buffer.h>

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <vector>

int main() {
  constexpr int64_t kN = 4;
  constexpr int64_t kK = 64;
  std::vector<uint8_t> upper(kN * kK);
  std::vector<uint8_t> lower(kN * kK);
  std::vector<float> x(kK, 1.0f);
  std::vector<double> expected(kN, 0.0);
  for (int64_t n = 0; n < kN; ++n) {
    for (int64_t k = 0; k < kK; ++k) {
      const uint16_t weight = dualfp::FloatToFp16(std::sin(static_cast<float>(n * kK + k)));
      const dualfp::NestedBytes bytes = dualfp::NestedSplit(weight);
      upper[n * kK + k] = bytes.upper;
      lower[n * kK + k] = bytes.lower;
      expected[n] += dualfp::Fp16ToFloat(weight);
    }
  }
  dualfp::Weight weight;
  weight.format = dualfp::QuantFormat::kNested;
  weight.n = kN;
  weight.k = kK;
  weight.values = dualfp::ConstTensorView(upper.data(), dualfp::DType::kF8E4M3, {kN, kK});
  weight.lower = dualfp::ConstTensorView(lower.data(), dualfp::DType::kU8, {kN, kK});

  dualfp::ThreadPool threads(1);
  dualfp::Context context;
  context.threads = &threads;
  std::vector<float> y(kN);
  dualfp::GemmArgs args;
  args.x = dualfp::ConstTensorView(x.data(), dualfp::DType::kF32, {1, kK});
  args.weight = &weight;
  args.y = dualfp::TensorView(y.data(), dualfp::DType::kF32, {1, kN});
  for (const dualfp::Precision precision : {dualfp::Precision::kExact, dualfp::Precision::kFp8}) {
    args.precision = precision;
    // An op never allocates: the caller asks how much scratch it wants, once per problem.
    const int64_t scratch = dualfp::GemmWorkspaceBytes(dualfp::DescribeGemm(args));
    const dualfp::Buffer workspace = dualfp::Buffer::AllocateCpu(scratch);
    context.workspace = workspace.View(dualfp::DType::kU8, {scratch});
    dualfp::Gemm(context, args);
    // FP16 mode is exact up to the order of the sum; an E4M3 weight is within 1/16 of its value.
    const double tolerance = precision == dualfp::Precision::kExact ? 1e-4 : kK / 16.0;
    for (int64_t n = 0; n < kN; ++n) {
      if (!(std::fabs(y[n] - expected[n]) <= tolerance)) {
        std::printf("row %d: %f, expected %f\n", static_cast<int>(n), y[n], expected[n]);
        return 1;
      }
    }
  }
  std::printf("ok\n");
  return 0;
}
