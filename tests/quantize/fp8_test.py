"""`dualfp quantize` to FP8: bytes against the producers' own code, and checkpoints that others read."""

import hashlib
import json
import shutil

import numpy as np
import pytest
import torch
from producers import Reader, autofp8, compressed_tensors, load, mx, raw, transformers_blocks
from running import MODEL, quantize
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM
from transformers.integrations.finegrained_fp8 import Fp8Dequantize

# llm-compressor 0.14.0.1 with compressed-tensors 0.19.0, FP8_DYNAMIC of models/reference: sha256 of
# name, dtype and bytes of every tensor but embed_tokens, in the order of names.
LLM_COMPRESSOR_DIGEST = "8ef4495f0130b0bb9647206c68870bd3dff057bd4ea412a8dc7cbb38f8caaaae"

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """The reference model in three dtypes, with a dead row, a dead matrix and ragged shapes."""
    root = tmp_path_factory.mktemp("models")
    tensors = load(MODEL)
    tensors["model.layers.0.mlp.up_proj.weight"][7] = 0
    tensors["model.layers.1.self_attn.o_proj.weight"][:] = 0
    # What no block of 128 tiles; quantizing does not mind that the model could not run.
    tensors["model.layers.2.mlp.down_proj.weight"] = tensors[
        "model.layers.2.mlp.down_proj.weight"][:300, :736].contiguous()
    made = {}
    for dtype in (torch.bfloat16, torch.float16, torch.float32):
        directory = root / str(dtype).removeprefix("torch.")
        shutil.copytree(MODEL, directory)
        save_file({name: tensor.to(dtype) for name, tensor in tensors.items()},
                  directory / "model.safetensors", metadata={"format": "pt"})
        made[dtype] = directory
    return made


def linears(tensors):
    return {name.removesuffix(".weight"): tensor for name, tensor in tensors.items()
            if name.endswith(".weight") and name.split(".")[-2] in LINEARS}


def check(directory, out, oracle, scale_name="weight_scale"):
    source, made = load(directory), load(out)
    modules = linears(source)
    assert len(modules) == 56
    for module, weight in modules.items():
        codes, scale = oracle(weight)
        got = made[f"{module}.weight"]
        assert got.dtype == torch.float8_e4m3fn and got.shape == weight.shape
        # torch's clamp makes +0 of some -0.
        ours, theirs = raw(got), codes.view(torch.uint8).numpy()
        wrong = int(((ours != theirs) & ((ours | theirs) & 0x7F != 0)).sum())
        assert wrong == 0, f"{module}: {wrong} of {weight.numel()} codes"
        got_scale = made[f"{module}.{scale_name}"]
        assert got_scale.dtype == scale.dtype and got_scale.shape == scale.shape, module
        assert torch.equal(got_scale.float(), scale.float()), module
    for name in source.keys() - {f"{module}.weight" for module in modules}:
        assert torch.equal(raw_tensor(source[name]), raw_tensor(made[name])), name
    assert len(made) == len(source) + len(modules)


def raw_tensor(tensor):
    return tensor.contiguous().view(torch.uint8)


DTYPES = [torch.bfloat16, torch.float16, torch.float32]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("scheme, strategy", [("fp8-channel", "channel"), ("fp8-block", "block"),
                                              ("fp8-dynamic", "tensor")])
def test_bytes_of_compressed_tensors(models, tmp_path, scheme, strategy, dtype):
    quantize(models[dtype], tmp_path / "out", "--scheme", scheme,
             "--quant-method", "compressed-tensors")
    check(models[dtype], tmp_path / "out", lambda weight: compressed_tensors(weight, strategy))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_bytes_of_autofp8(models, tmp_path, dtype):
    quantize(models[dtype], tmp_path / "out", "--scheme", "fp8")
    check(models[dtype], tmp_path / "out", autofp8)


@pytest.mark.parametrize("scale_fmt", ["float", "ue8m0"])
def test_bytes_of_transformers(tmp_path, scale_fmt):
    quantize(MODEL, tmp_path / "out", "--scheme", "fp8-block",
             *(["--ue8m0"] if scale_fmt == "ue8m0" else []))
    check(MODEL, tmp_path / "out", lambda weight: transformers_blocks(weight, scale_fmt),
          "weight_scale_inv")
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["scale_fmt"] == scale_fmt and config["weight_block_size"] == [128, 128]


