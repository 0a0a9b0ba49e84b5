"""Static scales: what transformers sees as inputs, keys and values over the same tokens."""

import json
import re
import shutil

import ml_dtypes
import numpy as np
import pytest
import torch
from producers import load
from running import MODEL, dualfp, quantize, refuses
from transformers import AutoModelForCausalLM, AutoTokenizer

LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SENTENCES = [
    "In the beginning the river ran between two hills.",
    "She counted the stars twice, and both times there was one more than before; nobody knew why.",
    "No.",
]
CONVERSATIONS = [
    [{"role": "user", "content": "Who are you?"}, {"role": "assistant", "content": "A machine."}],
    [{"role": "user", "content": "Why is the sky blue, and not green, at noon?"}],
]


class Seen:
    """Every input of every linear layer, keys after RoPE and values."""

    def __init__(self, samples):
        model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32).eval()
        self.inputs, self.keys, self.values = {}, {}, {}
        for name, module in model.named_modules():
            if name.split(".")[-1] in LINEARS:
                module.register_forward_pre_hook(self.hook(name))
        with torch.no_grad():
            for tokens in samples:
                cache = model(torch.tensor([tokens]), use_cache=True).past_key_values
                for layer, state in enumerate(cache.layers):
                    self.keys.setdefault(layer, []).append(state.keys.flatten().numpy())
                    self.values.setdefault(layer, []).append(state.values.flatten().numpy())
        for kind in (self.inputs, self.keys, self.values):
            for name in kind:
                kind[name] = np.abs(np.concatenate(kind[name]))

    def hook(self, name):
        def observe(_, arguments):
            self.inputs.setdefault(name, []).append(arguments[0].flatten().numpy().copy())

        return observe


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    """A text file, and its tokens in pieces of 32."""
    path = tmp_path_factory.mktemp("text") / "calibration.txt"
    path.write_text(" ".join(SENTENCES) + "\n")
    tokens = AutoTokenizer.from_pretrained(MODEL)(path.read_text()).input_ids
    return path, [tokens[i : i + 32] for i in range(0, len(tokens), 32)]


@pytest.fixture(scope="module")
def seen(text):
    return Seen(text[1])


def static(out, *arguments):
    printed = quantize(MODEL, out, "--scheme", "fp8-static", *arguments)
    return load(out), printed


def check_largest(tensors, seen, suffix=".input_scale"):
    checked = 0
    for name, values in seen.inputs.items():
        scale = tensors[name + suffix]
        assert scale.dtype == torch.float32 and scale.shape == ()
        assert scale.item() == pytest.approx(values.max() / 448, rel=2e-3), name
        checked += 1
    assert checked == 56


def test_largest_inputs_keys_and_values(text, seen, tmp_path):
    tensors, printed = static(tmp_path / "out", "--calibration", text[0], "--calibration-length",
                              32, "--kv-cache", "fp8")
    check_largest(tensors, seen)
    for layer in range(8):
        for which, values in (("k", seen.keys[layer]), ("v", seen.values[layer])):
            scale = tensors[f"model.layers.{layer}.self_attn.{which}_scale"]
            assert scale.dtype == torch.float32 and scale.shape == ()
            assert scale.item() == pytest.approx(values.max() / 448, rel=2e-3)
    assert len(re.findall(r"0\.0000 %", printed)) == 8 * (4 + 2)
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    assert config["quant_method"] == "fp8" and config["activation_scheme"] == "static"
    assert config["ignored_layers"] == ["lm_head"] and config["kv_cache_scheme"] == "static"


