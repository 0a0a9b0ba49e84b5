"""Checkpoints as people publish them: what transformers loads with a warning at most, the decoder
loads with the same logits; what would change the result is refused by name."""

import json
import os
import pathlib
import subprocess

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

import tiny_models
from model_oracle_test import assert_close, run

BINARY = os.environ["DUALFP_BINARY"]
TOKENS = tiny_models.random_tokens(80, seed=21)
EMBEDDING = "model.embed_tokens.weight"
HEAD = "lm_head.weight"
QKV = "model.layers.1.self_attn.{}_proj.weight"
SCHEMES = ["auto", "none", "nested", "fp8_per_tensor", "fp8_per_channel", "fp8_per_block", "fp8"]


def edit_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    for key, value in changes.items():
        if value is ...:
            config.pop(key, None)
        else:
            config[key] = value
    path.write_text(json.dumps(config))


def change_tensors(directory, change):
    path = directory / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: t.contiguous() for name, t in tensors.items()}, path, {"format": "pt"})


def oracle(directory, tokens=TOKENS):
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    return tiny_models.logits(model.eval(), tokens)


def same_as_transformers(directory, tmp_path, tokens=TOKENS):
    expected = oracle(directory, tokens)
    (ours,) = run(directory, [tokens], tmp_path)
    assert_close(ours, expected)
    return expected


def inspect(directory, *arguments):
    return subprocess.run([BINARY, "inspect", directory, *arguments], capture_output=True, text=True)


def refuses(directory, *words):
    done = inspect(directory)
    assert done.returncode == 1 and done.stdout == ""
    for word in words:
        assert word in done.stderr, done.stderr


@pytest.fixture
def make(tmp_path):
    def save(name, dtype=torch.float16, **changes):
        return tiny_models.save(tiny_models.build(name, **changes), tmp_path / name, dtype)

    return save


@pytest.mark.parametrize("name", ["llama", "llama_linear", "llama_dynamic", "llama_llama3", "llama_yarn",
                                  "phi3_longrope"])
def test_rope_parameters_that_no_type_has(name, make, tmp_path):
    directory = make(name)
    config = json.loads((directory / "config.json").read_text())
    plain = same_as_transformers(directory, tmp_path)
    more = dict(extrapolation_factor=1.0, attn_factor=2.0, mrope_section=[2, 3, 3], _note="as trained", alpha=None)
    for spelling in ("rope_parameters", "rope_scaling"):
        parameters = dict(config["rope_parameters"], **more)
        edit_config(directory, **{"rope_parameters": ..., spelling: parameters})
        (ours,) = run(directory, [TOKENS], tmp_path)
        assert_close(ours, plain)
    same_as_transformers(directory, tmp_path)
    edit_config(directory, rope_parameters={"full_attention": config["rope_parameters"]}, rope_scaling=...)
    refuses(directory, "full_attention")


@pytest.mark.parametrize("parameters", [
    tiny_models.rope("linear", factor=0.5),
    tiny_models.rope("dynamic", factor=0.25),
    tiny_models.rope("dynamic", factor=1.25),
    tiny_models.rope("yarn", factor=0.5, original_max_position_embeddings=128),
    tiny_models.rope("yarn", factor=4.0, original_max_position_embeddings=128, beta_fast=1.0, beta_slow=8.0),
    tiny_models.rope("llama3", factor=0.5, low_freq_factor=1.0, high_freq_factor=4.0,
                     original_max_position_embeddings=64),
    tiny_models.rope("llama3", factor=8.0, low_freq_factor=4.0, high_freq_factor=1.0,
                     original_max_position_embeddings=64),
    tiny_models.rope("llama3", factor=8.0, low_freq_factor=2.0, high_freq_factor=2.0,
                     original_max_position_embeddings=64),
], ids=lambda p: "-".join(str(v) for v in p.values()))
def test_unusual_rope_values(parameters, make, tmp_path):
    """Of the dynamic type at its context's full length: with a factor below 1 that is the trained 64,
    with 1.25 all 80 tokens, which the rule stretches."""
    dynamic = parameters["rope_type"] == "dynamic"
    directory = make("llama", max_position_embeddings=64 if dynamic else 1024)
    edit_config(directory, rope_parameters=parameters)
    length = int(64 * max(1, parameters["factor"])) if dynamic else len(TOKENS)
    same_as_transformers(directory, tmp_path, TOKENS[:length])
    edit_config(directory, rope_parameters=dict(parameters, factor=0))
    refuses(directory, "factor")


