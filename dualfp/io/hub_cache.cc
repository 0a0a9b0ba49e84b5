#include "dualfp/io/hub_cache.h"

#include <algorithm>
#include <cstdlib>
#include <string_view>

#include "dualfp/base/check.h"
#include "dualfp/io/file.h"

namespace dualfp {
namespace {

constexpr int64_t kMaxRefBytes = 256;

std::filesystem::path FromEnvironment(const char* name) {
  const char* value = std::getenv(name);
  return value != nullptr ? value : "";
}

// "org/name" or "name", of what the Hub allows in one; never a path that leads elsewhere.
bool IsHubId(std::string_view id) {
  const bool plain = std::all_of(id.begin(), id.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("-_./").find(c) != std::string_view::npos;
  });
  return plain && !id.empty() && std::count(id.begin(), id.end(), '/') <= 1 && id.front() != '/' &&
         id.back() != '/' && id.front() != '.' && id.find("..") == std::string_view::npos &&
         id.find("/.") == std::string_view::npos;
}

std::string Trimmed(std::string text) {
  while (!text.empty() && (text.back() == '\n' || text.back() == '\r' || text.back() == ' ')) {
    text.pop_back();
  }
  return text;
}

}  // namespace

std::filesystem::path HubCacheDirectory() {
  if (auto cache = FromEnvironment("HF_HUB_CACHE"); !cache.empty()) {
    return cache;
  }
  if (const auto home = FromEnvironment("HF_HOME"); !home.empty()) {
    return home / "hub";
  }
  if (const auto cache = FromEnvironment("XDG_CACHE_HOME"); !cache.empty()) {
    return cache / "huggingface" / "hub";
  }
  return FromEnvironment("HOME") / ".cache" / "huggingface" / "hub";
}

std::filesystem::path FindModelDirectory(const std::string& model) {
  std::error_code error;
  if (std::filesystem::exists(model, error)) {
    return model;
  }
  Check(IsHubId(model), ErrorCode::kNotFound, model, ": there is no such directory");
  std::string folder = "models--" + model;
  if (const size_t slash = folder.find('/'); slash != std::string::npos) {
    folder.replace(slash, 1, "--");
  }
  const std::filesystem::path cached = HubCacheDirectory() / folder;
  const std::filesystem::path ref = cached / "refs" / "main";
  Check(std::filesystem::exists(ref, error), ErrorCode::kNotFound, model,
        ": there is no such directory, and no model of that name in the Hugging Face cache ",
        HubCacheDirectory().string(), "; \"hf download ", model, "\" brings it there");
  const std::string commit = Trimmed(ReadFile(ref, kMaxRefBytes));
  std::filesystem::path snapshot = cached / "snapshots" / commit;
  Check(IsHubId(commit) && std::filesystem::is_directory(snapshot, error), ErrorCode::kNotFound,
        model, ": ", ref.string(), " names a snapshot that is not in the cache; \"hf download ",
        model, "\" brings it there");
  return snapshot;
}

}  // namespace dualfp
