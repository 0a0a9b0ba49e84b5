// Which weights and batch sizes to measure: as users write them, of a model, and the published
// ones.

#pragma once

#include <string>
#include <vector>

#include "dualfp/io/hf_config.h"

namespace dualfp {

struct GemmShape {
  int n = 0;
  int k = 0;
  std::string name;  // "Llama-3.1-8B qkv"; empty where the user gave N and K

  bool SameSize(const GemmShape& other) const { return n == other.n && k == other.k; }
};

// Of the linear layers of a decoder layer, fused as they are loaded: qkv, o, gate_up, down. For
// each of `tensor_parallel`, the shard of one of so many GPUs: qkv and gate_up divided along N, o
// and down along K. Sizes that do not divide into multiples of 16 are left out; so are repetitions.
std::vector<GemmShape> ModelShapes(const ModelConfig& config, const std::string& name,
                                   const std::vector<int>& tensor_parallel);

// Of Llama-3.1-8B, Mistral Nemo, Mistral Small and Phi-4: 14 sizes whole.
std::vector<GemmShape> PublishedShapes(const std::vector<int>& tensor_parallel);

// Those, whole, halved and quartered, and the layers of Llama-3.x (1B, 3B, 70B), Phi-3.5-mini,
// Qwen2.5 and Qwen3 (0.5B to 72B), likewise where a model is large enough for several GPUs.
std::vector<GemmShape> ServedShapes();

// The six sizes that results are summarised over (docs/performance.md).
std::vector<GemmShape> SummaryShapes();

// Whether the cost model's constants are fitted to times of this size: those of half of the models.
// Other sizes judge it.
bool IsFittedShape(int n, int k);

// "1,16,32:512:32": integers and ranges FIRST:LAST:STEP, sorted and without repetitions. Throws
// kInvalidArgument. Values lie in 1..2^20.
std::vector<int> ParseSizes(const std::string& text);

// "N,K", both positive multiples of 16. Throws kInvalidArgument.
GemmShape ParseShape(const std::string& text);

// The batch sizes that tables are tuned for.
std::vector<int> DefaultTunedM();

}  // namespace dualfp