def test_a_tied_table_under_either_name_or_both(make, tmp_path):
    directory = make("llama_tied")
    expected = same_as_transformers(directory, tmp_path)
    for names in ([HEAD], [EMBEDDING, HEAD]):
        def change(tensors):
            table = tensors.pop(EMBEDDING) if EMBEDDING in tensors else tensors.pop(HEAD)
            tensors.update({name: table.clone() for name in names})

        change_tensors(directory, change)
        assert_close(same_as_transformers(directory, tmp_path), expected)
    assert "differ" not in inspect(directory).stderr
    # The same values in another type are the same table.
    change_tensors(directory, lambda tensors: tensors.update({HEAD: tensors[HEAD].float()}))
    assert json.loads(inspect(directory, "--json").stdout)["tie_word_embeddings"]

    change_tensors(directory, lambda tensors: tensors[HEAD][3:40].mul_(-1.5))
    different = same_as_transformers(directory, tmp_path)
    assert abs(different - expected).max() > 0.1
    assert "both are used" in inspect(directory).stderr
    change_tensors(directory, lambda tensors: (tensors.pop(HEAD), tensors.pop(EMBEDDING)))
    refuses(directory, EMBEDDING, "missing")


def test_an_untied_table_must_be_there(make):
    directory = make("llama")
    change_tensors(directory, lambda tensors: tensors.pop(HEAD))
    refuses(directory, HEAD, "missing")


def test_tensors_that_the_model_has_no_place_for(make, tmp_path):
    directory = make("llama")
    expected = same_as_transformers(directory, tmp_path)
    extra = {
        "v_head.summary.weight": torch.randn(1, 64),
        "mtp.layers.0.fc.weight": torch.randn(4, 4),
        "model.layers.3.mlp.up_proj.weight": torch.randn(112, 64),
        "model.layers.0.self_attn.rotary_emb.cos_cached": torch.randn(1, 1, 8, 16),
        "model.layers.0.self_attn.masked_bias": torch.tensor(-1e4),
        "model.layers.0.self_attn.q_proj.bias": torch.randn(64),
        "position_ids": torch.arange(9).reshape(1, 9),
        "complex": torch.zeros(3, dtype=torch.complex64),
        "empty": torch.zeros(0, 5),
        "five": torch.zeros(1, 2, 1, 2, 1),
        "nan": torch.full((2,), float("nan")),
    }
    change_tensors(directory, lambda tensors: tensors.update(extra))
    assert_close(same_as_transformers(directory, tmp_path), expected)
    warnings = [line for line in inspect(directory).stderr.splitlines() if "no place" in line]
    assert len(warnings) == 1 and "6 more" in warnings[0]
    assert sorted(json.loads(inspect(directory, "--json").stdout)["unused_tensors"]) == sorted(
        f"{name} {list(t.shape)}" for name, t in extra.items())


def test_fewer_layers_than_the_file_has(make, tmp_path):
    directory = make("llama")
    edit_config(directory, num_hidden_layers=2)
    same_as_transformers(directory, tmp_path)
    edit_config(directory, num_hidden_layers=4)
    refuses(directory, "model.layers.3.", "missing")


@pytest.mark.parametrize("large", [False, True])
def test_types_mixed_within_a_layer(large, make, tmp_path):
    """Of q, k and v, and of gate and up; with so many weights beyond 1.75 that nothing is nested.
    The norms undo the large columns: queries, keys and logits keep their size, for a saturated
    softmax multiplies what rounding leaves (transformers in float32 is then 6e-5 from itself in
    float64, else 3e-6)."""
    directory = make("qwen2")

    def change(tensors):
        for name, t in tensors.items():
            if large and t.dim() == 2:
                t[:, ::7] *= 8
            elif large and name.endswith("norm.weight"):
                t[::7] /= 8
        for part, dtype in ("q", torch.bfloat16), ("v", torch.float32):
            tensors[QKV.format(part)] = tensors[QKV.format(part)].to(dtype)
        up = "model.layers.0.mlp.up_proj.weight"
        tensors[up] = tensors[up].to(torch.bfloat16)

    change_tensors(directory, change)
    nested = json.loads(inspect(directory, "--quantization", "nested", "--json").stdout)
    assert nested["nested_linear_layers"] == (0 if large else 12)
    expected = same_as_transformers(directory, tmp_path)
    for scheme in SCHEMES:
        (ours,) = run(directory, [TOKENS], tmp_path, quantization=scheme)
        if scheme in ("auto", "none", "nested"):
            assert_close(ours, expected)
        else:
            error = ((ours - expected) ** 2).sum() ** 0.5 / (expected**2).sum() ** 0.5
            assert 0 < error < 0.2, scheme


def test_weights_that_fp16_cannot_hold(make, tmp_path):
    """Too large and too small, where the norm behind them, or the layer's other factor, undoes it."""
    directory = make("llama", torch.bfloat16)

    def change(tensors):
        tensors["model.layers.0.mlp.up_proj.weight"] *= 2.0**30
        tensors["model.layers.0.mlp.down_proj.weight"] *= 2.0**-30
        tensors["model.layers.1.self_attn.v_proj.weight"] *= 2.0**-20
        tensors["model.layers.1.self_attn.o_proj.weight"] *= 2.0**20

    change_tensors(directory, change)
    assert float(load_file(directory / "model.safetensors")["model.layers.0.mlp.up_proj.weight"].abs().max()) > 1e6
    expected = same_as_transformers(directory, tmp_path)
    for scheme in ("auto", "none", "nested12"):
        (ours,) = run(directory, [TOKENS], tmp_path, quantization=scheme)
        assert_close(ours, expected)


