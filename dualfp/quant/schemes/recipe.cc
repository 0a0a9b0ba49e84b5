#include "dualfp/quant/schemes/recipe.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <utility>

#include "dualfp/base/check.h"
#include "dualfp/io/json.h"

namespace dualfp {
namespace {

void CheckKeys(const JsonFields& fields, const std::vector<std::string_view>& known) {
  for (const auto& [key, value] : fields.json().items()) {
    if (std::find(known.begin(), known.end(), key) == known.end()) {
      fields.FailField(key, "a recipe has no such field");
    }
  }
}

}  // namespace

std::vector<SchemeRule> ReadRecipe(const std::filesystem::path& path,
                                   const LinearEncoding& defaults) {
  const Json json = ParseJsonFile(path, {.duplicate_keys = DuplicateKeys::kReject});
  const JsonFields fields(json, path.string());
  CheckKeys(fields, {"rules"});
  std::vector<SchemeRule> rules;
  for (const JsonFields& rule : fields.GetObjects("rules")) {
    CheckKeys(rule, {"match", "scheme", "scale_search"});
    NamePattern pattern(rule.GetString("match"), path.string());
    const std::string name = rule.GetString("scheme");
    if (name == "none") {
      rules.push_back({std::move(pattern), std::nullopt});
      continue;
    }
    const CheckpointScheme* scheme = FindCheckpointScheme(name);
    if (scheme == nullptr) {
      rule.FailExpected("scheme", "one of none, " + CheckpointSchemeNames());
    }
    LinearEncoding encoding = defaults;
    encoding.scheme = *scheme;
    const std::string search = rule.FindString("scale_search").value_or("");
    if (search == "mse" || search == "amax") {
      encoding.search = search == "mse" ? ScaleSearch::kMse : ScaleSearch::kAmax;
    } else if (!search.empty()) {
      rule.FailExpected("scale_search", "amax or mse");
    }
    rules.push_back({std::move(pattern), encoding});
  }
  return rules;
}

}  // namespace dualfp