@pytest.mark.parametrize("method, k_scale, shape, dtype", [
    ("compressed-tensors", "self_attn.k_scale", (1,), torch.bfloat16),
    ("modelopt", "self_attn.k_proj.k_scale", (), torch.float32),
])
def test_spellings_of_static_scales(text, seen, tmp_path, method, k_scale, shape, dtype):
    tensors, _ = static(tmp_path / "out", "--calibration", text[0], "--calibration-length", 32,
                        "--kv-cache", "fp8", "--quant-method", method)
    for name in (f"model.layers.5.{k_scale}", "model.layers.5.mlp.down_proj.input_scale"):
        assert tensors[name].shape == shape and tensors[name].dtype == dtype, name
    got = tensors[f"model.layers.5.{k_scale}"].float().item()
    assert got == pytest.approx(seen.keys[5].max() / 448, rel=5e-3)
    assert (tmp_path / "out" / "hf_quant_config.json").exists() == (method == "modelopt")


def test_percentiles(text, seen, tmp_path):
    tensors, _ = static(tmp_path / "out", "--calibration", text[0], "--calibration-length", 32,
                        "--observer", "percentile", "--percentile", 0.99)
    lower = 0
    for name, values in seen.inputs.items():
        scale = tensors[name + ".input_scale"].item()
        beyond = (values > 448 * scale * 1.001).mean()
        # A bin of the histogram is 1/128 wide.
        assert beyond <= 0.01 and (values > 448 * scale / 1.01).mean() >= 0.0099, name
        lower += scale < 0.9 * values.max() / 448
    assert lower > 28


def test_least_squared_error(text, seen, tmp_path):
    tensors, _ = static(tmp_path / "out", "--calibration", text[0], "--calibration-length", 32,
                        "--observer", "mse")

    def error(values, scale):
        scaled = np.minimum(values / scale, 448).astype(ml_dtypes.float8_e4m3fn)
        return ((scaled.astype(np.float64) * scale - values) ** 2).sum()

    for name, values in seen.inputs.items():
        largest = values.max() / 448
        scale = tensors[name + ".input_scale"].item()
        best = min(error(values, largest * 2 ** (-i / 8)) for i in range(32))
        assert error(values, scale) <= 1.03 * best, name


def test_samples_of_json_lines_are_not_padded(tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(MODEL)
    path = tmp_path / "calibration.jsonl"
    lines = [{"text": text} for text in SENTENCES] + [{"messages": m} for m in CONVERSATIONS]
    path.write_text("\n".join(map(json.dumps, lines)) + "\n\n")
    samples = [tokenizer(text).input_ids for text in SENTENCES]
    for messages in CONVERSATIONS:
        rendered = tokenizer.apply_chat_template(messages, tokenize=False)
        samples.append(tokenizer(rendered, add_special_tokens=False).input_ids)
    tensors, printed = static(tmp_path / "out", "--calibration", path)
    check_largest(tensors, Seen(samples))
    assert f"{len(samples)} samples, {sum(map(len, samples))} tokens" in printed
    _, printed = static(tmp_path / "few", "--calibration", path, "--calibration-samples", 2,
                        "--calibration-length", 5)
    assert "2 samples, 10 tokens" in printed


def test_data_that_is_none(tmp_path):
    def run(name, content, *texts, model=MODEL):
        (tmp_path / name).write_text(content)
        refuses(dualfp("quantize", model, tmp_path / "out", "--scheme", "fp8-static",
                       "--calibration", tmp_path / name), name, *texts)

    run("empty.jsonl", "\n \n", "no tokens")
    run("broken.jsonl", '{"text": "a"}\n{"text": \n', "line 2")
    run("other.jsonl", '{"prompt": "a"}\n', "line 1", "text")
    refuses(dualfp("quantize", MODEL, tmp_path / "out", "--scheme", "fp8-static", "--calibration",
                   tmp_path / "absent.txt"), "absent.txt")
    plain = shutil.copytree(MODEL, tmp_path / "plain")
    config = json.loads((plain / "tokenizer_config.json").read_text())
    if config.pop("chat_template", None) is not None:
        (plain / "tokenizer_config.json").write_text(json.dumps(config))
        run("chat.jsonl", json.dumps({"messages": CONVERSATIONS[0]}), "no chat template",
            model=plain)
    assert not (tmp_path / "out").exists()
