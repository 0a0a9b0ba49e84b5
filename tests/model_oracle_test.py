"""The decoder's logits against transformers in float32, on small random models of every
architecture and option, and against itself: cutting a prompt up must not change a bit.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

import tiny_models

TOOL = pathlib.Path(os.environ["DUALFP_BUILD_DIR"]) / "tests" / "model_logits"
LENGTHS = [1, 2, 15, 16, 17, 33, 64, 65, 128, 129, 200, 256, 257, 512, 513]
# Largest difference in units of the logits' standard deviation. The promise is 2e-3; what rounding
# leaves is about 2e-5.
TOLERANCE = 1e-4


def run(model, prompts, workdir, **options):
    """Logits of each prompt: a list of tokens, or of (tokens, steps)."""
    entries = []
    for prompt in prompts:
        tokens, steps = prompt if isinstance(prompt, tuple) else (prompt, [len(prompt)])
        entries.append({"tokens": tokens, "steps": steps})
    request = {"quantization": "none", "kv_cache_dtype": "fp32", "precision": "fp16", "prompts": entries}
    request.update(options)
    (workdir / "request.json").write_text(json.dumps(request))
    out = workdir / "out.safetensors"
    done = subprocess.run(
        [TOOL, model, workdir / "request.json", out], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    tensors = load_file(out)
    return [tensors[str(i)] for i in range(len(prompts))]


def assert_close(ours, theirs):
    difference = np.abs(ours - theirs).max() / theirs.std()
    assert difference <= TOLERANCE, f"{difference:.2e} standard deviations apart"


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """name -> (transformers model, directory), made on first use."""
    made = {}

    def get(name):
        if name not in made:
            model = tiny_models.build(name)
            made[name] = model, tiny_models.save(model, tmp_path_factory.mktemp(name))
        return made[name]

    return get


@pytest.mark.parametrize("name", tiny_models.CONFIGS)
def test_agrees_with_transformers(name, models, tmp_path):
    model, directory = models(name)
    prompts = [tiny_models.random_tokens(length, seed=length) for length in LENGTHS]
    for ours, prompt in zip(run(directory, prompts, tmp_path), prompts):
        assert_close(ours, tiny_models.logits(model, prompt))


OPTIONS = [
    dict(),
    dict(quantization="nested"),
    dict(quantization="nested", precision="fp8"),
    dict(quantization="nested12"),
    dict(kv_cache_dtype="fp16"),
    dict(kv_cache_dtype="fp8"),
]


@pytest.mark.parametrize(
    "name,options",
    [("phi3_window", options) for options in OPTIONS]
    + [(name, {}) for name in ("llama", "phi3_longrope", "qwen3", "llama_dynamic")]
    + [("llama_biases", OPTIONS[2])],
    ids=lambda value: value if isinstance(value, str) else "-".join(value.values()) or "plain",
)
def test_steps_do_not_change_a_bit(name, options, models, tmp_path):
    """Every length 1...513 by decoding, chunks of any size, and sequences in one batch."""
    _, directory = models(name)
    tokens = tiny_models.random_tokens(513)
    other = tiny_models.random_tokens(200, seed=9)
    (whole, other_whole) = run(directory, [tokens, other], tmp_path, threads=1, **options)
    cuts = [
        (tokens, [1] * 513),
        (tokens, [100, 1, 16, 300, 3, 93]),
        (other, [7] * 28 + [4]),
        (other, [1] * 200),
    ]
    for together in (False, True):
        pieces = run(directory, cuts, tmp_path, together=together, threads=3, **options)
        for piece, expected in zip(pieces, [whole, whole, other_whole, other_whole]):
            assert np.array_equal(piece, expected)


@pytest.mark.parametrize("name", ["llama_yarn", "phi3_longrope_partial", "llama_llama3", "qwen2_window_layers"])
def test_both_spellings_of_config_json(name, tmp_path):
    model = tiny_models.build(name)
    directory = tiny_models.save(model, tmp_path / "model")
    tokens = tiny_models.random_tokens(300)
    (new,) = run(directory, [tokens], tmp_path)
    tiny_models.respell(directory)
    (old,) = run(directory, [tokens], tmp_path)
    assert np.array_equal(new, old)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_checkpoint_dtypes(dtype, tmp_path):
    model = tiny_models.build("qwen2")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(dtype).float())
    directory = tiny_models.save(model, tmp_path / "model", dtype)
    tokens = tiny_models.random_tokens(100)
    expected = tiny_models.logits(model, tokens)
    (plain,) = run(directory, [tokens], tmp_path)
    assert_close(plain, expected)
    # bfloat16 weights of this size fit FP16 exactly, those of the model are FP16's anyway.
    (nested,) = run(directory, [tokens], tmp_path, quantization="nested")
    assert_close(nested, expected)
    # By itself, bfloat16 takes 12 bits, which hold it exactly.
    (chosen,) = run(directory, [tokens], tmp_path, quantization="auto")
    assert_close(chosen, expected)


def test_nested_equals_plain_bit_for_bit(models, tmp_path):
    _, directory = models("llama_biases")
    tokens = tiny_models.random_tokens(100)
    (plain,) = run(directory, [tokens], tmp_path)
    (nested,) = run(directory, [tokens], tmp_path, quantization="nested")
    assert np.array_equal(plain, nested)


def test_nested_outliers_are_exact(tmp_path):
    """A few weights beyond 1.75 change nothing in FP16; a great many leave the layer plain."""
    for share in (0.0005, 0.01):
        model = tiny_models.build("llama")
        generator = torch.Generator().manual_seed(5)
        with torch.no_grad():
            weight = model.model.layers[1].mlp.down_proj.weight
            chosen = torch.rand(weight.shape, generator=generator) < share
            weight[chosen] = 3.25
            assert chosen.any()
        directory = tiny_models.save(model, tmp_path / f"model{share}")
        tokens = tiny_models.random_tokens(64)
        (nested,) = run(directory, [tokens], tmp_path, quantization="nested")
        assert_close(nested, tiny_models.logits(model, tokens))


def fp8(x):
    return x.clamp(-448, 448).to(torch.float8_e4m3fn).float()


class NestedFp8Linear(torch.nn.Module):
    """What a nested layer computes at FP8: W8A8 with per-token activation scales."""

    def __init__(self, linear):
        super().__init__()
        self.weight = fp8(linear.weight.detach() * 256) / 256
        self.bias = linear.bias

    def forward(self, x):
        amax = x.abs().amax(-1, keepdim=True)
        scale = torch.where(amax == 0, torch.ones_like(amax), amax / 448)
        return torch.nn.functional.linear(fp8(x / scale) * scale, self.weight, self.bias)


@pytest.mark.parametrize("name", ["llama", "qwen2", "phi3"])
def test_fp8_is_w8a8_per_token(name, tmp_path):
    """Rounding to FP8 turns a last-place difference of its input into a whole step now and then, so
    the comparison is of the whole: the error's norm, beside that of the FP8 model itself.
    """
    model = tiny_models.build(name)
    directory = tiny_models.save(model, tmp_path / "model")
    tokens = tiny_models.random_tokens(128)
    exact = tiny_models.logits(model, tokens)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for key, child in list(block.named_children()):
                if isinstance(child, torch.nn.Linear):
                    setattr(block, key, NestedFp8Linear(child))
    expected = tiny_models.logits(model, tokens)
    (ours,) = run(directory, [tokens], tmp_path, quantization="nested", precision="fp8")
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    effect = np.linalg.norm(exact - expected) / np.linalg.norm(expected)
    assert 0.01 < effect < 0.2
    assert error < effect / 4


def nested12_upper(weight):
    """The upper plane's values and each row's shift, of weights that bfloat16 holds, in integers."""
    largest = weight.double().abs().amax(1, keepdim=True)
    shift = torch.floor(torch.log2(1.75 / largest))
    v = (weight.double() * 2**shift).float()
    pattern = v.abs().bfloat16().view(torch.int16).int()
    linear = (v.abs().double() * 2**21).round().int()
    code = torch.where(v.abs() >= 2.0**-14, pattern - 0x3800, linear)
    bias = 8 - torch.arange(weight.shape[1]) % 2
    upper = ((code + bias) // 16).to(torch.uint8).view(torch.float8_e4m3fn).double()
    return (upper * v.sign() * 2**-8 * 2**-shift).float()


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_nested12_at_fp8_multiplies_the_upper_plane(name, tmp_path):
    model = tiny_models.build(name)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16().float())
    directory = tiny_models.save(model, tmp_path / "model", torch.bfloat16)
    tokens = tiny_models.random_tokens(128)
    exact = tiny_models.logits(model, tokens)
    for layer in model.model.layers:
        for block in (layer.self_attn, layer.mlp):
            for key, child in list(block.named_children()):
                if isinstance(child, torch.nn.Linear):
                    replacement = NestedFp8Linear(child)
                    replacement.weight = nested12_upper(child.weight.detach())
                    setattr(block, key, replacement)
    expected = tiny_models.logits(model, tokens)
    (ours,) = run(directory, [tokens], tmp_path, quantization="auto", precision="fp8")
    error = np.linalg.norm(ours - expected) / np.linalg.norm(expected)
    effect = np.linalg.norm(exact - expected) / np.linalg.norm(expected)
    assert 0.01 < effect < 0.2
    assert error < effect / 4


@pytest.mark.parametrize("dtype,bound", [("fp16", 2e-3), ("fp8", 0.2)])
def test_cache_dtypes_cost_little(dtype, bound, models, tmp_path):
    model, directory = models("llama")
    tokens = tiny_models.random_tokens(200)
    (ours,) = run(directory, [tokens], tmp_path, kv_cache_dtype=dtype)
    theirs = tiny_models.logits(model, tokens)
    relative = np.linalg.norm(ours - theirs) / np.linalg.norm(theirs)
    assert 0 < relative < bound
