"""Quantization of 16-bit checkpoints at load: what the weights become, against torch, and which
layers do, by the names and patterns of the command line.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch

import tiny_models

DUALFP = os.environ["DUALFP_BINARY"]
TOOL = pathlib.Path(os.environ["DUALFP_BUILD_DIR"]) / "tests" / "model_logits"


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    # Ragged blocks on both sides.
    model = tiny_models.build("llama", hidden_size=160, intermediate_size=288)
    return tiny_models.save(model, tmp_path_factory.mktemp("llama"))


def quantise(weight, amax):
    """weight / (amax / 448), rounded to E4M3, as it multiplies."""
    scale = amax / 448
    scale[scale == 0] = 1
    return (weight / scale).to(torch.float8_e4m3fn).float() * scale


def per_tensor(weight):
    return quantise(weight, weight.abs().max().reshape(1, 1))


def per_channel(weight):
    return quantise(weight, weight.abs().amax(dim=1, keepdim=True))


def per_block(weight):
    out = torch.empty_like(weight)
    for row in range(0, weight.shape[0], 128):
        for column in range(0, weight.shape[1], 128):
            block = weight[row : row + 128, column : column + 128]
            out[row : row + 128, column : column + 128] = per_tensor(block)
    return out


def mx(weight):
    groups = weight.reshape(weight.shape[0], -1, 32)
    amax = groups.abs().amax(dim=2, keepdim=True).double()
    scale = torch.exp2(torch.ceil(torch.log2(amax / 448))).float()
    return ((groups / scale).to(torch.float8_e4m3fn).float() * scale).reshape(weight.shape)


SCHEMES = {
    "fp8": per_tensor,
    "fp8_per_tensor": per_tensor,
    "fp8-tensor": per_tensor,
    "fp8_per_channel": per_channel,
    "fp8-channel": per_channel,
    "fp8_per_block": per_block,
    "fp8-block": per_block,
    "mxfp8": mx,
}


@pytest.mark.parametrize("scheme", SCHEMES)
def test_weights_are_what_torch_makes_of_them(scheme, directory, tmp_path):
    request = {"quantization": scheme, "kv_cache_dtype": "fp32", "precision": "exact",
               "prompts": [{"tokens": [1, 2, 3]}], "weights": True}
    (tmp_path / "request.json").write_text(json.dumps(request))
    out = tmp_path / "out.safetensors"
    subprocess.run([TOOL, directory, tmp_path / "request.json", out], check=True)
    held = load_file(out)
    compared = 0
    for name, weight in load_torch(directory / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            np.testing.assert_array_equal(held[name], SCHEMES[scheme](weight.float()).numpy())
            compared += 1
    assert compared == 7 * 3


def inspect(directory, *arguments):
    done = subprocess.run(
        [DUALFP, "inspect", directory, "--json", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return {linear["name"]: linear for linear in json.loads(done.stdout)["linears"]}


def test_inputs_are_quantised_as_the_weights_want(directory):
    for scheme, activations in (("fp8", "per-token"), ("fp8_per_channel", "per-token"),
                                ("fp8_per_block", "per-group"), ("mxfp8", "mx")):
        linear = inspect(directory, "--quantization", scheme)["model.layers.0.mlp.down_proj"]
        assert linear["activations"] == activations


def test_patterns_choose_layers(directory):
    linears = inspect(
        directory, "--quantization", "fp8", "--quantization-ignore", "model.layers.1.self_attn.o_proj",
        "--quantization-ignore", "re:.*layers.2.mlp", "--quantization-layer", "*.down_proj=mxfp8",
        "--quantization-layer", "*.self_attn.[qkv]_proj=fp8_per_block")
    for name, linear in linears.items():
        if "layers" not in name:
            expected = "none"
        elif name in ("model.layers.1.self_attn.o_proj", "model.layers.2.mlp.gate_up_proj",
                      "model.layers.2.mlp.down_proj"):
            expected = "none"
        elif name.endswith("down_proj"):
            expected = "mxfp8"
        elif name.endswith("qkv_proj"):
            expected = "fp8_per_block"
        else:
            expected = "fp8_per_tensor"
        assert linear["scheme"] == expected, name


@pytest.mark.parametrize(
    "arguments,words",
    [
        (["--quantization", "fp7"], ["fp8_per_tensor", "mxfp8"]),
        (["--quantization-ignore", "re:("], ["re:("]),
        (["--quantization-layer", "*.q_proj"], ["PATTERN=SCHEME"]),
        (["--quantization-layer", "*.q_proj=fp7"], ["fp7", "mxfp8"]),
        (["--quantization-layer", "*.q_proj=fp8"], ["q_proj", "k_proj", "one weight"]),
    ],
)
def test_what_cannot_be_is_refused(arguments, words, directory):
    done = subprocess.run([DUALFP, "inspect", directory, *arguments], capture_output=True, text=True)
    assert done.returncode != 0
    for word in words:
        assert word in done.stderr
