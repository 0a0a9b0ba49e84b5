// quantization_config and hf_quant_config.json: what is accepted must say something that the loader
// knows of every module.

#include "dualfp/io/json.h"
#include "dualfp/io/quantization_config.h"
#include "fuzz/fuzz.h"

using dualfp::LinearQuantization;
using dualfp::QuantizationConfig;
using dualfp::ScaleGranularity;
using dualfp::fuzz::ExpectOnlyInputErrors;
using dualfp::fuzz::Require;

namespace {

void CheckPromises(const QuantizationConfig& config) {
  for (const char* module : {"lm_head", "model.embed_tokens", "model.layers.0.self_attn.q_proj",
                             "model.layers.10.mlp.gate_proj", "model.layers.3.mlp.experts.7.w2"}) {
    const LinearQuantization quantization = config.Of(module);
    const bool plain = quantization.scheme == dualfp::kPlainWeights;
    Require(plain == (quantization.scheme.granularity == ScaleGranularity::kNone),
            "scales of what is quantized");
    Require(!plain || quantization.activation == dualfp::ActivationQuant::kNone,
            "no activation scales beside plain weights");
    Require(!dualfp::WeightSchemeName(quantization.scheme).empty(), "a scheme with a name");
  }
  Require(config.quantized() || !config.fp8_kv_cache(), "nothing quantized, no FP8 cache");
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  ExpectOnlyInputErrors([&] {
    CheckPromises(QuantizationConfig::Parse(
        dualfp::ParseJson(dualfp::fuzz::AsText(data, size), "config.json"), "config.json"));
  });
  return 0;
}
