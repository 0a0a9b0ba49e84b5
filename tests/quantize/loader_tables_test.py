"""Names, dtypes and shapes against what vLLM's loaders register for each method, and mixtures of
experts, which the engine cannot run."""

import json
import re
import shutil

import numpy as np
import pytest
import torch
from producers import Reader, compressed_tensors, load, raw, transformers_blocks
from running import MODEL, quantize
from safetensors.torch import save_file

# vLLM 0.11, model_executor/layers/quantization: parameters of a linear layer of [n, k] beside
# `weight`. A scale of one element may have any shape of ones (PerTensorScaleParameter).
BLOCKS = lambda n, k: (-(-n // 128), -(-k // 128))
VLLM = {
    # fp8.py, Fp8LinearMethod.create_weights
    ("fp8", "fp8"): {"weight_scale": ("F32", None)},
    ("fp8", "fp8-static"): {"weight_scale": ("F32", None), "input_scale": ("F32", None)},
    ("fp8", "fp8-block"): {"weight_scale_inv": ("F32", BLOCKS)},
    # compressed_tensors/schemes/compressed_tensors_w8a8_fp8.py; scales of any float are converted
    ("compressed-tensors", "fp8-channel"): {"weight_scale": ("float", lambda n, k: (n, 1))},
    ("compressed-tensors", "fp8-dynamic"): {"weight_scale": ("float", None)},
    ("compressed-tensors", "fp8-static"):
        {"weight_scale": ("float", None), "input_scale": ("float", None)},
    ("compressed-tensors", "fp8-block"): {"weight_scale": ("float", BLOCKS)},
    # compressed_tensors_w8a8_mxfp8.py, modelopt.py
    ("compressed-tensors", "mxfp8"): {"weight_scale": ("U8", lambda n, k: (n, k // 32))},
    ("modelopt", "mxfp8"): {"weight_scale": ("U8", lambda n, k: (n, k // 32))},
    ("modelopt", "fp8-static"): {"weight_scale": ("F32", None), "input_scale": ("F32", None)},
}
# Attention's own: k_scale and v_scale after maybe_remap_kv_scale_name().
KV = re.compile(r"\.self_attn\.(k_scale|v_scale|k_proj\.k_scale|v_proj\.v_scale)$")
NAMES = {np.dtype("float32"): "F32", np.dtype("uint8"): "U8"}


@pytest.mark.parametrize("method, scheme", VLLM)
def test_parameters_of_vllm(tmp_path, method, scheme):
    text = tmp_path / "text.txt"
    text.write_text("Some words to calibrate on.")
    calibrate = ["--calibration", text, "--kv-cache", "fp8"] if scheme == "fp8-static" else []
    quantize(MODEL, tmp_path / "out", "--scheme", scheme, "--quant-method", method, *calibrate)
    reader = Reader(tmp_path / "out")
    source = load(MODEL)
    left = set(reader.tensors)
    linears = 0
    for name, weight in source.items():
        left.remove(name)
        if ".layers." not in name or weight.dim() != 2:
            assert reader.tensors[name].dtype.name == "bfloat16"
            continue
        linears += 1
        n, k = weight.shape
        assert reader.tensors[name].dtype.name == "float8_e4m3fn"
        for suffix, (dtype, shape) in VLLM[method, scheme].items():
            scale = reader.tensors[name.replace("weight", suffix)]
            left.remove(name.replace("weight", suffix))
            assert scale.shape == shape(n, k) if shape else scale.size == 1
            assert dtype == ("float" if scale.dtype.name == "bfloat16" else NAMES[scale.dtype])
    assert linears == 56
    assert len(left) == (16 if calibrate else 0) and all(KV.search(name) for name in left), left


def save(directory, tensors, **config):
    shutil.copytree(MODEL, directory)
    (directory / "config.json").write_text(json.dumps(config))
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


def random(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).bfloat16()


def test_experts_one_by_one(tmp_path):
    tensors = {
        "lm_head.weight": random(64, 128), "model.embed_tokens.weight": random(64, 128),
        "model.layers.0.mlp.gate.weight": random(4, 128),
        "model.layers.1.block_sparse_moe.gate.weight": random(4, 128),
        "model.layers.0.mlp.shared_expert_gate.weight": random(1, 128),
        "model.layers.0.self_attn.q_proj.bias": random(128),
    }
    quantized = [f"model.layers.0.mlp.experts.{e}.{p}_proj" for e in range(4)
                 for p in ("gate", "up", "down")]
    quantized += [f"model.layers.1.block_sparse_moe.experts.{e}.{w}" for e in range(4)
                  for w in ("w1", "w2", "w3")]
    tensors |= {f"{module}.weight": random(128 + i, 128) for i, module in enumerate(quantized)}
    model = save(tmp_path / "model", tensors, model_type="qwen3_moe")
    quantize(model, tmp_path / "out")
    made = load(tmp_path / "out")
    for module in quantized:
        codes, scale = compressed_tensors(tensors[f"{module}.weight"], "channel")
        assert np.array_equal(raw(made[f"{module}.weight"]), raw(codes))
        assert torch.equal(made[f"{module}.weight_scale"], scale)
    assert len(made) == len(tensors) + len(quantized)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert sorted(config["ignore"]) == sorted([
        "lm_head", "model.layers.0.mlp.gate", "model.layers.0.mlp.shared_expert_gate",
        "model.layers.1.block_sparse_moe.gate"])


def test_fused_experts(tmp_path):
    name = "model.layers.0.mlp.experts.gate_up_proj"
    tensors = {name: random(3, 256, 128), "model.layers.0.mlp.gate.weight": random(3, 128)}
    model = save(tmp_path / "model", tensors, model_type="mixtral")
    quantize(model, tmp_path / "blocks", "--scheme", "fp8-block")
    made = load(tmp_path / "blocks")
    assert made.keys() == tensors.keys() | {name + "_scale_inv"}
    for expert in range(3):
        codes, scale = transformers_blocks(tensors[name][expert], "float")
        assert np.array_equal(raw(made[name][expert]), raw(codes))
        assert torch.equal(made[name + "_scale_inv"][expert], scale)
    quantize(model, tmp_path / "rows", "--scheme", "fp8-channel")
    made = load(tmp_path / "rows")
    codes, scale = compressed_tensors(tensors[name].reshape(-1, 128), "channel")
    assert np.array_equal(raw(made[name]).reshape(-1), raw(codes).reshape(-1))
    assert made[name + "_scale"].shape == (3, 256, 1)
    assert torch.equal(made[name + "_scale"].reshape(-1), scale.reshape(-1))
    config = json.loads((model / "config.json").read_text()) | {"model_type": "gpt_oss"}
    (model / "config.json").write_text(json.dumps(config))
    tensors["model.layers.0.self_attn.o_proj.weight"] = random(64, 128)
    save_file(tensors, model / "model.safetensors", metadata={"format": "pt"})
    assert "its experts lie transposed" in quantize(model, tmp_path / "gpt_oss")
    assert torch.equal(load(tmp_path / "gpt_oss")[name], tensors[name])


def test_recipes(tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(json.dumps({"rules": [
        {"match": "re:.*self_attn", "scheme": "fp8-channel"},
        {"match": "*.down_proj", "scheme": "mxfp8"},
        {"match": "model.layers.0.mlp.up_proj", "scheme": "none"},
    ]}))
    quantize(MODEL, tmp_path / "out", "--scheme", "fp8-block", "--recipe", recipe, "--ignore",
             "model.layers.1.mlp.*_proj")
    reader = Reader(tmp_path / "out")
    config = reader.config["quantization_config"]
    assert config["format"] == "mixed-precision"
    strategies = {}
    for group in config["config_groups"].values():
        for target in group["targets"]:
            strategies[target] = (group["weights"]["strategy"], group["format"])
    for name, weight in load(MODEL).items():
        module = name.removesuffix(".weight")
        if ".layers." not in name or weight.dim() != 2:
            continue
        expected = ("block", "float-quantized")
        if "self_attn" in module:
            expected = ("channel", "float-quantized")
        elif "down_proj" in module:
            expected = ("group", "mxfp8-quantized")
        elif module == "model.layers.0.mlp.up_proj" or "layers.1.mlp" in module:
            expected = None
        assert strategies.get(module) == expected, module
        assert (module in config["ignore"]) == (expected is None)
        error = np.abs(reader.weight(module) - weight.double().numpy()).max()
        assert (error == 0) == (expected is None) and error < 0.07 * weight.abs().max()