def test_bytes_of_mxfp8(models, tmp_path):
    quantize(models[torch.bfloat16], tmp_path / "out", "--scheme", "mxfp8")
    made = Reader(tmp_path / "out")
    for module, weight in linears(load(models[torch.bfloat16])).items():
        codes, exponents = mx(weight)
        assert np.array_equal(made.tensors[f"{module}.weight"].view(np.uint8), codes), module
        # The scale of a dead group says nothing.
        dead = np.abs(weight.float().numpy().reshape(weight.shape[0], -1, 32)).max(2) == 0
        got = made.tensors[f"{module}.weight_scale"]
        assert got.dtype == np.uint8 and np.array_equal(got[~dead], exponents[~dead]), module


def test_the_checkpoint_that_llm_compressor_made(tmp_path):
    quantize(MODEL, tmp_path / "out", "--scheme", "fp8-channel")
    tensors = Reader(tmp_path / "out").tensors
    digest = hashlib.sha256()
    for name in sorted(tensors):
        if "embed_tokens" not in name:
            digest.update(f"{name} {tensors[name].dtype}\n".encode() + tensors[name].tobytes())
    assert digest.hexdigest() == LLM_COMPRESSOR_DIGEST


TOKENS = torch.tensor([[4090, 17, 300, 42, 1200, 7, 7, 99, 2048, 3000, 5, 61]])


def logits(directory, **options):
    model = AutoModelForCausalLM.from_pretrained(directory, **options).eval()
    with torch.no_grad():
        return model(TOKENS).logits.float()


@pytest.mark.parametrize("scheme", ["fp8-channel", "fp8-block", "fp8-dynamic"])
def test_transformers_computes_with_it(tmp_path, scheme):
    """Loaded by compressed-tensors: the logits of a model whose weights an independent reader
    decoded."""
    out = tmp_path / "out"
    quantize(MODEL, out, "--scheme", scheme, "--quant-method", "compressed-tensors")
    reader = Reader(out)
    plain = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
    base = plain(TOKENS).logits.detach()
    loaded = AutoModelForCausalLM.from_pretrained(out, dtype=torch.float32).eval()
    state = plain.state_dict()
    for module in linears(state):
        state[f"{module}.weight"] = torch.from_numpy(reader.weight(module).astype(np.float32))
    plain.load_state_dict(state)
    with torch.no_grad():
        weight_only = plain(TOKENS).logits
        got = loaded(TOKENS).logits
    cost = (weight_only - base).norm()
    # Activations are quantized too, which costs about as much again as the weights.
    assert 0 < (got - weight_only).norm() < 1.5 * cost
    assert (got - weight_only).norm() > 0.1 * cost
    loaded_weight = dict(loaded.named_parameters())["model.layers.3.mlp.up_proj.weight"]
    assert loaded_weight.shape == (768, 384)


@pytest.mark.parametrize("more", [[], ["--ue8m0"]])
def test_transformers_dequantizes_deepseek_blocks(tmp_path, more):
    """By the operation of its loader, whose whole needs another package."""
    quantize(MODEL, tmp_path / "out", "--scheme", "fp8-block", *more)
    made, reader = load(tmp_path / "out"), Reader(tmp_path / "out")
    dequantize = Fp8Dequantize(None)
    for module in linears(load(MODEL)):
        got = dequantize._dequantize_one(made[f"{module}.weight"],
                                         made[f"{module}.weight_scale_inv"], torch.float32)
        assert np.array_equal(got.numpy(), reader.weight(module).astype(np.float32)), module


@pytest.mark.parametrize("scheme", ["fp8", "fp8-channel", "fp8-block", "mxfp8"])
def test_scale_search_lowers_the_error(tmp_path, scheme):
    quantize(MODEL, tmp_path / "amax", "--scheme", scheme)
    quantize(MODEL, tmp_path / "mse", "--scheme", scheme, "--scale-search", "mse")
    amax, mse = (Reader(tmp_path / name) for name in ("amax", "mse"))
    for module, weight in linears(load(MODEL)).items():
        weight = weight.double().numpy()
        errors = [((reader.weight(module) - weight) ** 2).sum() for reader in (amax, mse)]
        assert errors[1] <= errors[0] * (1 + 1e-6), module
        assert errors[1] > 0.3 * errors[0], module


def test_fp32_division_is_nearest_to_the_stored_scale(tmp_path):
    quantize(MODEL, tmp_path / "out", "--scheme", "fp8-channel", "--division", "fp32")
    made = load(tmp_path / "out")
    changed = total = 0
    for module, weight in linears(load(MODEL)).items():
        scale = made[f"{module}.weight_scale"].float()
        codes = (weight.float() / scale).clamp(-448, 448).to(torch.float8_e4m3fn)
        assert np.array_equal(raw(made[f"{module}.weight"]), raw(codes)), module
        producer = compressed_tensors(weight, "channel")[0]
        changed += int((raw(producer) != raw(codes)).sum())
        total += weight.numel()
    assert 0.01 * total < changed < 0.06 * total
