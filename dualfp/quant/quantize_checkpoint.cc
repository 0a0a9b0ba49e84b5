#include "dualfp/quant/quantize_checkpoint.h"

#include <algorithm>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/quant/conversion/dequantize_plan.h"
#include "dualfp/quant/conversion/nested_plan.h"
#include "dualfp/quant/schemes/recipe.h"

namespace dualfp {
namespace {

LinearEncoding EncodingOf(const QuantizeOptions& options) {
  const CheckpointScheme* scheme = FindCheckpointScheme(options.scheme);
  Check(scheme != nullptr, ErrorCode::kInvalidArgument, "no scheme is called ", options.scheme);
  LinearEncoding encoding{.scheme = *scheme,
                          .method = scheme->default_method,
                          .division = options.division,
                          .search = options.search,
                          .ue8m0 = options.ue8m0};
  if (!options.method.empty()) {
    const auto method = ParseQuantMethod(options.method);
    Check(method.has_value(), ErrorCode::kInvalidArgument, "no quant_method is called ",
          options.method);
    encoding.method = *method;
  } else if (!options.recipe.empty()) {
    encoding.method = QuantMethod::kCompressedTensors;
  }
  Check(HasSpelling(encoding.method, *scheme), ErrorCode::kInvalidArgument, options.scheme,
        ": quant_method ", QuantMethodName(encoding.method), " has no such scheme");
  Check(!encoding.ue8m0 ||
            (encoding.method == QuantMethod::kFp8 && encoding.scheme.weights == kFp8PerBlock),
        ErrorCode::kInvalidArgument, "ue8m0 scales go with fp8-block and quant_method fp8 only");
  return encoding;
}

bool NeedsInputScales(const QuantizePlanOptions& plan) {
  return plan.encoding.scheme.static_inputs ||
         std::any_of(plan.rules.begin(), plan.rules.end(), [](const SchemeRule& rule) {
           return rule.encoding && rule.encoding->scheme.static_inputs;
         });
}

}  // namespace

std::vector<std::string> QuantizeSchemeNames() {
  std::vector<std::string> names = {"fp8"};
  for (const CheckpointScheme& scheme : CheckpointSchemes()) {
    names.emplace_back(scheme.name);
  }
  names.insert(names.end(), {"nested", "nested12", "fp8-from-nested", "bf16", "fp16"});
  return names;
}

QuantizeReport QuantizeCheckpoint(const std::filesystem::path& in, const std::filesystem::path& out,
                                  const QuantizeOptions& options, ThreadPool& threads,
                                  const CalibrationProgress& calibrating,
                                  const ConversionProgress& converting) {
  std::error_code ignored;
  Check(!std::filesystem::equivalent(in, out, ignored), ErrorCode::kInvalidArgument, out.string(),
        ": the converted checkpoint needs a directory of its own");
  CheckNotThere(out);  // before the work
  const Json config = ReadConfigJson(in);
  const Checkpoint checkpoint = Checkpoint::Open(in);
  const std::vector<NamePattern> ignore = ParseNamePatterns(options.ignore, "--ignore");
  const auto run = [&](Conversion conversion) {
    return RunConversion(in, out, std::move(conversion), checkpoint, threads, converting,
                         options.max_shard_bytes);
  };
  if (options.scheme == "nested") {
    return {run(PlanNested(checkpoint, config, ignore, threads)), {}};
  }
  if (options.scheme == "nested12") {
    return {run(PlanNested12(checkpoint, config, ignore, threads)), {}};
  }
  if (options.scheme == "fp8-from-nested") {
    return {run(PlanFp8FromNested(checkpoint, config)), {}};
  }
  if (options.scheme == "bf16" || options.scheme == "fp16") {
    const DType dtype = options.scheme == "bf16" ? DType::kBF16 : DType::kF16;
    return {run(PlanDequantization(checkpoint, config, dtype)), {}};
  }
  QuantizePlanOptions plan;
  plan.encoding = EncodingOf(options);
  plan.ignore = ParseNamePatterns(options.ignore, "--ignore");
  if (!options.recipe.empty()) {
    plan.rules = ReadRecipe(options.recipe, plan.encoding);
  }
  const bool static_inputs = NeedsInputScales(plan);
  QuantizeReport report;
  if (static_inputs || options.fp8_kv_cache) {
    Check(!options.calibration.empty(), ErrorCode::kInvalidArgument,
          static_inputs ? "static scales of inputs" : "scales of keys and values",
          " need --calibration FILE");
    report.calibration = CalibrateCheckpoint(in,
                                             {.file = options.calibration,
                                              .limits = options.calibration_limits,
                                              .observer = options.observer,
                                              .percentile = options.percentile,
                                              .inputs = static_inputs,
                                              .kv = options.fp8_kv_cache},
                                             threads, calibrating);
    plan.scales = report.calibration.scales;
  }
  report.conversion = run(PlanQuantization(checkpoint, config, plan));
  return report;
}

}  // namespace dualfp
