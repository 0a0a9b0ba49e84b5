"""`dualfp quantize`: nested checkpoints hold the 16-bit ones bit for bit, and FP8 ones inside."""

import json
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from producers import Reader, load
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


@pytest.fixture(scope="module")
def half(tmp_path_factory):
    """The reference model in FP16, with outliers, and as nested planes."""
    root = tmp_path_factory.mktemp("half")
    source = shutil.copytree(MODEL, root / "model")
    tensors = {name: tensor.half() for name, tensor in load(MODEL).items()}
    tensors["model.layers.2.mlp.up_proj.weight"][3, [1, 7, 300]] = torch.tensor(
        [1.8125, -3.5, 60000.0]).half()
    tensors["model.layers.3.mlp.up_proj.weight"][:, 5] = 2.0  # more than stay apart
    save_file(tensors, source / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((source / "config.json").read_text()) | {"torch_dtype": "float16"}
    (source / "config.json").write_text(json.dumps(config))
    out = quantize(source, root / "nested", "--scheme", "nested")
    assert "model.layers.3.mlp.up_proj.weight stays as it is: more than 0.1 %" in out
    return source, root / "nested"


def test_nested_planes_are_those_of_the_definition(half):
    source, nested = half
    weights, planes = load(source), Reader(nested)
    config = planes.config["quantization_config"]
    assert (config["quant_method"], config["format"], config["version"]) == ("dualfp", "nested", 1)
    assert config["ignored_layers"] == ["model.layers.3.mlp.up_proj"]
    nested_weights = outliers = 0
    for name, weight in weights.items():
        if ".layers." not in name or weight.dim() != 2 or name.startswith(
                "model.layers.3.mlp.up_proj"):
            assert np.array_equal(planes.tensors[name].view(np.uint16).ravel(),
                                  weight.view(torch.int16).numpy().view(np.uint16).ravel())
            continue
        nested_weights += 1
        stem = name.removesuffix("weight")
        upper, lower = (planes.tensors[stem + f"weight_{plane}"] for plane in ("upper", "lower"))
        # The upper byte is E4M3 of 256 w, clamped; the pair is the FP16 pattern.
        clamped = weight.double().numpy().clip(-1.75, 1.75)
        want = (256 * clamped).astype(np.float32).astype(ml_dtypes.float8_e4m3fn)
        assert np.array_equal(upper.view(np.uint8), want.view(np.uint8)), name
        u = upper.view(np.uint8).astype(np.int32)
        pattern = (((u & 127) >> 1) << 8 | lower) - 64
        value = pattern.astype(np.uint16).view(np.float16).astype(np.float64)
        value = np.where(u >= 128, -value, value)
        index, rest = planes.tensors[stem + "outlier_index"], planes.tensors[stem + "outlier_value"]
        value.reshape(-1)[index] += rest
        assert np.array_equal(value, weight.double().numpy()), name
        assert np.array_equal(index, np.flatnonzero(np.abs(weight.double().numpy()) > 1.75))
        outliers += len(index)
    assert nested_weights == 55 and outliers >= 3


def test_nested_back_is_bit_identical(half, tmp_path):
    source, nested = half
    quantize(nested, tmp_path / "back", "--scheme", "fp16")
    same_tensors(source, tmp_path / "back")
    assert json.loads((tmp_path / "back" / "config.json").read_text()) == json.loads(
        (source / "config.json").read_text())


def test_fp8_from_nested_is_the_upper_plane(half, archive, tmp_path):
    for nested, name in ((half[1], "plain"), (archive, "twelve")):
        out = quantize(nested, tmp_path / name, "--scheme", "fp8-from-nested")
        made, planes = Reader(tmp_path / name), Reader(nested)
        config = made.config["quantization_config"]
        rows = name == "twelve"
        assert config["quant_method"] == ("compressed-tensors" if rows else "fp8")
        converted = 0
        for tensor, upper in planes.tensors.items():
            module = tensor.removesuffix(".weight_upper")
            if module == tensor or ".layers." not in module:
                continue
            converted += 1
            assert made.tensors[f"{module}.weight"].tobytes() == upper.tobytes()
            scale = made.tensors[f"{module}.weight_scale"]
            if rows:
                shift = planes.tensors[f"{module}.weight_shift"].astype(np.float64)
                assert np.array_equal(scale[:, 0].astype(np.float64), 2.0 ** (-8 - shift))
            else:
                assert scale.shape == () and scale == 1 / 256
        assert converted == (56 if rows else 55) and f"{converted} matrices" in out
        embeddings = made.tensors["model.embed_tokens.weight"]
        source = Reader(MODEL if rows else half[0]).tensors["model.embed_tokens.weight"]
        assert embeddings.tobytes() == source.tobytes()


def test_weights_that_12_bits_round_are_counted(tmp_path):
    """By torch: the weights of an FP16 checkpoint that BF16 does not hold."""
    model = shutil.copytree(MODEL, tmp_path / "fp16")
    tensors = {name: weight.half() * 1.001 for name, weight in load_file(MODEL / "model.safetensors").items()}
    save_file(tensors, model / "model.safetensors", {"format": "pt"})
    linear = [weight for name, weight in tensors.items() if name.endswith("_proj.weight")]
    rounded = sum(int((weight.bfloat16().float() != weight.float()).sum()) for weight in linear)
    assert rounded > 1000
    total = sum(weight.numel() for weight in [*linear, tensors["model.embed_tokens.weight"]])
    done = dualfp("generate", model, *PROMPT, "--quantization", "nested12")
    assert done.returncode == 0, done.stderr
    assert f"warning: {rounded} of {total} weights are rounded, by at most 0.2 %" in done.stderr
    assert "nested12 does not hold all of F16" in done.stderr
    assert "rounded" not in dualfp("generate", MODEL, *PROMPT, "--quantization", "nested12").stderr
