// A linear layer's weight as codes and scales, while it streams by.

#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "dualfp/quant/schemes/checkpoint_scheme.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

// The next bytes of the codes. The weight's rows before `rows_done` are not read again.
using CodeSink = std::function<void(const uint8_t* codes, int64_t size, int64_t rows_done)>;

// Encodes `weight`, F32, F16 or BF16 [N, K], by the calling thread, giving the codes in order to
// `sink` and returning the bytes of the scales, ScaleShape() of them in WeightScaleDType(). Memory
// beside the weight is a few MB. With `s` the stored scale of a tile (tensor, row, block or group)
// of largest magnitude `a`, and round() to the weight's dtype,
//   compressed-tensors  s = round(a / 448), codes of round(w / s); a dead tile has the dtype's
//                       epsilon
//   fp8, per tensor     m = round(round(1 / max(a, 1e-12)) * 448), codes of round(w * m), s = 1 / m
//   fp8, blocks         m = 1 / a * 448, codes of w * m, s = 1 / m, all in FP32; a dead tile has 1.
//                       ue8m0: s the next power of two, m = 1 / s
//   modelopt            s = a / 448, codes of round(w / s); a dead tile has 1
//   mxfp8               s = 2^ceil(log2(a / 448)), codes of w / s
// as their producers do; with Division::kFloat no quotient is rounded to the dtype, and s = a / 448
// where it is F32. Throws kInvalidFile, naming `name` and the element, for a NaN or infinity, and
// kUnsupported where groups do not divide K.
std::vector<std::byte> EncodeLinear(const LinearEncoding& encoding, const std::string& name,
                                    const ConstTensorView& weight, const CodeSink& sink);

}  // namespace dualfp
