"""`dualfp inspect --compare`: its figures against double arithmetic over what independent readers
decode."""

import json
import shutil
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
import torch
from producers import Reader, load
from running import MODEL, dualfp, quantize, refuses
from safetensors.torch import save_file


def compare(a, b, *arguments):
    done = dualfp("inspect", "--compare", a, b, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def figures(a, b, codes=None):
    """Of two tensors in double; `codes` are b's."""
    a, b = a.double().flatten(), b.double().flatten()
    error = torch.linalg.vector_norm(b - a)
    size = torch.linalg.vector_norm(a)
    return {
        "relative_error": (error / size).item(),
        "sqnr_db": None if error == 0 else (20 * torch.log10(size / error)).item(),
        "clipped_share": 0 if codes is None else float(np.mean(np.abs(codes) == 448)),
        "cosine": (a @ b / (size * torch.linalg.vector_norm(b))).item(),
    }


def check(row, want):
    for key, value in want.items():
        if value is None:
            assert row[key] is None, (row["name"], key)
        else:
            assert row[key] == pytest.approx(value, rel=1e-9, abs=1e-12), (row["name"], key)


def write_model(directory, tensors):
    shutil.copytree(MODEL, directory)
    save_file(tensors, directory / "model.safetensors", metadata={"format": "pt"})
    return directory


@pytest.mark.parametrize("scheme, more, format_b", [
    ("fp8-channel", [], "fp8_per_channel"),
    ("fp8", [], "fp8_per_tensor"),
    ("fp8-block", [], "fp8_per_block"),
    ("fp8-block", ["--ue8m0"], "fp8_per_block"),
    ("mxfp8", ["--quant-method", "modelopt"], "mxfp8"),
])
def test_fp8_against_its_source(tmp_path, scheme, more, format_b):
    quantize(MODEL, tmp_path / "out", "--scheme", scheme, *more)
    report = compare(MODEL, tmp_path / "out")
    source, reader = load(MODEL), Reader(tmp_path / "out")
    assert {row["name"] for row in report["tensors"]} == source.keys()
    assert report["uncompared"] == []
    quantized = 0
    for row in report["tensors"]:
        name = row["name"]
        codes = reader.tensors[name].astype(np.float32)
        is_codes = reader.scale(name.removesuffix(".weight")) is not None
        value = reader.weight(name.removesuffix(".weight")) if is_codes else codes
        quantized += is_codes
        assert row["shape"] == list(source[name].shape) and row["format_a"] == "BF16"
        assert row["format_b"] == (format_b if is_codes else "BF16")
        assert row["equal"] == (not is_codes)
        check(row, figures(source[name], torch.from_numpy(value.astype(np.float32)),
                           codes if is_codes else None))
    assert quantized == 56 and report["equal"] == len(source) - quantized
    errors = [row["relative_error"] for row in report["tensors"]]
    assert errors == sorted(errors, reverse=True) and errors[0] > 0.01


def test_a_config_beside_config_json(tmp_path):
    """ModelOpt's hf_quant_config.json alone says what codes stand for."""
    quantize(MODEL, tmp_path / "out", "--scheme", "mxfp8", "--quant-method", "modelopt")
    want = compare(MODEL, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    del config["quantization_config"]
    (tmp_path / "out" / "config.json").write_text(json.dumps(config))
    assert compare(MODEL, tmp_path / "out") == want


@pytest.fixture(scope="module")
def large_weights(tmp_path_factory):
    """FP16, of which some are beyond what the upper plane of `nested` holds."""
    tensors = {name: tensor.half() for name, tensor in load(MODEL).items()}
    tensors["model.layers.2.mlp.up_proj.weight"][5, 7] = 100.0
    return write_model(tmp_path_factory.mktemp("large") / "model", tensors)


def test_nested_is_exact(tmp_path, large_weights):
    for scheme, model in ("nested12", MODEL), ("nested", large_weights):
        quantize(model, tmp_path / scheme, "--scheme", scheme)
        report = compare(model, tmp_path / scheme)
        source = load(model)
        assert {row["name"] for row in report["tensors"]} == source.keys()
        assert report["uncompared"] == [] and report["equal"] == len(source)
        for row in report["tensors"]:
            check(row, {"relative_error": 0, "sqnr_db": None, "clipped_share": 0, "cosine": 1})
        assert sum(row["format_b"] == scheme for row in report["tensors"]) >= 56


def test_what_fp8_from_nested_loses(tmp_path, large_weights):
    """Planes as the reference, FP8 against them."""
    quantize(large_weights, tmp_path / "nested", "--scheme", "nested")
    quantize(tmp_path / "nested", tmp_path / "fp8", "--scheme", "fp8-from-nested")
    report = compare(tmp_path / "nested", tmp_path / "fp8")
    source, reader = load(large_weights), Reader(tmp_path / "fp8")
    assert report["tensors"][0]["name"] == "model.layers.2.mlp.up_proj.weight"
    for row in report["tensors"]:
        if row["format_a"] == "nested":
            module = row["name"].removesuffix(".weight")
            value = torch.from_numpy(reader.weight(module).astype(np.float32))
            check(row, figures(source[row["name"]], value,
                               reader.tensors[row["name"]].astype(np.float32)))


def test_a_checkpoint_against_itself():
    report = compare(MODEL, MODEL)
    assert report["equal"] == len(report["tensors"]) == len(load(MODEL))


def test_what_cannot_be_compared_is_listed(tmp_path):
    tensors = load(MODEL)
    up, down = (f"model.layers.0.mlp.{which}_proj.weight" for which in ("up", "down"))
    norm, table = "model.norm.weight", "model.embed_tokens.weight"
    del tensors[up]
    tensors["extra.weight"] = torch.ones(2, 2)
    tensors[down] = tensors[down][:3].contiguous()
    tensors[norm][4] = float("nan")
    tensors[table] = tensors[table].to(torch.int32)
    other = write_model(tmp_path / "other", tensors)
    report = compare(MODEL, other)
    reasons = {row["name"]: row["reason"] for row in report["uncompared"]}
    assert reasons.keys() == {up, down, norm, table, "extra.weight"}
    assert reasons[up] == f"only in {MODEL}" and reasons["extra.weight"] == f"only in {other}"
    assert "shape [" in reasons[down] and "[3, " in reasons[down]
    assert reasons[norm] == f"NaN or infinity in row 0 in {other}"
    assert reasons[table] == f"I32 in {other}"
    assert report["equal"] == len(report["tensors"]) == len(load(MODEL)) - 4
    printed = dualfp("inspect", "--compare", MODEL, other).stdout
    assert printed.count("not compared: ") == 5


def test_zeros(tmp_path):
    zero, name = load(MODEL), "model.layers.0.mlp.up_proj.weight"
    zero[name][:] = 0
    zero = write_model(tmp_path / "zero", zero)
    [row] = [row for row in compare(zero, MODEL)["tensors"] if not row["equal"]]
    assert row["name"] == name and row["cosine"] == 0
    assert row["relative_error"] is None and row["sqnr_db"] is None
    [row] = [row for row in compare(MODEL, zero)["tensors"] if not row["equal"]]
    check(row, {"relative_error": 1, "sqnr_db": 0, "cosine": 0})
    assert compare(zero, zero)["equal"] == len(load(MODEL))


def test_errors(tmp_path):
    refuses(dualfp("inspect", "--compare", tmp_path / "none", MODEL), str(tmp_path / "none"))
    other = write_model(tmp_path / "other", {"x.weight": torch.ones(2, 2)})
    refuses(dualfp("inspect", "--compare", MODEL, other), "no tensor in common", str(other))
    quantize(MODEL, tmp_path / "fp8")
    (tmp_path / "fp8" / "config.json").write_text((MODEL / "config.json").read_text())
    refuses(dualfp("inspect", "--compare", MODEL, tmp_path / "fp8"), "F8_E4M3",
            "quantization_config is absent")


def test_table_and_plot(tmp_path):
    quantize(MODEL, tmp_path / "out")
    rows = compare(MODEL, tmp_path / "out", "--plot", tmp_path / "plot.svg")["tensors"]
    done = dualfp("inspect", "--compare", MODEL, tmp_path / "out", "--threads", 1)
    lines = done.stdout.splitlines()
    assert lines[0].split()[:4] == ["tensor", "from", "to", "error"]
    for row, line in zip(rows, lines[1:]):
        assert line.split()[:3] == [row["name"], row["format_a"], row["format_b"]]
        assert float(line.split()[3]) == pytest.approx(row["relative_error"], rel=1e-3)
    assert lines[-1].endswith(f"{len(rows)} tensors, {len(rows) - 56} of them equal; 0 not compared")
    texts = [text.text for text in ElementTree.parse(tmp_path / "plot.svg").iter()
             if text.tag.endswith("text")]
    drawn = [text for text in texts if text and text.startswith("model.layers.")]
    assert drawn == [row["name"].removesuffix(".weight") for row in rows[:40]]
    assert f"{rows[0]['relative_error']:.3g}" in texts
