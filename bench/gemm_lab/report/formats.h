// The formats that are measured on GPUs: names in commands and records, and what they stand for.

#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "dualfp/kernels/cuda/sm90/tile_format.h"

namespace dualfp {

struct GemmFormat {
  const char* name;      // on command lines and in records
  const char* title;     // in plots and pages
  const char* baseline;  // what its speed is over
  sm90::WeightFormat weights;
  // FP32 scales of 128x128 weights and of each token's 128 elements of K. The kernels are those of
  // the format without, and so are the tuned rows.
  bool block_scaled;
  // The upper planes of Nested12 weights, with a scale for each row. Tuned rows as above.
  bool row_scaled;
  // Relative, against FP64 on the same operands: beyond the rounding of Y and the inexact sums of
  // the FP8 tensor cores, something is wrong.
  double largest_error;
};

// In the order in which they are measured.
std::span<const GemmFormat> GemmFormats();

// nullptr where no format has this name.
const GemmFormat* FindFormat(std::string_view name);

// Throws kInvalidArgument with the names that there are.
const GemmFormat& FormatByName(std::string_view name);

// Whether the tuner knows the format; the kernels of others are those of one that it knows.
bool IsTuned(const GemmFormat& format);

// The tuned format that these weights are.
const GemmFormat& FormatOf(sm90::WeightFormat weights);

std::vector<std::string> FormatNames();
std::vector<std::string> TunedFormatNames();

}  // namespace dualfp
