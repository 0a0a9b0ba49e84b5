#include <cmath>
#include <cstring>
#include <string>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/numeric/nested.h"
#include "dualfp/quant/conversion/dequantize_plan.h"
#include "dualfp/quant/conversion/nested_plan.h"
#include "dualfp/quant/conversion/stored_planes.h"
#include "dualfp/quant/schemes/linear_layers.h"
#include "dualfp/quant/schemes/quantization_config.h"

namespace dualfp {
namespace {

// The upper plane as MODULE.weight, and its scale.
ConversionTask UpperTask(const Checkpoint& checkpoint, const TensorEntry& upper,
                         const std::string& module, bool nested12) {
  const int64_t n = upper.shape.at(0);
  ConversionTask task;
  task.bytes = static_cast<int64_t>(upper.num_bytes);
  task.outputs = {{module + ".weight", DType::kF8E4M3, upper.shape},
                  {module + ".weight_scale", DType::kF32,
                   nested12 ? std::vector<int64_t>{n, 1} : std::vector<int64_t>{}}};
  task.run = [&checkpoint, module](PartialCheckpoint& out) {
    const StoredPlanes planes = OpenPlanes(checkpoint, module);
    const ConstTensorView& codes = planes.upper->view();
    out.WriteAt(module + ".weight", 0, codes.data, codes.num_bytes());
    std::vector<float> scales = {kNestedScale};
    if (planes.is_nested12()) {
      scales.resize(planes.n);
      for (int64_t row = 0; row < planes.n; ++row) {
        scales[row] = std::ldexp(kNestedScale, -planes.shift->view().as<int8_t>()[row]);
      }
    }
    out.WriteAt(module + ".weight_scale", 0, scales.data(), scales.size() * sizeof(float));
  };
  return task;
}

}  // namespace

Conversion PlanFp8FromNested(const Checkpoint& checkpoint, const Json& config) {
  const std::string format = NestedFormatOf(config, checkpoint.name());
  Check(!format.empty(), ErrorCode::kUnsupported, checkpoint.name(),
        ": fp8-from-nested takes the planes of a nested checkpoint, which this is not; make one "
        "with --scheme nested or nested12");
  const bool nested12 = format == "nested12";
  Conversion conversion;
  QuantizedGroup group;
  group.encoding.scheme = *FindCheckpointScheme(nested12 ? "fp8-channel" : "fp8-dynamic");
  group.encoding.method = group.encoding.scheme.default_method;
  std::vector<std::string> ignored;
  bool has_head = false;
  for (const TensorEntry& entry : checkpoint.entries()) {
    if (IsOtherPlane(checkpoint, entry)) {
      continue;
    }
    const auto module = PlanesModule(entry);
    TensorEntry weight = entry;
    if (module) {
      weight.name = *module + ".weight";
      weight.dtype = DType::kBF16;
    }
    const auto linear = AsLinear(weight);
    const bool convert = module && linear && !KeptByDefault(linear->module);
    if (linear && !convert) {
      ignored.push_back(linear->module);
      has_head = has_head || linear->module == "lm_head";
    }
    if (!module) {
      conversion.tasks.push_back(CopyTask(checkpoint, entry));
    } else if (!convert) {
      conversion.tasks.push_back(UnnestTask(checkpoint, entry, *module, DType::kBF16));
    } else {
      conversion.tasks.push_back(UpperTask(checkpoint, entry, *module, nested12));
      group.modules.push_back(*module);
      ++conversion.report.converted;
      const TensorEntry* index =
          checkpoint.Find(*module + (nested12 ? ".remainder_index" : ".outlier_index"));
      conversion.report.remainders +=
          index == nullptr || index->shape.empty() ? 0 : index->shape[0];
    }
  }
  if (!has_head) {
    ignored.emplace_back("lm_head");
  }
  Check(!group.modules.empty(), ErrorCode::kUnsupported, checkpoint.name(),
        ": no linear layer is nested");
  conversion.config = config;
  conversion.config["quantization_config"] = QuantizationConfigJson({group}, ignored, false);
  conversion.identity = "fp8-from-" + format;
  return conversion;
}

}  // namespace dualfp
