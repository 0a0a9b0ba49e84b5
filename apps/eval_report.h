// What `dualfp eval` found, as a table, as JSON and as a chart.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/io/json.h"
#include "dualfp/quant/quality.h"
#include "dualfp/tensor/quant_format.h"

namespace dualfp {

// All layers at the precision; then, with --per-layer, one part of the model alone.
struct EvalRow {
  std::string name;
  bool is_layer = false;  // else a kind of projection
  Quality quality;
  Deviation deviation;  // where there is a reference
};

struct EvalReport {
  std::string text;  // its file
  int64_t scored_tokens = 0;
  int64_t num_bytes = 0;
  int64_t windows = 0;
  Precision precision = Precision::kExact;
  std::optional<Precision> reference_precision;
  Quality reference;
  std::vector<EvalRow> rows;
};

void PrintTable(const EvalReport& report);

// Into `json`; the reference's into `against`.
void AddFigures(const EvalReport& report, Json& json, Json& against);

// KL divergence of each part alone, as SVG. `model`: its name.
std::string DrawParts(const EvalReport& report, const std::string& model);

}  // namespace dualfp
