#include "dualfp/llm/layer_sensitivity.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <optional>
#include <string>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"

namespace dualfp {

std::vector<int> LayersBySensitivity(const std::filesystem::path& path, int64_t num_layers) {
  const Json json = ParseJsonFile(path);
  std::vector<std::optional<double>> divergence(static_cast<size_t>(num_layers));
  for (const JsonFields& row : JsonFields(json, path.string()).GetObjects("per_layer")) {
    const std::string name = row.GetString("name");
    constexpr std::string_view kLayer = "layer ";
    if (name.compare(0, kLayer.size(), kLayer) != 0) {
      continue;  // a kind of projection
    }
    const std::string number = name.substr(kLayer.size());
    const auto layer = std::find_if(
        divergence.begin(), divergence.end(),
        [&, i = 0](const std::optional<double>&) mutable { return std::to_string(i++) == number; });
    if (layer == divergence.end() || layer->has_value()) {
      row.FailField("name", StrCat(QuoteForMessage(name),
                                   layer == divergence.end()
                                       ? StrCat(": the model has layers 0 to ", num_layers - 1)
                                       : ": it is there twice"));
    }
    *layer = row.GetObject("mean_kl").GetNumber("value", -1.0, std::numeric_limits<double>::max());
  }
  std::vector<int> order(divergence.size());
  std::iota(order.begin(), order.end(), 0);
  for (const int layer : order) {
    Check(divergence[static_cast<size_t>(layer)].has_value(), ErrorCode::kInvalidFile,
          path.string(), ": per_layer has no row \"layer ", layer, "\"");
  }
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
    return *divergence[static_cast<size_t>(a)] < *divergence[static_cast<size_t>(b)];
  });
  return order;
}

}  // namespace dualfp
