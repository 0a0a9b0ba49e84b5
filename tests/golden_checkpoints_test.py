"""Checkpoints that other tools quantised, against what these tools compute (golden/README.md): the
weights that we hold, and logits with and without the checkpoint's activation quantisation.

logits with quantised activations hang on roundings that small models blow up, so they are judged
by distance: nearer to the expected ones than these are to the logits of quantised weights alone.
"""

import hashlib
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

ROOT = pathlib.Path(os.environ.get("DUALFP_SOURCE_DIR", pathlib.Path(__file__).parent.parent))
GOLDEN = ROOT / "tests" / "golden"
TOOL = pathlib.Path(os.environ["DUALFP_BUILD_DIR"]) / "tests" / "model_logits"

REFERENCE = "llmcompressor-fp8-dynamic-reference"
# Formats of 4 bits and mixtures of experts are read by other tests.
FP8 = [
    "autofp8-static-fp8kv-qwen2",
    "llmcompressor-fp8-block-qwen3",
    "llmcompressor-fp8-block-ragged-qwen2",
    REFERENCE,
    "llmcompressor-fp8-static-fp8kv-qwen3",
    "llmcompressor-mxfp8-phi3",
    "modelopt-fp8-fp8kv-qwen2",
    "modelopt-mxfp8-llama",
    "transformers-fp8-block-qwen3",
    "transformers-fp8-ue8m0-llama",
]


# q is quantised, k and v are not: one weight, which we hold as values that compute exactly.
MIXED_PROJECTIONS = "transformers-fp8-ue8m0-llama"


def rebuild_reference(directory):
    """llm-compressor's FP8_DYNAMIC of models/reference, byte for byte: it divides in BF16."""
    shutil.copytree(GOLDEN / REFERENCE, directory)
    tensors = {}
    for name, weight in load_torch(ROOT / "models/reference/model.safetensors").items():
        if name.endswith("_proj.weight"):
            amax = weight.abs().amax(dim=1, keepdim=True)
            scale = (amax.float() / 448).to(torch.bfloat16)
            tensors[name] = (weight / scale).float().clamp(-448, 448).to(torch.float8_e4m3fn)
            tensors[name + "_scale"] = scale
        else:
            tensors[name] = weight
    path = directory / "model.safetensors"
    save_torch(tensors, path, metadata={"format": "pt"})
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    assert sha256 in (directory / "provenance.md").read_text()
    return directory


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """name -> directory."""
    made = {}

    def get(name):
        if name not in made:
            made[name] = GOLDEN / name
            if name == REFERENCE:
                made[name] = rebuild_reference(tmp_path_factory.mktemp("golden") / name)
        return made[name]

    return get


