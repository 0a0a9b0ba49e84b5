"""`dualfp quantize`: 12-bit checkpoints hold the BF16 ones bit for bit."""

import json
import shutil

import pytest
import torch
from running import MODEL, dualfp, quantize, refuses
from safetensors.torch import load_file, save_file

PROMPT = ["--prompt", "In the beginning", "--max-tokens", 24, "--json"]


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    out = tmp_path_factory.mktemp("archive") / "reference-12"
    quantize(MODEL, out, "--scheme", "nested12")
    return out


@pytest.fixture
def copy(archive, tmp_path):
    return shutil.copytree(archive, tmp_path / "copy")


def same_tensors(a, b):
    a, b = (load_file(directory / "model.safetensors") for directory in (a, b))
    assert a.keys() == b.keys()
    for name in a:
        assert a[name].dtype == b[name].dtype
        assert torch.equal(a[name].view(torch.uint8), b[name].view(torch.uint8)), name


def test_back_is_bit_identical(archive, tmp_path):
    quantize(archive, tmp_path / "back", "--scheme", "bf16")
    same_tensors(MODEL, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (MODEL / "config.json").read_text()
    )


def test_the_archive_is_a_quarter_smaller(archive):
    sizes = [(directory / "model.safetensors").stat().st_size for directory in (MODEL, archive)]
    assert sizes[1] <= 12.1 / 16 * sizes[0]
    names = {path.name for path in MODEL.iterdir() if path.is_file()}
    assert {path.name for path in archive.iterdir()} == names


def test_planes_are_those_of_the_definition(archive):
    """By torch: exact values from both planes and remainders, and E4M3 values from the upper one."""
    tensors = load_file(archive / "model.safetensors")
    weights = load_file(MODEL / "model.safetensors")
    matrices = [name for name, weight in weights.items() if weight.dim() == 2]
    remainders = total = 0
    for name in matrices:
        stem, weight = name.removesuffix("weight"), weights[name].double()
        n, k = weight.shape
        upper = tensors[stem + "weight_upper"].view(torch.uint8).int()
        nibbles = tensors[stem + "weight_nibble"].int()
        shift = tensors[stem + "weight_shift"].double()[:, None]
        nibble = torch.stack([nibbles & 15, nibbles >> 4], 2).reshape(n, -1)[:, :k]
        code = 16 * (upper & 127) + nibble - (8 - torch.arange(k) % 2)
        plane = (8 * code).short().view(torch.float16).double()
        plane = torch.where(upper >= 128, -plane, plane) * 2**-shift
        flat = plane.reshape(-1)
        index = tensors[stem + "remainder_index"]
        flat[index] += tensors[stem + "remainder_value"].double()
        assert torch.equal(flat.reshape(n, k), weight)
        largest = weight.abs().amax(1, keepdim=True) * 2**shift
        assert ((largest > 0.875) & (largest <= 1.75)).all()
        remainders += len(index)
        total += n * k
    assert 0 < remainders <= 0.00011 * total


def test_it_loads_as_the_checkpoint_that_it_is(archive):
    outputs = {dualfp("generate", model, *PROMPT, *more).stdout and
               tuple(json.loads(dualfp("generate", model, *PROMPT, *more).stdout)["token_ids"])
               for model in (MODEL, archive) for more in ([], ["--quantization", "none"])}
    assert len(outputs) == 1
    reports = [json.loads(dualfp("inspect", model, "--json").stdout) for model in (MODEL, archive)]
    assert reports[0]["linears"] == reports[1]["linears"]
    assert reports[0]["remainders"] <= 0.00011 * reports[0]["parameters"]
    assert reports[0]["bits_per_weight"] <= 12.1


def test_matrices_with_many_remainders_stay(tmp_path):
    source = shutil.copytree(MODEL, tmp_path / "model")
    tensors = load_file(source / "model.safetensors")
    name = "model.layers.0.mlp.down_proj.weight"
    tensors[name][:, ::50] = 1e-9
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    out = quantize(source, tmp_path / "out", "--scheme", "nested12")
    assert f"{name} stays as it is: more than 1 %" in out
    assert name in load_file(tmp_path / "out" / "model.safetensors")
    quantize(tmp_path / "out", tmp_path / "back", "--scheme", "bf16")
    same_tensors(source, tmp_path / "back")


def test_refusals_leave_nothing_behind(copy, tmp_path):
    out = tmp_path / "out"
    refuses(dualfp("quantize", copy, out, "--scheme", "nested12"), "is quantized")
    refuses(dualfp("quantize", MODEL, out, "--scheme", "bf16"), "not quantized")
    refuses(dualfp("quantize", copy, copy, "--scheme", "bf16"), "directory of its own")
    refuses(dualfp("quantize", tmp_path / "absent", out, "--scheme", "nested12"), "absent")
    tensors = load_file(copy / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight_upper"].view(torch.uint8)[2, 3] = 0x7F
    save_file(tensors, copy / "model.safetensors", metadata={"format": "pt"})
    refuses(dualfp("quantize", copy, out, "--scheme", "bf16"), "model.layers.1.mlp.up_proj.weight")
    refuses(dualfp("generate", copy, *PROMPT), "model.layers.1.mlp.up_proj.weight", "element")
    weights = load_file(MODEL / "model.safetensors")
    weights["model.layers.1.mlp.up_proj.weight"][5, 5] = float("nan")
    broken = shutil.copytree(MODEL, tmp_path / "broken")
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    refuses(dualfp("quantize", broken, out, "--scheme", "nested12"), "model.layers.1.mlp.up_proj.weight", "NaN")
    assert not (out / "model.safetensors").exists() and not (out / "config.json").exists()
