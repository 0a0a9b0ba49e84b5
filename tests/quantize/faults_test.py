"""What goes wrong while `dualfp quantize` runs, and what it is given that it cannot use."""

import json
import os
import random
import resource
import shutil
import signal
import subprocess
import time

import numpy as np
import pytest
import torch
from producers import load
from running import BINARY, MODEL, dualfp, quantize, refuses
from safetensors.torch import save_file

SUFFIX = ".dualfp-partial"
# `make soak` kills a hundred times.
KILLS = int(os.environ.get("DUALFP_SOAK_KILLS", "4"))


def save(tensors, directory, shards=1):
    names = sorted(tensors)
    if shards == 1:
        save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
        return
    (directory / "model.safetensors").unlink(missing_ok=True)
    weight_map = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[i::shards]}
        save_file(part, directory / file, metadata={"format": "pt"})
        weight_map.update({name: file for name in part})
    (directory / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))


@pytest.fixture
def model(tmp_path):
    return shutil.copytree(MODEL, tmp_path / "model")


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """Enough work that a kill meets it: 24 matrices, 96 MB."""
    directory = tmp_path_factory.mktemp("large") / "model"
    shutil.copytree(MODEL, directory)
    generator = torch.Generator().manual_seed(5)
    tensors = {
        f"model.layers.{i}.mlp.down_proj.weight":
            torch.randn(1024, 2048, generator=generator).bfloat16() for i in range(24)
    }
    save(tensors, directory, shards=3)
    return directory


def files(directory):
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def test_kills_leave_nothing_or_all(large, tmp_path):
    arguments = ["--scheme", "fp8-block", "--scale-search", "mse"]
    start = time.monotonic()
    quantize(large, tmp_path / "whole", *arguments)
    duration = time.monotonic() - start
    whole = files(tmp_path / "whole")
    choose = random.Random(KILLS)
    for i in range(KILLS):
        out = tmp_path / f"out{i}"
        for _ in range(choose.randrange(1, 3)):
            process = subprocess.Popen([BINARY, "quantize", large, out, *arguments],
                                       stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            time.sleep(choose.uniform(0, duration))
            process.send_signal(signal.SIGKILL)
            process.wait()
            if out.exists():
                assert files(out) == whole
                break
        if not out.exists():
            quantize(large, out, *arguments)
        assert files(out) == whole
        assert not (tmp_path / f"out{i}{SUFFIX}").exists()
        shutil.rmtree(out)


def test_another_run_does_not_go_on_with_other_options(large, tmp_path):
    out = tmp_path / "out"
    process = subprocess.Popen([BINARY, "quantize", large, out, "--scheme", "fp8-block",
                                "--scale-search", "mse"])
    while not (tmp_path / f"out{SUFFIX}" / "journal").exists():
        time.sleep(0.001)
    refuses(dualfp("quantize", large, out, "--scheme", "fp8-block", "--scale-search", "mse"),
            "another process", str(out))
    process.send_signal(signal.SIGKILL)
    process.wait()
    quantize(large, out, "--scheme", "fp8-channel")
    quantize(large, tmp_path / "fresh", "--scheme", "fp8-channel")
    assert files(out) == files(tmp_path / "fresh")


def test_a_full_disk_leaves_nothing(model, tmp_path):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))

    out = tmp_path / "out"
    refuses(dualfp("quantize", model, out, preexec_fn=small_files), "out", "File too large")
    assert not out.exists() and not (tmp_path / f"out{SUFFIX}").exists()


def test_outputs_that_are_there(model, tmp_path):
    refuses(dualfp("quantize", model, model), "directory of its own")
    out = tmp_path / "out"
    out.mkdir()
    quantize(model, out)  # an empty directory is as good as none
    refuses(dualfp("quantize", model, out), str(out), "not an empty directory")
    assert load(out)


