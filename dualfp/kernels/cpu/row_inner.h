// The loops along a row that surround a GEMM's inner loops, per instruction set: quantization and
// conversion of activations, and the epilogue. Raw pointers only, for gemm_inner.h's reason.
//
// They agree with reference/rows.h bit for bit, but for NaN payloads and the last places of SiLU's
// exponential.

#pragma once

#include <cstdint>

#include "dualfp/kernels/epilogue.h"
#include "dualfp/tensor/dtype.h"

namespace dualfp::cpu {

struct RowEpilogue {
  float x_scale = 1.0f;
  float w_scale = 1.0f;             // of all columns
  const float* w_scales = nullptr;  // or one for each
  const float* bias = nullptr;
  Activation activation = Activation::kNone;
  const void* residual = nullptr;  // of y's dtype
  void* y = nullptr;
  DType y_dtype = DType::kF32;
};

struct RowInner {
  // max |x|, NaN left out. dtype is F32, F16 or BF16 here and below.
  float (*max_magnitude)(const void* x, DType dtype, int64_t n);
  void (*to_float)(const void* x, DType dtype, int64_t n, float* out);
  // The values of E4M3(x / scale), and their codes.
  void (*quantize)(const void* x, DType dtype, int64_t n, float scale, float* out);
  void (*encode)(const void* x, DType dtype, int64_t n, float scale, uint8_t* codes);
  // The codes of x / factor, or of x * factor where `multiply`; where `rounded`, rounded to x's
  // dtype first, as a model's own arithmetic does.
  void (*encode_quotient)(const void* x, DType dtype, int64_t n, float factor, bool multiply,
                          bool rounded, uint8_t* codes);
  // y = activation(sums * x_scale * w_scale * w_scales + bias) + residual, rounded to y's dtype.
  // With kSiluMul, sums hold gate and up alternately (n is even) and y has n / 2 elements.
  void (*finish)(const float* sums, int64_t n, const RowEpilogue& epilogue);
};

extern const RowInner kAvx2RowInner;
extern const RowInner kAvx512RowInner;

}  // namespace dualfp::cpu