def test_doubles(make, tmp_path):
    directory = make("llama")
    expected = same_as_transformers(directory, tmp_path)
    change_tensors(directory, lambda tensors: tensors.update({n: t.double() for n, t in tensors.items()}))
    edit_config(directory, dtype="float64")
    for scheme in ("none", "nested"):
        (ours,) = run(directory, [TOKENS], tmp_path, quantization=scheme)
        assert_close(ours, expected)


@pytest.mark.parametrize("dtype", ["auto", "torch.bfloat16", "bfloat16", "half", "float64", "float8", None])
def test_dtype_spellings(dtype, make, tmp_path):
    directory = make("llama")
    expected = oracle(directory)
    for key in "dtype", "torch_dtype":
        edit_config(directory, **{"dtype": ..., "torch_dtype": ..., key: dtype})
        (ours,) = run(directory, [TOKENS], tmp_path)
        assert_close(ours, expected)


@pytest.mark.parametrize("architectures", [..., None, [], ["LlamaModel"], ["LLaMAForCausalLM"],
                                           ["LlamaForSequenceClassification"]])
def test_architectures(architectures, make, tmp_path):
    directory = make("llama")
    edit_config(directory, architectures=architectures)
    same_as_transformers(directory, tmp_path)
    edit_config(directory, model_type="gpt2")
    refuses(directory, "gpt2" if not isinstance(architectures, list) or not architectures else architectures[0])


def test_a_base_model(make, tmp_path):
    """Saved without a head: its names lack "model.", and a tied head is the embedding."""
    directory = make("llama_tied")
    expected = oracle(directory)
    change_tensors(directory, lambda tensors: [
        tensors.update({name.removeprefix("model."): tensors.pop(name)}) for name in list(tensors)])
    edit_config(directory, architectures=["LlamaModel"])
    assert_close(same_as_transformers(directory, tmp_path), expected)
    edit_config(directory, tie_word_embeddings=False)
    refuses(directory, HEAD, "missing")


class Sharded:
    def __init__(self, directory):
        self.directory = directory
        self.path = directory / "model.safetensors.index.json"
        self.index = json.loads(self.path.read_text())
        self.map = self.index["weight_map"]

    def write(self):
        self.path.write_text(json.dumps(self.index))

    def add(self, shard, tensors):
        held = load_file(self.directory / shard)
        save_file({**held, **tensors}, self.directory / shard, {"format": "pt"})


@pytest.fixture
def sharded(tmp_path):
    model = tiny_models.build("llama")
    directory = tmp_path / "sharded"
    model.half().save_pretrained(directory, max_shard_size="40KB")
    shards = Sharded(directory)
    assert len(set(shards.map.values())) > 3
    return shards


def test_indices_that_lie(sharded, tmp_path):
    expected = oracle(sharded.directory)

    def holds():
        sharded.write()
        (ours,) = run(sharded.directory, [TOKENS], tmp_path)
        assert_close(ours, expected)

    holds()
    first = sharded.map[EMBEDDING]
    sharded.index["metadata"] = {"total_size": 1, "total_parameters": "many"}
    holds()
    sharded.index.pop("metadata")
    holds()
    # Tensors that no file has, in files that are there or not.
    sharded.map["mtp.weight"] = first
    sharded.map["model.layers.9.mlp.up_proj.weight"] = "model-99999-of-99999.safetensors"
    holds()
    warning = inspect(sharded.directory).stderr
    assert "model-99999-of-99999.safetensors" in warning and "nowhere" in warning
    # A tensor that is not listed, and one that is listed for another file.
    del sharded.map["model.norm.weight"]
    sharded.map[QKV.format("q")] = first
    holds()
    # One that two files have is the listed one.
    other = next(shard for shard in set(sharded.map.values()) - {first} if "99999" not in shard)
    sharded.add(other, {EMBEDDING: torch.zeros(96, 64, dtype=torch.float16)})
    holds()
    # A needed file that is missing is named with the tensor.
    lost = sharded.map["model.layers.2.mlp.up_proj.weight"]
    os.remove(sharded.directory / lost)
    refuses(sharded.directory, "missing", lost)


def test_two_readings_of_a_tensor_that_is_not_listed(sharded):
    first, second = sorted(set(sharded.map.values()))[:2]
    for shard in first, second:
        sharded.add(shard, {"model.extra.weight": torch.zeros(2)})
    refuses(sharded.directory, "model.extra.weight", "duplicate")