def test_quantized_inputs(model, tmp_path):
    for scheme in ("fp8", "fp8-channel", "mxfp8", "nested", "nested12"):
        out = tmp_path / scheme
        quantize(model, out, "--scheme", scheme)
        for again in ("fp8-channel", "nested", "nested12"):
            refuses(dualfp("quantize", out, tmp_path / "again", "--scheme", again), "is quantized",
                    "bf16")
    # Without a config, the dtypes tell.
    config = json.loads((tmp_path / "fp8" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "fp8" / "config.json").write_text(json.dumps(config))
    refuses(dualfp("quantize", tmp_path / "fp8", tmp_path / "again"), "is quantized", "F8_E4M3")
    refuses(dualfp("quantize", model, tmp_path / "again", "--scheme", "bf16"), "not quantized")


def test_missing_shards(model, tmp_path):
    save(load(MODEL), model, shards=3)
    (model / "model-00002-of-00003.safetensors").unlink()
    done = dualfp("quantize", model, tmp_path / "out")
    assert done.returncode == 1 and not (tmp_path / "out").exists()
    assert "model-00002-of-00003.safetensors is missing" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("scheme", ["fp8", "fp8-channel", "fp8-block", "mxfp8", "nested",
                                    "nested12"])
def test_values_that_no_weight_has(model, tmp_path, scheme, value):
    tensors = load(MODEL)
    tensors["model.layers.3.mlp.down_proj.weight"][300, 5] = value
    save(tensors, model)
    refuses(dualfp("quantize", model, tmp_path / "out", "--scheme", scheme),
            "model.layers.3.mlp.down_proj.weight", "element [300, 5]")
    assert list(tmp_path.iterdir()) == [model]


def test_shapes_that_a_scheme_does_not_take(model, tmp_path):
    tensors = load(MODEL)
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name] = tensors[name][:, :100].contiguous()
    save(tensors, model)
    refuses(dualfp("quantize", model, tmp_path / "mx", "--scheme", "mxfp8"), name, "K = 100")
    quantize(model, tmp_path / "mx", "--scheme", "mxfp8", "--ignore", "*.1.mlp.down_proj")
    text = quantize(model, tmp_path / "deepseek", "--scheme", "fp8-block")
    assert "model.layers.1.mlp.down_proj stays as it is: blocks of 128 do not tile" in text
    made = load(tmp_path / "deepseek")
    assert made[name].dtype == torch.bfloat16
    assert name.replace("weight", "weight_scale_inv") not in made
    quantize(model, tmp_path / "padded", "--scheme", "fp8-block", "--quant-method",
             "compressed-tensors")
    made = load(tmp_path / "padded")
    assert made[name].dtype == torch.float8_e4m3fn
    assert made[name.replace("weight", "weight_scale")].shape == (3, 1)


def test_options_that_do_not_fit(model, tmp_path):
    out = tmp_path / "out"
    refuses(dualfp("quantize", model, out, "--scheme", "fp8-channel", "--quant-method", "fp8"),
            "fp8-channel", "no such scheme")
    refuses(dualfp("quantize", model, out, "--scheme", "mxfp8", "--ue8m0"), "ue8m0")
    refuses(dualfp("quantize", model, out, "--ignore", "re:("), "re:(")
    refuses(dualfp("quantize", model, out, "--ignore", "re:.*"), "no linear layer")
    refuses(dualfp("quantize", model, out, "--scheme", "fp8-static"), "--calibration")
    refuses(dualfp("quantize", model, out, "--kv-cache", "fp8"), "--calibration")
    refuses(dualfp("quantize", model, out, "--scheme", "fp8-from-nested"), "nested")
    for recipe, text in (("{", "recipe.json"), ('{"rules": [{"match": "a"}]}', "rules[0].scheme"),
                         ('{"rules": [{"match": "a", "scheme": "int4"}]}', "int4"),
                         ('{"rule": []}', "rule")):
        (tmp_path / "recipe.json").write_text(recipe)
        refuses(dualfp("quantize", model, out, "--recipe", tmp_path / "recipe.json"), text)
    (model / "config.json").write_text("[]")
    refuses(dualfp("quantize", model, out), "config.json", "object")
    (model / "config.json").unlink()
    refuses(dualfp("quantize", model, out), "config.json")
    assert not out.exists()


def test_tensors_of_any_kind_pass_through(model, tmp_path):
    tensors = load(MODEL)
    tensors |= {
        "vision.patch_embed.proj.weight": torch.randn(4, 3, 2, 2, 2).bfloat16(),
        "position_ids": torch.arange(5)[None],
        "empty.weight": torch.zeros(0, 4, dtype=torch.bfloat16),
        "mask": torch.tensor([True, False]),
    }
    save(tensors, model)
    quantize(model, tmp_path / "out")
    made = load(tmp_path / "out")
    for name in ("vision.patch_embed.proj.weight", "position_ids", "empty.weight", "mask"):
        assert made[name].dtype == tensors[name].dtype and torch.equal(made[name], tensors[name])


def test_other_files_come_along(model, tmp_path):
    (model / "README.md").write_text("a model card")
    (model / "pytorch_model.bin").write_bytes(bytes(100))
    (model / "original").mkdir()
    quantize(model, tmp_path / "out")
    names = {path.name for path in model.iterdir()} - {"pytorch_model.bin", "original"}
    assert {path.name for path in (tmp_path / "out").iterdir()} == names
    for name in names - {"config.json", "model.safetensors"}:
        assert (tmp_path / "out" / name).read_bytes() == (model / name).read_bytes()
    before = json.loads((model / "config.json").read_text())
    after = json.loads((tmp_path / "out" / "config.json").read_text())
    assert after.pop("quantization_config") and after == before
    assert np.array_equal(sorted(after), sorted(before))
