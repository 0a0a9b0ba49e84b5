#include "bench/gemm_lab/report/shapes.h"

#include <algorithm>
#include <charconv>
#include <set>
#include <string_view>

#include "dualfp/base/check.h"

namespace dualfp {
namespace {

constexpr int kMaxSize = 1 << 20;

// What the shapes of a decoder layer follow from.
struct LayerSizes {
  int64_t hidden;
  int64_t heads;
  int64_t kv_heads;
  int64_t head_dim;
  int64_t intermediate;
};

struct NamedModel {
  const char* name;
  LayerSizes sizes;
  bool fitted;   // see IsFittedShape
  bool sharded;  // large enough to be served by several GPUs
};

constexpr NamedModel kPublished[] = {
    {"Llama-3.1-8B", {4096, 32, 8, 128, 14336}, true, true},
    {"Mistral Nemo", {5120, 32, 8, 128, 14336}, false, true},
    {"Mistral Small", {5120, 32, 8, 128, 32768}, true, true},
    {"Phi-4", {5120, 40, 10, 128, 17920}, false, true},
};

// Mistral 7B has Llama-3.1-8B's sizes; Qwen2.5's of one size have Qwen3's or come close.
constexpr NamedModel kServed[] = {
    {"Llama-3.2-1B", {2048, 32, 8, 64, 8192}, true, false},
    {"Llama-3.2-3B", {3072, 24, 8, 128, 8192}, false, false},
    {"Llama-3.1-70B", {8192, 64, 8, 128, 28672}, true, true},
    {"Phi-3.5-mini", {3072, 32, 32, 96, 8192}, false, false},
    {"Qwen2.5-0.5B", {896, 14, 2, 64, 4864}, false, false},
    {"Qwen3-0.6B", {1024, 16, 8, 128, 3072}, true, false},
    {"Qwen3-4B", {2560, 32, 8, 128, 9728}, true, false},
    {"Qwen3-8B", {4096, 32, 8, 128, 12288}, false, true},
    {"Qwen3-32B", {5120, 64, 8, 128, 25600}, false, true},
    {"Qwen2.5-72B", {8192, 64, 8, 128, 29568}, true, true},
};

void AddShapes(const LayerSizes& sizes, const std::string& name, int shards,
               std::vector<GemmShape>& shapes) {
  const int64_t q = sizes.heads * sizes.head_dim;
  const int64_t qkv = q + 2 * sizes.kv_heads * sizes.head_dim;
  struct Linear {
    const char* name;
    int64_t n, k;
    bool column_parallel;
  };
  const Linear linears[] = {{"qkv", qkv, sizes.hidden, true},
                            {"o", sizes.hidden, q, false},
                            {"gate_up", 2 * sizes.intermediate, sizes.hidden, true},
                            {"down", sizes.hidden, sizes.intermediate, false}};
  for (const Linear& linear : linears) {
    const int64_t n = linear.column_parallel ? linear.n / shards : linear.n;
    const int64_t k = linear.column_parallel ? linear.k : linear.k / shards;
    const bool divides = (linear.column_parallel ? linear.n : linear.k) % shards == 0;
    if (!divides || n % 16 != 0 || k % 16 != 0) {
      continue;
    }
    GemmShape shape{static_cast<int>(n), static_cast<int>(k), name + " " + linear.name};
    if (shards > 1) {
      shape.name += StrCat(" / ", shards);
    }
    const bool known = std::any_of(shapes.begin(), shapes.end(),
                                   [&](const GemmShape& other) { return shape.SameSize(other); });
    if (!known) {
      shapes.push_back(shape);
    }
  }
}

int ParseSize(std::string_view text, std::string_view whole) {
  int value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  Check(error == std::errc() && end == text.data() + text.size() && value >= 1 && value <= kMaxSize,
        ErrorCode::kInvalidArgument, QuoteForMessage(whole), ": expected integers in 1..", kMaxSize,
        ", got ", QuoteForMessage(text));
  return value;
}

std::vector<std::string_view> Split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (true) {
    const size_t end = text.find(separator);
    parts.push_back(text.substr(0, end));
    if (end == std::string_view::npos) {
      return parts;
    }
    text.remove_prefix(end + 1);
  }
}

}  // namespace

