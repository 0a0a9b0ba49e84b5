"""config.json and generation_config.json mean to dualfp what they mean to transformers."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
import transformers

TOOL = Path(os.environ["DUALFP_BUILD_DIR"]) / "layers/io/io_test_tool"

CONFIG_CLASSES = {
    "LlamaForCausalLM": transformers.LlamaConfig,
    "MistralForCausalLM": transformers.MistralConfig,
    "Phi3ForCausalLM": transformers.Phi3Config,
    "Qwen2ForCausalLM": transformers.Qwen2Config,
    "Qwen3ForCausalLM": transformers.Qwen3Config,
}
DTYPES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", None: None}

# Scaling as files on the hub spell it.
LLAMA3 = {"factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
          "original_max_position_embeddings": 8192, "rope_type": "llama3"}  # fmt: skip
YARN = {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"}
YARN_FULL = {"rope_type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
             "beta_fast": 24, "beta_slow": 2, "mscale": 1.0, "mscale_all_dim": 0.7,
             "attention_factor": 1.25, "truncate": False}  # fmt: skip


def longrope(rotary_dim, **more):
    half = rotary_dim // 2
    return {"type": "longrope", "short_factor": [1 + i / 64 for i in range(half)],
            "long_factor": [1 + i * 0.37 for i in range(half)], **more}  # fmt: skip


def sizes(architecture, **more):
    return {"architectures": [architecture], "vocab_size": 40000, "hidden_size": 256,
            "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 8,
            **more}  # fmt: skip


# The configurations of published models, as far as they concern the decoder.
PUBLISHED = {
    "Llama-2-7b": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 11008,
        "max_position_embeddings": 4096, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
        "rope_scaling": None, "tie_word_embeddings": False, "torch_dtype": "float16",
        "vocab_size": 32000,
    },
    "Llama-3.1-8B": {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "attention_bias": False,
        "bos_token_id": 128000, "eos_token_id": [128001, 128008, 128009], "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 14336, "max_position_embeddings": 131072,
        "mlp_bias": False, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": LLAMA3,
        "rope_theta": 500000.0, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "vocab_size": 128256,
    },
    "Mistral-7B-v0.1": {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "bos_token_id": 1,
        "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096, "intermediate_size": 14336,
        "max_position_embeddings": 32768, "num_attention_heads": 32, "num_hidden_layers": 32,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0,
        "sliding_window": 4096, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "vocab_size": 32000,
    },
    "Mistral-Nemo": {
        "architectures": ["MistralForCausalLM"], "model_type": "mistral", "bos_token_id": 1,
        "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
        "intermediate_size": 14336, "max_position_embeddings": 1024000, "num_attention_heads": 32,
        "num_hidden_layers": 40, "num_key_value_heads": 8, "rms_norm_eps": 1e-05,
        "rope_theta": 1000000.0, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "vocab_size": 131072,
    },
    "Phi-4": {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "attention_bias": False,
        "bos_token_id": 100257, "eos_token_id": 100265, "pad_token_id": 100349,
        "hidden_act": "silu", "hidden_size": 5120, "intermediate_size": 17920,
        "max_position_embeddings": 16384, "num_attention_heads": 40, "num_hidden_layers": 40,
        "num_key_value_heads": 10, "original_max_position_embeddings": 16384,
        "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 250000,
        "sliding_window": None, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "vocab_size": 100352,
    },
    "Phi-4-mini": {
        "architectures": ["Phi3ForCausalLM"], "model_type": "phi3", "bos_token_id": 199999,
        "eos_token_id": 199999, "pad_token_id": 199999, "hidden_act": "silu",
        "hidden_size": 3072, "intermediate_size": 8192, "max_position_embeddings": 131072,
        "num_attention_heads": 24, "num_hidden_layers": 32, "num_key_value_heads": 8,
        "original_max_position_embeddings": 4096, "partial_rotary_factor": 0.75,
        "rms_norm_eps": 1e-05, "rope_scaling": longrope(96), "rope_theta": 10000.0,
        "sliding_window": 262144, "tie_word_embeddings": True, "torch_dtype": "bfloat16",
        "vocab_size": 200064,
    },
    "Qwen2.5-7B": {
        "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "bos_token_id": 151643,
        "eos_token_id": 151645, "hidden_act": "silu", "hidden_size": 3584,
        "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28,
        "num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4,
        "rms_norm_eps": 1e-06, "rope_theta": 1000000.0, "rope_scaling": YARN,
        "sliding_window": 131072, "tie_word_embeddings": False, "torch_dtype": "bfloat16",
        "use_sliding_window": False, "vocab_size": 152064,
    },
    "Qwen3-8B": {
        "architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "attention_bias": False,
        "bos_token_id": 151643, "eos_token_id": 151645, "head_dim": 128, "hidden_act": "silu",
        "hidden_size": 4096, "intermediate_size": 12288, "max_position_embeddings": 40960,
        "max_window_layers": 36, "num_attention_heads": 32, "num_hidden_layers": 36,
        "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": None,
        "rope_theta": 1000000, "sliding_window": None, "tie_word_embeddings": False,
        "torch_dtype": "bfloat16", "use_sliding_window": False, "vocab_size": 151936,
    },
}  # fmt: skip


def special_cases():
    """Defaults, and where the meaning of a field depends on others."""
    cases = {}
    for name in CONFIG_CLASSES:
        heads = {"num_attention_heads": 32}  # what the default of num_key_value_heads divides
        cases[f"{name} defaults"] = sizes(name, **heads)
        cases[f"{name} nulls"] = sizes(
            name, **heads, eos_token_id=None, pad_token_id=None, rope_scaling=None, head_dim=32
        )
        if name != "MistralForCausalLM":  # for which transformers refuses it
            cases[f"{name} null kv heads"] = sizes(name, num_key_value_heads=None)
        cases[f"{name} empty rope_scaling"] = sizes(name, **heads, rope_scaling={}, rope_theta=7e4)
        cases[f"{name} theta in both places"] = sizes(
            name, **heads, rope_theta=2e4, rope_parameters={"rope_theta": 3e4}
        )
        cases[f"{name} eos list"] = sizes(name, **heads, eos_token_id=[5, 6, 7], dtype="float16")
    for name in ("LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"):
        rope = sizes(name, num_key_value_heads=4, max_position_embeddings=65536)
        cases[f"{name} linear"] = {**rope, "rope_scaling": {"type": "linear", "factor": 2.5}}
        cases[f"{name} dynamic"] = {**rope, "rope_scaling": {"type": "dynamic", "factor": 4}}
        cases[f"{name} llama3"] = {**rope, "rope_scaling": LLAMA3, "rope_theta": 5e5}
        cases[f"{name} yarn"] = {**rope, "rope_scaling": YARN}
        cases[f"{name} yarn, all fields"] = {**rope, "rope_scaling": YARN_FULL}
        cases[f"{name} yarn, no original"] = {**rope, "rope_scaling": {"type": "yarn", "factor": 2}}
        cases[f"{name} yarn, null factor"] = {**rope, "rope_scaling": {**YARN, "factor": None}}
        cases[f"{name} yarn, zeros"] = {**rope, "rope_scaling": {**YARN, "beta_fast": 0,
                                                                 "mscale": 0}}  # fmt: skip
        cases[f"{name} outer original"] = {**rope, "rope_scaling": YARN,
                                           "original_max_position_embeddings": 2048}  # fmt: skip
        cases[f"{name} type beside rope_type"] = {
            **rope, "rope_scaling": {"type": "yarn", "rope_type": "linear", "factor": 2}}  # fmt: skip
        cases[f"{name} scaling beside parameters"] = {
            **rope, "rope_scaling": {"type": "linear", "factor": 2, "rope_theta": 5e4},
            "rope_parameters": {"rope_type": "dynamic", "factor": 3, "rope_theta": 6e4}}  # fmt: skip
        head_dim = 128 if name == "Qwen3ForCausalLM" else 32
        cases[f"{name} longrope"] = {**rope, "rope_scaling": longrope(
            head_dim, factor=16, original_max_position_embeddings=4096)}  # fmt: skip
    for partial in (1.0, 0.75, 0.5):
        rotary_dim = int(32 * partial)
        phi = sizes("Phi3ForCausalLM", partial_rotary_factor=partial, num_key_value_heads=2)
        cases[f"Phi3 partial {partial}"] = phi
        for kind in ("longrope", "su", "yarn"):
            cases[f"Phi3 {kind} {partial}"] = {
                **phi, "max_position_embeddings": 131072, "sliding_window": 2047,
                "rope_scaling": longrope(rotary_dim, original_max_position_embeddings=4096)
                | {"type": kind}}  # fmt: skip
        cases[f"Phi3 original {partial}"] = {
            **phi, "original_max_position_embeddings": 2048, "max_position_embeddings": 8192,
            "rope_scaling": longrope(rotary_dim, attention_factor=1.5,
                                     original_max_position_embeddings=1024)}  # fmt: skip
        cases[f"Phi3 shrunk {partial}"] = {
            **phi, "max_position_embeddings": 1024, "rope_scaling": longrope(rotary_dim)}
    return cases


def random_cases(count):
    rng = random.Random(7)
    cases = {}
    for i in range(count):
        name = rng.choice(list(CONFIG_CLASSES))
        layers = rng.randint(1, 6)
        heads = rng.choice((4, 8, 16))
        head_dim = rng.choice((None, 16, 32, 64))
        case = sizes(name, num_hidden_layers=layers, num_attention_heads=heads)
        case["num_key_value_heads"] = rng.choice((heads, heads // 2, heads // 4))
        case["vocab_size"] = rng.randint(32001, 300000)
        case["intermediate_size"] = rng.randint(1, 1000)
        case["max_position_embeddings"] = rng.choice((2048, 4096, 32768, 131072))
        case["rms_norm_eps"] = rng.choice((1e-5, 1e-6, 1e-12))
        case["tie_word_embeddings"] = rng.random() < 0.5
        if head_dim:
            case["head_dim"] = head_dim
        if rng.random() < 0.5:
            case["rope_theta"] = rng.choice((10000, 500000.0, 1e6))
        if name in ("LlamaForCausalLM", "Qwen3ForCausalLM"):
            case["attention_bias"] = rng.random() < 0.5
        if name == "LlamaForCausalLM":
            case["mlp_bias"] = rng.random() < 0.5
        if name in ("MistralForCausalLM", "Phi3ForCausalLM") and rng.random() < 0.7:
            case["sliding_window"] = rng.choice((None, 1, 128, 4096))
        if name.startswith("Qwen"):
            case["use_sliding_window"] = rng.random() < 0.7
            case["sliding_window"] = rng.choice((None, 128, 4096))
            case["max_window_layers"] = rng.randint(0, 8)
            if case["use_sliding_window"] and case["sliding_window"] and rng.random() < 0.5:
                case["layer_types"] = rng.choices(("full_attention", "sliding_attention"), k=layers)
        if name != "Phi3ForCausalLM":
            case["rope_scaling"] = rng.choice((None, LLAMA3, YARN, YARN_FULL,
                                               {"type": "linear", "factor": 3},
                                               {"type": "dynamic", "factor": 2.0}))  # fmt: skip
        if rng.random() < 0.5:
            case[rng.choice(("dtype", "torch_dtype"))] = rng.choice(("float32", "bfloat16"))
        if rng.random() < 0.3:
            case["quantization_config"] = {"quant_method": "fp8", "ignored_layers": ["lm_head"]}
        cases[f"random {i}"] = case
    return cases


def read(command, directories):
    run = subprocess.run([TOOL, command, *directories], check=True, capture_output=True, text=True)
    return [json.loads(line) for line in run.stdout.splitlines()]


def as_list(ids):
    return [] if ids is None else ids if isinstance(ids, list) else [ids]


def expected_windows(architecture, config):
    if architecture.startswith("Qwen"):
        return [config.sliding_window if kind == "sliding_attention" else 0
                for kind in config.layer_types]  # fmt: skip
    window = 0 if architecture == "LlamaForCausalLM" else config.sliding_window or 0
    return [window] * config.num_hidden_layers


def expected_rope(architecture, config, model):
    """The fields that the RoPE type uses; what transformers derives is derived as it does."""
    config.standardize_rope_params()
    parameters = config.rope_parameters
    kind = parameters["rope_type"]
    expected = {"type": kind, "theta": parameters["rope_theta"],
                "rotary_dim": 2 * len(model.model.rotary_emb.inv_freq)}  # fmt: skip
    if kind in ("linear", "dynamic", "llama3"):
        expected["factor"] = parameters["factor"]
    if kind in ("llama3", "yarn", "longrope"):
        original = parameters["original_max_position_embeddings"]
        expected["original_max_position_embeddings"] = original
    else:
        expected["original_max_position_embeddings"] = config.max_position_embeddings
    if kind == "llama3":
        expected |= {key: parameters[key] for key in ("low_freq_factor", "high_freq_factor")}
    if kind in ("yarn", "longrope"):
        factor = parameters.get("factor")
        expected["factor"] = config.max_position_embeddings / original if factor is None else factor
        expected["attention_factor"] = parameters.get("attention_factor")
    if kind == "yarn":
        expected["beta_fast"] = parameters.get("beta_fast") or 32
        expected["beta_slow"] = parameters.get("beta_slow") or 1
        expected["mscale"] = parameters.get("mscale") or None
        expected["mscale_all_dim"] = parameters.get("mscale_all_dim") or None
        expected["truncate"] = parameters.get("truncate", True)
    if kind == "longrope":
        expected |= {key: parameters[key] for key in ("short_factor", "long_factor")}
    return expected


def expected_config(architecture, config):
    with torch.device("meta"):
        model = getattr(transformers, architecture)(config)
    layer = model.model.layers[0]
    attention, mlp = layer.self_attn, layer.mlp
    qkv = attention.qkv_proj if architecture == "Phi3ForCausalLM" else attention.v_proj
    expected = {key: getattr(config, key) for key in (
        "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
        "num_attention_heads", "num_key_value_heads", "max_position_embeddings", "rms_norm_eps",
        "tie_word_embeddings", "bos_token_id", "pad_token_id")}  # fmt: skip
    return expected | {
        "architecture": architecture,
        "head_dim": attention.head_dim,
        "qkv_bias": qkv.bias is not None,
        "o_bias": attention.o_proj.bias is not None,
        "mlp_bias": mlp.down_proj.bias is not None,
        "qk_norm": hasattr(attention, "q_norm"),
        "layer_window": expected_windows(architecture, config),
        "eos_token_ids": as_list(config.eos_token_id),
        "dtype": DTYPES[config.dtype],
        "quantization_config": getattr(config, "quantization_config", None),
        "rope": expected_rope(architecture, config, model),
    }


def check(cases, tmp_path):
    """Each case as it is written here and as transformers writes it again."""
    directories, expected = [], []
    for i, case in enumerate(cases.values()):
        (architecture,) = case["architectures"]
        hub, rewritten = tmp_path / f"hub{i}", tmp_path / f"rewritten{i}"
        hub.mkdir()
        (hub / "config.json").write_text(json.dumps(case))
        config = CONFIG_CLASSES[architecture].from_pretrained(hub)
        rewritten.mkdir()
        config.to_json_file(rewritten / "config.json")
        expected.append(expected_config(architecture, config))
        directories += [hub, rewritten]
    ours = read("config", directories)
    assert len(ours) == 2 * len(expected)
    for i, name in enumerate(cases):
        for spelling, actual in zip(("hub", "transformers 5"), ours[2 * i : 2 * i + 2]):
            assert "error" not in actual, (name, spelling, actual)
            rope = {key: actual["rope"][key] for key in expected[i]["rope"]}
            assert actual | {"rope": rope} == expected[i], (name, spelling)


def test_published_models(tmp_path):
    check(PUBLISHED, tmp_path)


def test_defaults_and_special_cases(tmp_path):
    check(special_cases(), tmp_path)


def test_random_combinations(tmp_path):
    check(random_cases(300), tmp_path)


def test_the_spellings_differ(tmp_path):
    """What transformers writes uses rope_parameters, so that both readers were exercised."""
    config = transformers.LlamaConfig(rope_parameters={"rope_theta": 5e5, **LLAMA3})
    config.to_json_file(tmp_path / "config.json")
    written = json.loads((tmp_path / "config.json").read_text())
    assert "rope_scaling" not in written and "rope_theta" not in written
    assert written["rope_parameters"]["rope_theta"] == 5e5


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"eos_token_id": 2, "bos_token_id": 1},
        {"eos_token_id": [2, 3], "pad_token_id": 0, "do_sample": True, "temperature": 0.6,
         "top_p": 0.9, "top_k": 50},
        {"do_sample": True, "min_p": 0.1, "repetition_penalty": 1.05, "max_length": 4096},
        {"max_new_tokens": 17},
    ],
)  # fmt: skip
def test_generation_config(tmp_path, fields):
    transformers.GenerationConfig(**fields).save_pretrained(tmp_path)
    config = transformers.GenerationConfig.from_pretrained(tmp_path)
    (ours,) = read("generation", [tmp_path])
    assert ours == {
        "eos_token_ids": as_list(config.eos_token_id),
        **{key: getattr(config, key) for key in ours if key != "eos_token_ids"},
    }