def run(directory, workdir, **options):
    request = {
        "quantization": "auto",
        "kv_cache_dtype": "fp32",
        "precision": "exact",
        "prompts": [{"tokens": json.loads((directory / "prompt.json").read_text())["prompt_token_ids"]}],
    }
    request.update(options)
    (workdir / "request.json").write_text(json.dumps(request))
    out = workdir / "out.safetensors"
    done = subprocess.run(
        [TOOL, directory, workdir / "request.json", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return load_file(out)


def distance(a, b):
    return np.linalg.norm(a.astype(np.float64) - b) / np.linalg.norm(b.astype(np.float64))


@pytest.mark.parametrize("name", FP8)
def test_weights_are_the_producers(name, checkpoint, tmp_path):
    directory = checkpoint(name)
    held = run(directory, tmp_path, weights=True)
    expected = load_file(directory / "expected.safetensors")
    compared = 0
    for key, values in expected.items():
        if key.startswith("weight."):
            ours = held[key.removeprefix("weight.")]
            np.testing.assert_allclose(ours, values, rtol=0, atol=3e-7 * np.abs(values).max())
            compared += 1
    assert compared > 0
    checksums = json.loads((directory / "checksums.json").read_text())
    assert len(checksums) >= 8
    for tensor, checksum in checksums.items():
        values = held[tensor].astype(np.float64)
        assert list(values.shape) == checksum["shape"]
        # As close as products that were rounded once more or less.
        assert abs(np.abs(values).sum() - checksum["sum_abs"]) <= 3e-7 * checksum["sum_abs"]
        assert abs((values**2).sum() - checksum["sum_sq"]) <= 1e-6 * checksum["sum_sq"]
        assert abs(values.sum() - checksum["sum"]) <= 3e-7 * checksum["sum_abs"]


@pytest.mark.parametrize("name", FP8)
def test_logits_of_quantised_weights(name, checkpoint, tmp_path):
    directory = checkpoint(name)
    expected = load_file(directory / "expected.safetensors")["logits_weight_only"]
    assert distance(run(directory, tmp_path)["0"], expected) < 1e-4


@pytest.mark.parametrize("kv", ["fp32", "fp8"])
@pytest.mark.parametrize("name", [name for name in FP8 if name != MIXED_PROJECTIONS])
def test_logits_of_quantised_activations(name, kv, checkpoint, tmp_path):
    directory = checkpoint(name)
    expected = load_file(directory / "expected.safetensors")
    key = "logits" if kv == "fp32" else "logits_kv_fp8"
    if key not in expected:
        pytest.skip(f"{name} has no {key}")
    ours = run(directory, tmp_path, precision="fp8", kv_cache_dtype=kv)["0"]
    apart = distance(ours, expected[key])
    assert apart < distance(expected["logits_weight_only"], expected[key])


def edited(directory, target, config=None, tensors=None):
    """A copy whose quantization_config and tensors went through two functions."""
    shutil.copytree(directory, target)
    if config is not None:
        path = target / "config.json"
        fields = json.loads(path.read_text())
        fields["quantization_config"] = config(fields["quantization_config"])
        path.write_text(json.dumps(fields))
    if tensors is not None:
        path = target / "model.safetensors"
        save_torch(tensors(load_torch(path)), path, metadata={"format": "pt"})
    return target


def mapped(change):
    """A function on tensors that renames and changes each: change(name, tensor) -> the same."""
    return lambda tensors: dict(change(name, tensor) for name, tensor in tensors.items())


def reshaped(suffix, shape, dtype=None):
    def change(name, tensor):
        if name.endswith(suffix):
            tensor = tensor.reshape(shape(tensor)).to(dtype or tensor.dtype)
        return name, tensor

    return mapped(change)


def renamed(old, new):
    return mapped(lambda name, tensor: (name.replace(old, new), tensor))


def without_config(directory):
    """hf_quant_config.json is all that says how the checkpoint is quantised."""
    path = directory / "config.json"
    fields = json.loads(path.read_text())
    del fields["quantization_config"]
    path.write_text(json.dumps(fields))


# Other spellings of the same checkpoint, which mean the same, bit for bit.
SPELLINGS = {
    "fp8 scales [1, 1]": (
        "autofp8-static-fp8kv-qwen2", None, reshaped(".weight_scale", lambda t: (1, 1))),
    "fp8 weight_scale_inv [1]": (
        "autofp8-static-fp8kv-qwen2", None,
        lambda t: renamed(".weight_scale", ".weight_scale_inv")(reshaped(".weight_scale", lambda s: (1,))(t))),
    "fp8 .scale": (
        "transformers-fp8-block-qwen3", None, renamed(".weight_scale_inv", ".scale")),
    "modelopt k_scale": (
        "autofp8-static-fp8kv-qwen2", None,
        lambda t: renamed("attn.v_scale", "attn.v_proj.v_scale")(renamed("attn.k_scale", "attn.k_proj.k_scale")(t))),
    "output_scale": (
        "modelopt-fp8-fp8kv-qwen2", None,
        lambda t: renamed("v_proj.v_scale", "v_proj.output_scale")(renamed("k_proj.k_scale", "k_proj.output_scale")(t))),
    "scales per kv head": (
        "llmcompressor-fp8-static-fp8kv-qwen3", None,
        lambda t: {n: x.repeat(2).reshape(2, 1, 1) if n.endswith(("k_scale", "v_scale")) else x for n, x in t.items()}),
    "float32 scales": (
        "llmcompressor-fp8-static-fp8kv-qwen3", None, reshaped("_scale", lambda t: t.shape, torch.float32)),
    "channels [N]": (REFERENCE, None, reshaped(".weight_scale", lambda t: (-1,))),
    "blocks of four dimensions": (
        "llmcompressor-fp8-block-ragged-qwen2", None,
        reshaped(".weight_scale", lambda t: (t.shape[0], 1, t.shape[1], 1))),
    "one block, no dimensions": (
        "llmcompressor-fp8-block-qwen3", None,
        reshaped("k_proj.weight_scale", lambda t: ())),
    "ue8m0 as bytes": (
        "transformers-fp8-ue8m0-llama", None,
        lambda t: {n: x.view(torch.uint8) if n.endswith("scale_inv") else x for n, x in t.items()}),
    "ue8m0 as floats": (
        "transformers-fp8-ue8m0-llama", None,
        lambda t: {n: x.float() if n.endswith("scale_inv") else x for n, x in t.items()}),
    "mxfp8 as e8m0": (
        "llmcompressor-mxfp8-phi3", None,
        lambda t: {n: x.view(torch.float8_e8m0fnu) if n.endswith("_scale") else x for n, x in t.items()}),
    "modelopt in lower case": (
        "modelopt-fp8-fp8kv-qwen2", lambda c: {**c, "quant_algo": "fp8"}, None),
    "modelopt wildcards": (
        "modelopt-mxfp8-llama", lambda c: {**c, "ignore": ["lm_*", "*embed_tokens*"]}, None),
    "named targets": (
        "llmcompressor-mxfp8-phi3",
        lambda c: {**c, "config_groups": {"g": {**c["config_groups"]["group_0"],
                                                "targets": ["re:.*_proj$"]}}}, None),
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_spellings_mean_the_same(spelling, checkpoint, tmp_path):
    name, config, tensors = SPELLINGS[spelling]
    directory = checkpoint(name)
    other = edited(directory, tmp_path / "model", config, tensors)
    for precision, kv in (("exact", "fp32"), ("fp8", "fp8")):
        expected = run(directory, tmp_path, precision=precision, kv_cache_dtype=kv)["0"]
        ours = run(other, tmp_path, precision=precision, kv_cache_dtype=kv)["0"]
        np.testing.assert_array_equal(ours, expected)


def test_producers_config_alone(checkpoint, tmp_path):
    for name in "modelopt-fp8-fp8kv-qwen2", "modelopt-mxfp8-llama":
        directory = checkpoint(name)
        other = edited(directory, tmp_path / name)
        without_config(other)
        expected = run(directory, tmp_path, precision="fp8")["0"]
        np.testing.assert_array_equal(run(other, tmp_path, precision="fp8")["0"], expected)


def test_scales_of_kv_heads_are_their_own(checkpoint, tmp_path):
    directory = checkpoint("llmcompressor-fp8-static-fp8kv-qwen3")
    per_head = edited(
        directory, tmp_path / "heads", tensors=lambda t: {
            n: torch.cat([x, 1.3 * x]).reshape(2, 1, 1) if n.endswith(("k_scale", "v_scale")) else x
            for n, x in t.items()})
    plain = run(directory, tmp_path, kv_cache_dtype="fp8")["0"]
    heads = run(per_head, tmp_path, kv_cache_dtype="fp8")["0"]
    exact = run(directory, tmp_path)["0"]
    # The second head rounds elsewhere, by no more than before.
    assert 0 < distance(heads, plain) < 2 * distance(plain, exact)


def test_scales_beside_unquantised_weights_mean_nothing(checkpoint, tmp_path):
    directory = checkpoint("transformers-fp8-ue8m0-llama")
    other = edited(directory, tmp_path / "model", tensors=lambda t: {
        n: x for n, x in t.items() if not n.endswith(("k_proj.weight_scale_inv", "v_proj.weight_scale_inv"))})
    expected = run(directory, tmp_path)["0"]
    np.testing.assert_array_equal(run(other, tmp_path)["0"], expected)


def changed(name, change):
    def apply(tensors):
        tensors[name] = change(tensors[name])
        return tensors

    return apply


def dropped(name):
    def apply(tensors):
        del tensors[name]
        return tensors

    return apply


def with_nan(tensor):
    bytes_ = tensor.clone().view(torch.uint8)
    bytes_[3, 5] = 0xFF
    return bytes_.view(torch.float8_e4m3fn)


UP = "model.layers.1.mlp.up_proj"
BAD = {
    "NaN weight": (
        "autofp8-static-fp8kv-qwen2", None, changed(UP + ".weight", with_nan),
        [UP + ".weight", "NaN at row 3, column 5"]),
    "NaN scale": (
        "autofp8-static-fp8kv-qwen2", None,
        changed(UP + ".weight_scale", lambda t: t * float("nan")), [UP + ".weight_scale", "nan"]),
    "negative scale": (
        "autofp8-static-fp8kv-qwen2", None, changed(UP + ".weight_scale", lambda t: -t),
        [UP + ".weight_scale", "not negative"]),
    "NaN e8m0 scale": (
        "modelopt-mxfp8-llama", None, changed(UP + ".weight_scale", lambda t: t.fill_(255)),
        [UP + ".weight_scale", "nan"]),
    "missing scale": (
        "autofp8-static-fp8kv-qwen2", None, dropped(UP + ".weight_scale"),
        [UP + ".weight", "scale is missing"]),
    "missing input scale": (
        "autofp8-static-fp8kv-qwen2", None, dropped(UP + ".input_scale"),
        [UP + ".input_scale", "missing", "static"]),
    "zero input scale": (
        "autofp8-static-fp8kv-qwen2", None, changed(UP + ".input_scale", lambda t: t * 0),
        [UP + ".input_scale", "positive"]),
    "wrong scale shape": (
        "llmcompressor-mxfp8-phi3", None,
        changed("model.layers.1.mlp.down_proj.weight_scale", lambda t: t[:, :2].contiguous()),
        ["down_proj.weight_scale", "[128, 2]", "[128, 3]"]),
    "wrong weight shape": (
        "autofp8-static-fp8kv-qwen2", None, changed(UP + ".weight", lambda t: t[:-1].contiguous()),
        [UP + ".weight", "[191, 128]", "[192, 128]"]),
    "blocks where a scale a tensor was announced": (
        "transformers-fp8-block-qwen3", lambda c: {**c, "weight_block_size": None}, None,
        ["weight_scale_inv", "fp8_per_tensor", "quantization_config"]),
    "a scale a tensor where blocks were announced": (
        "modelopt-fp8-fp8kv-qwen2", lambda c: {**c, "quant_algo": "FP8_PB_WO"}, None,
        ["weight_scale", "fp8_per_block", "quantization_config"]),
    "codes that the config leaves out": (
        "autofp8-static-fp8kv-qwen2", lambda c: {**c, "ignored_layers": [UP]}, None,
        [UP + ".weight", "F8_E4M3", "quantization_config"]),
    "codes without a config": (
        "autofp8-static-fp8kv-qwen2", lambda c: None, None,
        [".weight", "F8_E4M3", "quantization_config is absent"]),
    "a format of 4 bits": (
        "llmcompressor-nvfp4-qwen2", None, None, ["weight_packed", "nvfp4"]),
    "kv scales for other heads": (
        "llmcompressor-fp8-static-fp8kv-qwen3", None,
        changed("model.layers.1.self_attn.k_scale", lambda t: t.repeat(3)),
        ["layers.1.self_attn.k_scale", "3 scales", "2"]),
    "zero kv scale": (
        "llmcompressor-fp8-static-fp8kv-qwen3", None,
        changed("model.layers.1.self_attn.k_scale", lambda t: t * 0),
        ["layers.1.self_attn.k_scale", "positive"]),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_named(case, checkpoint, tmp_path):
    name, config, tensors, words = BAD[case]
    directory = edited(checkpoint(name), tmp_path / "model", config, tensors)
    (tmp_path / "request.json").write_text(json.dumps({
        "quantization": "auto", "kv_cache_dtype": "fp32", "precision": "exact",
        "prompts": [{"tokens": [1, 2]}]}))
    done = subprocess.run(
        [TOOL, directory, tmp_path / "request.json", tmp_path / "out"], capture_output=True, text=True)
    assert done.returncode == 1, done.stdout
    for word in words:
        assert word in done.stderr
