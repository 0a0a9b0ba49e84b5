// A linear layer's weight as kernels see it: a format and views of its planes and scales.
// Immutable after load, and owning nothing: buffers belong to the model.

#pragma once

#include <cstdint>
#include <string>

#include "dualfp/tensor/quant_format.h"
#include "dualfp/tensor/row_parts.h"
#include "dualfp/tensor/tensor_view.h"

namespace dualfp {

// Weights that nested planes do not hold exactly, and what they lack, so that plane + remainder is
// the exact weight. kNested: those beyond +-1.75, clamped in the planes; both precisions apply
// them. kNested12: those below 2^-14 of their shifted row, rounded in the planes; for the exact
// weight alone, as FP8 rounds more. (formats.md)
struct OutlierList {
  ConstTensorView index;  // I64 [n], row * K + column in the unpermuted weight, ascending
  ConstTensorView value;  // F32 [n], w - the planes' value

  int64_t size() const { return index ? index.shape[0] : 0; }
};

// The part of the logical weight that this process holds. Unsharded: {0, n, 0, k} of itself.
struct Shard {
  int64_t row_begin = 0;
  int64_t row_end = 0;
  int64_t column_begin = 0;
  int64_t column_end = 0;
};

// How the planes of a weight lie in memory. Scales and outliers lie row-major in every layout, but
// for those of kNested12.
enum class WeightLayout : uint8_t {
  kRowMajor,  // as on disk: CPU kernels, and plain weights everywhere
  kSm90,      // as the Hopper kernels read each format (kernels/cuda/planes.h)
};

struct Weight {
  QuantFormat format = QuantFormat::kPlain;
  int64_t n = 0;  // output features held here
  int64_t k = 0;  // input features held here
  Shard shard;    // where those lie in the checkpoint's tensor

  // kPlain: F16 | BF16 | F32 [N, K].    kNested, kNested12: upper plane, F8_E4M3 [N, K].
  // kFp8, kMxfp8: F8_E4M3 [N, K].       kNvfp4, kMxfp4: U8 [N, K/2], even k in the low nibble.
  ConstTensorView values;
  ConstTensorView lower;  // kNested: U8 [N, K], E = (V + 64) & 255; kSm90: NestedDeviceLower.
                          // kNested12: U8 [N, ceil(K/2)], nibbles, even k in the low half;
                          // kSm90: U8 [ceil(K/128), N, 64] (kernels/cuda/nested12_planes.h)

  // All scales are tensors on the weight's device, so that a captured graph reads their values
  // anew; value = q * scale (* global_scale). Projections that are fused in one weight keep their
  // own (`parts`). Scales per tensor that differ between parts are spread to kPerChannel.
  ScaleGranularity scale_granularity = ScaleGranularity::kNone;
  // Of the format's dtype: [1], [N], [NumBlockRows(), ceil(K/128)] or [N, K / group size].
  // kNested12: I8 [N], row shifts: value = plane * 2^-shift (numeric/nested12.h), of granularity
  // kNone; kSm90: F32 [N], 2^-shift.
  ConstTensorView scales;
  RowParts parts;
  ConstTensorView global_scale;  // with F8_E4M3 scales: F32 [1] or [parts.count]; absent = 1
  // Static activation scales, F32 [1] or [parts.count]; absent: activations are scaled dynamically.
  ConstTensorView input_scale;

  OutlierList outliers;  // kNested, kNested12
  ConstTensorView tiny;  // kNested12, kSm90: I64 [batches, 32], cuda::TinyWeight, for `outliers`

  WeightLayout layout = WeightLayout::kRowMajor;

  // Whether a product at this precision adds outliers.
  bool UsesOutliers(Precision precision) const;

  // Empty when a GEMM can run at this precision, else the reason, e.g. "a plain weight has no FP8
  // plane; load with --quantization nested".
  std::string Unsupported(Precision precision) const;

  // Rows of kBlock128's scales.
  int64_t NumBlockRows() const;

  // Bytes that a GEMM at this precision reads: planes, scales and outliers.
  int64_t BytesRead(Precision precision) const;
};

}  // namespace dualfp
