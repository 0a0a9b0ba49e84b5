"""dualfp eval against transformers in float32 on the bundled model, and what it prints and refuses."""

import json
import os
import pathlib
import subprocess
import xml.etree.ElementTree

import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file

DUALFP = os.environ["DUALFP_BINARY"]
MODEL = pathlib.Path(os.environ["DUALFP_SOURCE_DIR"]) / "models" / "reference"
TEXT = MODEL / "held_out.txt"
TOKENS = 3000
CONTEXT = 512
STRIDE = 256


def dualfp_eval(*arguments, model=MODEL):
    return subprocess.run(
        [DUALFP, "eval", model, *map(str, arguments)], capture_output=True, text=True, timeout=300
    )


def evaluate(*arguments, **keywords):
    done = dualfp_eval(*arguments, "--json", **keywords)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def oracle():
    """Each scored token's loss, and the scored text's bytes."""
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    ids = tokenizer(TEXT.read_text()[:30000]).input_ids[:TOKENS]
    losses, scored = [], 1
    for start in range(0, len(ids), STRIDE):
        window = torch.tensor(ids[start : start + CONTEXT])
        end = start + len(window)
        if end <= scored:
            break
        with torch.no_grad():
            log_p = model(window[None]).logits[0].double().log_softmax(-1)
        wanted = torch.arange(scored, end) - start
        losses.append(-log_p[wanted - 1, window[wanted]])
        scored = end
    size = len(tokenizer.decode(ids[1:]).encode())
    return torch.cat(losses).numpy(), size


@pytest.fixture(scope="module")
def flags():
    return "--text", TEXT, "--max-tokens", TOKENS, "--context", CONTEXT, "--stride", STRIDE


@pytest.mark.parametrize("quantization", ["none", "nested"])
def test_perplexity_is_that_of_transformers(quantization, oracle, flags):
    losses, size = oracle
    ours = evaluate(*flags, "--quantization", quantization)
    assert ours["scored_tokens"] == len(losses) == TOKENS - 1
    assert ours["perplexity"]["value"] == pytest.approx(np.exp(losses.mean()), rel=2e-5)
    # A character that a window's end cuts in two is counted as a replacement character.
    assert ours["scored_bytes"] == pytest.approx(size, abs=20)
    expected = losses.sum() / np.log(2) / ours["scored_bytes"]
    assert ours["bits_per_byte"]["value"] == pytest.approx(expected, rel=2e-5)
    assert ours["perplexity"]["low"] < ours["perplexity"]["value"] < ours["perplexity"]["high"]


def test_divergence_is_that_of_its_definition(tmp_path):
    """KL from logits that dualfp generate saves at both precisions, over the first window."""
    ids = transformers.AutoTokenizer.from_pretrained(MODEL)(TEXT.read_text()[:10000]).input_ids[:200]
    log_p = {}
    for precision in "exact", "fp8":
        path = tmp_path / f"{precision}.safetensors"
        command = [DUALFP, "generate", MODEL, "--prompt-token-ids", ",".join(map(str, ids)), "-n", "0",
                   "--precision", precision, "--save-logits", path]
        subprocess.run(command, check=True, capture_output=True)
        logits = torch.from_numpy(load_file(path)["logits"]).double()
        log_p[precision] = logits.log_softmax(-1)[:-1].numpy()
    kl = (np.exp(log_p["exact"]) * (log_p["exact"] - log_p["fp8"])).sum(-1)
    same = log_p["exact"].argmax(-1) == log_p["fp8"].argmax(-1)
    ours = evaluate("--text", TEXT, "--max-tokens", 200, "--precision", "fp8", "--against", "exact")
    assert ours["mean_kl"]["value"] == pytest.approx(kl.mean(), rel=1e-9)
    assert ours["kl_99"]["value"] == pytest.approx(
        np.quantile(kl, 0.99, method="inverted_cdf"), rel=1e-9
    )
    assert ours["top1_agreement"]["value"] == pytest.approx(same.mean())
    losses = {k: -v[np.arange(199), ids[1:]] for k, v in log_p.items()}
    change = np.exp(losses["fp8"].mean() - losses["exact"].mean()) - 1
    assert ours["perplexity_change"]["value"] == pytest.approx(change, rel=1e-6)


def test_a_precision_against_itself_is_the_same(flags):
    ours = evaluate(*flags, "--precision", "fp16", "--against", "exact")
    assert ours["mean_kl"] == {"value": 0, "low": 0, "high": 0}
    assert ours["kl_99"]["high"] == 0
    assert ours["top1_agreement"]["value"] == 1
    assert ours["perplexity"] == ours["against"]["perplexity"]


@pytest.mark.parametrize("quantization", ["nested", "fp8-tensor", "fp8-channel", "fp8-block"])
def test_formats_and_activation_schemes(quantization):
    """Each is near FP16 and not equal to it, and leaving activations alone is better."""
    kl = {}
    for scheme in "dynamic", "static", "none":
        extra = []
        if scheme == "static":
            extra = ["--calibration-text", TEXT, "--calibration-tokens", 2000]
        ours = evaluate("--text", TEXT, "--max-tokens", 600, "--quantization", quantization,
                        "--precision", "fp8", "--against", "exact", "--activations", scheme, *extra)
        assert ours["fp8_linear_layers"] == ours["linear_layers"] == 32
        kl[scheme] = ours["mean_kl"]["value"]
        assert 1e-5 < kl[scheme] < 0.05
    assert kl["none"] < kl["dynamic"]
    assert len(set(kl.values())) == 3


def test_per_layer_table_and_plot(tmp_path):
    svg = tmp_path / "layers.svg"
    ours = evaluate("--text", TEXT, "--max-tokens", 300, "--per-layer", "--svg", svg)
    names = [row["name"] for row in ours["per_layer"]]
    assert names == [f"layer {i}" for i in range(8)] + ["all qkv", "all o", "all gate_up", "all down"]
    for row in ours["per_layer"]:
        assert 0 < row["mean_kl"]["value"] < ours["mean_kl"]["value"]
        assert row["mean_kl"]["low"] <= row["mean_kl"]["value"] <= row["mean_kl"]["high"]
    texts = [e.text for e in xml.etree.ElementTree.parse(svg).getroot().iter() if e.tag.endswith("text")]
    assert all(name in texts for name in names)

    table = dualfp_eval("--text", TEXT, "--max-tokens", "300", "--per-layer")
    assert table.returncode == 0
    lines = table.stdout.splitlines()
    assert "fp8 alone" in table.stdout and any(line.startswith("layer 7 ") for line in lines)


@pytest.mark.parametrize("arguments, message", [
    (["--text", "missing.txt"], "missing.txt"),
    (["--text", TEXT, "--context", "4096"], "--context 4096"),
    (["--text", TEXT, "--context", "8", "--stride", "9"], "advance by 9"),
    (["--text", TEXT, "--quantization", "none", "--precision", "fp8"], "--quantization nested"),
    (["--text", TEXT, "--precision", "fp8", "--activations", "static"], "--calibration-text"),
    (["--text", TEXT, "--quantization", "fp8-tensor", "--per-layer", "--max-tokens", "50"], "--per-layer"),
    (["--text", TEXT, "--svg", "plot.svg"], "--per-layer"),
    (["--text", os.devnull], "regular file"),
], ids=lambda value: value if isinstance(value, str) else None)
def test_refuses(arguments, message):
    done = dualfp_eval(*arguments)
    assert done.returncode != 0
    assert message in done.stderr
    assert "Traceback" not in done.stderr and not done.stdout