std::vector<GemmShape> ModelShapes(const ModelConfig& config, const std::string& name,
                                   const std::vector<int>& tensor_parallel) {
  std::vector<GemmShape> shapes;
  for (const int shards : tensor_parallel) {
    AddShapes({config.hidden_size, config.num_attention_heads, config.num_key_value_heads,
               config.head_dim, config.intermediate_size},
              name, shards, shapes);
  }
  return shapes;
}

std::vector<GemmShape> PublishedShapes(const std::vector<int>& tensor_parallel) {
  std::vector<GemmShape> shapes;
  for (const int shards : tensor_parallel) {
    for (const NamedModel& model : kPublished) {
      AddShapes(model.sizes, model.name, shards, shapes);
    }
  }
  return shapes;
}

std::vector<GemmShape> ServedShapes() {
  std::vector<GemmShape> shapes = PublishedShapes({1, 2, 4});
  for (const int shards : {1, 2, 4}) {
    for (const NamedModel& model : kServed) {
      if (shards == 1 || model.sharded) {
        AddShapes(model.sizes, model.name, shards, shapes);
      }
    }
  }
  return shapes;
}

bool IsFittedShape(int n, int k) {
  static const std::vector<GemmShape> fitted = [] {
    std::vector<GemmShape> shapes;
    const auto add = [&shapes](const auto& models) {
      for (const NamedModel& model : models) {
        for (const int shards : {1, 2, 4}) {
          if (model.fitted) {
            AddShapes(model.sizes, "", shards, shapes);
          }
        }
      }
    };
    add(kPublished);
    add(kServed);
    return shapes;
  }();
  return std::any_of(fitted.begin(), fitted.end(),
                     [&](const GemmShape& shape) { return shape.n == n && shape.k == k; });
}

std::vector<GemmShape> SummaryShapes() {
  return {{6144, 4096, "Llama-3.1-8B qkv"},       {4096, 4096, "Llama-3.1-8B o"},
          {28672, 4096, "Llama-3.1-8B gate_up"},  {4096, 14336, "Llama-3.1-8B down"},
          {65536, 5120, "Mistral Small gate_up"}, {5120, 32768, "Mistral Small down"}};
}

std::vector<int> ParseSizes(const std::string& text) {
  std::set<int> sizes;
  for (const std::string_view part : Split(text, ',')) {
    const std::vector<std::string_view> range = Split(part, ':');
    Check(range.size() == 1 || range.size() == 3, ErrorCode::kInvalidArgument,
          QuoteForMessage(text), ": expected integers or FIRST:LAST:STEP, got ",
          QuoteForMessage(part));
    const int first = ParseSize(range[0], text);
    const int last = range.size() == 3 ? ParseSize(range[1], text) : first;
    const int step = range.size() == 3 ? ParseSize(range[2], text) : 1;
    Check(first <= last, ErrorCode::kInvalidArgument, QuoteForMessage(text), ": ", first,
          " is beyond ", last);
    for (int64_t size = first; size <= last; size += step) {
      sizes.insert(static_cast<int>(size));
    }
  }
  return {sizes.begin(), sizes.end()};
}

GemmShape ParseShape(const std::string& text) {
  const std::vector<std::string_view> parts = Split(text, ',');
  Check(parts.size() == 2, ErrorCode::kInvalidArgument, QuoteForMessage(text), ": expected N,K");
  GemmShape shape{ParseSize(parts[0], text), ParseSize(parts[1], text), ""};
  Check(shape.n % 16 == 0 && shape.k % 16 == 0, ErrorCode::kInvalidArgument, QuoteForMessage(text),
        ": expected multiples of 16");
  return shape;
}

std::vector<int> DefaultTunedM() {
  return {1, 16, 32, 48, 64, 96, 128, 192, 256, 320, 384, 512, 640, 1024, 1536, 2048, 4096};
}

}  // namespace dualfp
