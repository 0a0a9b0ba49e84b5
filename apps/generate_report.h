// What dualfp generate tells about a run: lines for people, or one JSON object.

#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "dualfp/llm/session.h"

namespace dualfp {

struct SpentAtPrecision {
  int64_t prefill_tokens = 0;
  double prefill_seconds = 0;
  int64_t decode_tokens = 0;
  double decode_seconds = 0;
};

struct GenerateReport {
  std::string model;
  std::vector<int32_t> prompt;
  std::vector<int32_t> generated;
  std::optional<std::string> text;  // nothing without a tokenizer
  const char* finish_reason = "length";
  SpentAtPrecision spent[2];  // exact, fp8
  std::optional<LogitComparison> comparison;
};

// What each precision cost and how far FP8 moved the logits, to stderr.
void PrintFigures(const GenerateReport& report, const Decoder& decoder);

// All of it, to stdout.
void PrintJson(const GenerateReport& report, const Model& model, const Decoder& decoder);

}  // namespace dualfp
