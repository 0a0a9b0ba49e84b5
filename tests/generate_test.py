"""dualfp generate and inspect as a user sees them: what they print, write and refuse."""

import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import tokenizers
import torch
from safetensors.numpy import load_file
from safetensors.torch import load_file as load_torch
from safetensors.torch import save_file as save_torch

import tiny_models

DUALFP = os.environ["DUALFP_BINARY"]
PROMPT = "the quick brown fox"


def dualfp(*arguments, cwd=None):
    return subprocess.run(
        [DUALFP, *map(str, arguments)], capture_output=True, text=True, cwd=cwd, timeout=120
    )


def generate(model, *arguments, **keywords):
    return dualfp("generate", model, *arguments, **keywords)


def make_tokenizer(directory, vocab_size):
    """A byte-level BPE with <s> and </s>, of at most vocab_size tokens."""
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE())
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([PROMPT + " jumps over the lazy dog"] * 4, trainer)
    tokenizer.save(str(directory / "tokenizer.json"))
    return tokenizer


@pytest.fixture(scope="module")
def model():
    return tiny_models.build("llama", vocab_size=320)


@pytest.fixture(scope="module")
def directory(model, tmp_path_factory):
    path = tiny_models.save(model, tmp_path_factory.mktemp("llama"))
    make_tokenizer(path, 300)
    return path


@pytest.fixture(scope="module")
def drawable(directory):
    """The ids below it have a text; those beyond are never drawn."""
    count = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json")).get_vocab_size()
    assert count < 320
    return count


@pytest.fixture
def copy(directory, tmp_path):
    """A checkpoint to break."""
    return pathlib.Path(shutil.copytree(directory, tmp_path / "model"))


def greedy(model, prompt, count, drawable):
    tokens = list(prompt)
    for _ in range(count):
        tokens.append(int(tiny_models.logits(model, tokens)[-1, :drawable].argmax()))
    return tokens[len(prompt) :]


def test_greedy_text_is_that_of_transformers(model, directory, drawable):
    tokenizer = tokenizers.Tokenizer.from_file(str(directory / "tokenizer.json"))
    prompt = tokenizer.encode(PROMPT).ids
    expected = greedy(model, prompt, 20, drawable)
    done = generate(directory, "--prompt", PROMPT, "-n", 20, "--ignore-eos", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["prompt_token_ids"] == prompt
    assert result["token_ids"] == expected
    assert result["text"] == tokenizer.decode(expected)
    assert result["finish_reason"] == "length"
    streamed = generate(directory, "--prompt", PROMPT, "-n", 20, "--ignore-eos")
    assert streamed.stdout == result["text"] + "\n"
    assert generate(directory, "--prompt-token-ids", ",".join(map(str, prompt)), "-n", 20,
                    "--ignore-eos").stdout == streamed.stdout


def test_stops_at_the_end_token(model, directory, drawable, tmp_path):
    prompt = [5, 6, 7]
    tokens = greedy(model, prompt, 8, drawable)
    path = pathlib.Path(shutil.copytree(directory, tmp_path / "model"))
    (path / "generation_config.json").write_text(json.dumps({"eos_token_id": [319, tokens[4]]}))
    result = json.loads(generate(path, "--prompt-token-ids", "5,6,7", "--json").stdout)
    assert result["token_ids"] == tokens[: tokens.index(tokens[4])]
    assert result["finish_reason"] == "stop"


def test_saved_logits_are_those_of_transformers(model, directory, tmp_path):
    tokens = tiny_models.random_tokens(150, vocabulary=320)
    out = tmp_path / "logits.safetensors"
    ids = ",".join(map(str, tokens))
    done = generate(directory, "--prompt-token-ids", ids, "--max-tokens", 0, "--save-logits", out)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ""
    ours = load_file(out)["logits"]
    theirs = tiny_models.logits(model, tokens)
    assert ours.shape == theirs.shape and ours.dtype == np.float32
    assert np.abs(ours - theirs).max() <= 2e-3 * theirs.std()


def test_switching_changes_only_what_follows(directory):
    def tokens(*arguments):
        done = generate(directory, "--prompt-token-ids", "9,8,7,6", "-n", 40, "--ignore-eos",
                        "--json", *arguments)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    plain = tokens()
    switched = tokens("--switch-at", 15)
    assert switched["token_ids"][:15] == plain["token_ids"][:15]
    assert switched["precision"]["exact"]["decode_tokens"] == 14
    assert switched["precision"]["fp8"]["decode_tokens"] == 25
    assert switched["precision"]["exact"]["prefill_tokens"] == 4
    back = tokens("--precision", "fp8", "--switch-at", 39)
    assert back["precision"]["fp8"]["decode_tokens"] == 38
    assert back["precision"]["exact"]["decode_tokens"] == 1
    bytes_read = {name: p["weight_bytes_per_token"] for name, p in plain["precision"].items()}
    head = 320 * 64 * 2
    assert bytes_read["exact"] - head == 2 * (bytes_read["fp8"] - head)


def test_timing_lines_and_comparison(directory):
    done = generate(directory, "--prompt", PROMPT, "-n", 12, "--switch-at", 6, "--ignore-eos",
                    "--compare")
    lines = done.stderr.splitlines()
    assert [line.split(":")[0] for line in lines[1:3]] == ["exact", "fp8"]
    for line in lines[1:3]:
        assert "tokens/s" in line and "of weights a token" in line and "GB/s" in line
    assert lines[0].startswith("Loaded ") and "12 of 12 linear layers nested" in lines[0]
    assert lines[3].startswith("fp8 against exact over ")


def test_comparison_is_computed_from_the_logits(directory, tmp_path):
    ids = ",".join(map(str, tiny_models.random_tokens(100, vocabulary=320)))
    logits = {}
    for precision in ("exact", "fp8"):
        out = tmp_path / precision
        done = generate(directory, "--prompt-token-ids", ids, "-n", 0, "--precision", precision,
                        "--save-logits", out, "--compare", "--json")
        logits[precision] = load_file(out)["logits"].astype(np.float64)
    result = json.loads(done.stdout)["comparison"]
    log_p, log_q = (x - np.log(np.exp(x).sum(-1, keepdims=True)) for x in logits.values())
    kl = (np.exp(log_p) * (log_p - log_q)).sum(-1)
    assert result["tokens"] == 100
    assert result["mean_kl"] == pytest.approx(kl.mean(), rel=1e-6)
    assert result["largest_kl"] == pytest.approx(kl.max(), rel=1e-6)
    difference = np.abs(logits["exact"] - logits["fp8"]).max()
    assert result["largest_difference"] == pytest.approx(difference, rel=1e-6)
    assert difference > 0
    same = logits["exact"].argmax(-1) == logits["fp8"].argmax(-1)
    assert result["top1_agreement"] == pytest.approx(same.mean())
    assert result["logit_standard_deviation"] == pytest.approx(logits["exact"].std(), rel=1e-5)


def test_sampling_follows_its_seed_and_distribution(model, directory, drawable):
    def sample(*arguments):
        return json.loads(generate(directory, "--prompt-token-ids", "3,4", "--json",
                                   "--ignore-eos", *arguments).stdout)["token_ids"]

    a = sample("--temperature", 0.8, "--seed", 1, "-n", 30)
    assert a == sample("--temperature", 0.8, "--seed", 1, "-n", 30)
    assert a != sample("--temperature", 0.8, "--seed", 2, "-n", 30)
    greedy_tokens = sample("-n", 30)
    assert sample("--temperature", 0.8, "--top-p", 1e-6, "-n", 30) == greedy_tokens
    # Draws of one token: the frequency of the likeliest is its probability.
    logits = tiny_models.logits(model, [3, 4])[-1, :drawable]
    probability = torch.softmax(torch.tensor(logits) / 0.3, 0)
    draws = [sample("--temperature", 0.3, "--seed", seed, "-n", 1)[0] for seed in range(60)]
    expected = float(probability.max())
    hits = draws.count(int(probability.argmax()))
    assert abs(hits - 60 * expected) <= 4 * (60 * expected * (1 - expected)) ** 0.5 + 1


def test_dummy_weights_need_only_a_config(copy):
    (copy / "model.safetensors").unlink()
    arguments = ["--prompt-token-ids", "1,2,3", "-n", 5, "--load-format", "dummy", "--json",
                 "--ignore-eos"]
    first, second = (json.loads(generate(copy, *arguments, *more).stdout)["token_ids"]
                     for more in ([], ["--threads", 1]))
    assert len(first) == 5 and first == second


def test_kv_cache_dtypes_and_lm_head(directory):
    outputs = set()
    for more in (["--kv-cache-dtype", "fp16"], ["--kv-cache-dtype", "fp8"],
                 ["--precision", "fp8", "--quantize-lm-head"], ["--precision", "fp8", "--weight-only"]):
        done = generate(directory, "--prompt", PROMPT, "-n", 20, "--ignore-eos", *more)
        assert done.returncode == 0, done.stderr
        outputs.add(done.stdout)
    assert len(outputs) >= 2
    exact = [json.loads(generate(directory, "--prompt", PROMPT, "-n", 20, "--json", *more).stdout)
             for more in ([], ["--quantize-lm-head"], ["--quantization", "none"])]
    assert exact[0]["token_ids"] == exact[1]["token_ids"] == exact[2]["token_ids"]


def test_prompt_file_and_context(directory, tmp_path):
    path = tmp_path / "prompt.txt"
    path.write_text(PROMPT)
    by_file = generate(directory, "--prompt-file", path, "-n", 5)
    assert by_file.stdout == generate(directory, "--prompt", PROMPT, "-n", 5).stdout
    # Generation ends where the context does.
    done = generate(directory, "--prompt-token-ids", "3,4,5", "--max-model-len", 10, "--json",
                    "--ignore-eos")
    assert len(json.loads(done.stdout)["token_ids"]) == 7


def test_chat_applies_the_template(copy):
    template = "{% for m in messages %}<s>{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}bot:{% endif %}"
    (copy / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    tokenizer = tokenizers.Tokenizer.from_file(str(copy / "tokenizer.json"))
    done = generate(copy, "--prompt", "the dog", "--chat", "-n", 4, "--json")
    assert done.returncode == 0, done.stderr
    expected = tokenizer.encode("<s>user: the dog</s>bot:", add_special_tokens=False).ids
    assert json.loads(done.stdout)["prompt_token_ids"] == expected
    (copy / "tokenizer_config.json").write_text("{}")
    refuses(generate(copy, "--prompt", "the dog", "--chat"), "no chat template")
    (copy / "tokenizer_config.json").write_text(
        json.dumps({"chat_template": "{{ raise_exception('only poems') }}"})
    )
    refuses(generate(copy, "--prompt", "the dog", "--chat"), "only poems")


# --- inspect ---


def inspect(model, *arguments):
    done = dualfp("inspect", model, "--json", *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_inspect(directory):
    report = inspect(directory)
    tensors = load_torch(directory / "model.safetensors")
    matrices = {name: t for name, t in tensors.items() if t.dim() == 2}
    assert report["parameters"] == sum(t.numel() for t in matrices.values())
    assert report["linear_layers"] == report["nested_linear_layers"] == 12
    assert {name for linear in report["linears"] for name in linear["tensors"]} == set(matrices)
    for linear in report["linears"]:
        parts = [matrices[name] for name in linear["tensors"]]
        assert linear["shape"] == [sum(p.shape[0] for p in parts), parts[0].shape[1]]
        assert linear["bytes"] == sum(p.numel() for p in parts) * 2
        assert linear["format"] == ("nested" if "layers" in linear["name"] else "plain")
    table = dualfp("inspect", directory).stdout
    assert "model.layers.2.mlp.gate_up_proj" in table
    assert "eligible for fp8: 12 of 12 linear layers" in table


def change_tensors(directory, change):
    path = directory / "model.safetensors"
    tensors = load_torch(path)
    change(tensors)
    save_torch(tensors, path, metadata={"format": "pt"})


UP = "model.layers.1.mlp.up_proj.weight"
DOWN = "model.layers.2.mlp.down_proj.weight"


def test_inspect_counts_outliers_and_exceptions(copy):
    def change(tensors):
        tensors[DOWN][3, 5] = 2.5
        tensors[DOWN][4, 6] = -60000.0
        tensors[DOWN][5, 7] = 1.75
        tensors[UP][:4, :4] = 2.0

    change_tensors(copy, change)
    report = inspect(copy)
    linears = {linear["name"]: linear for linear in report["linears"]}
    down = linears["model.layers.2.mlp.down_proj"]
    assert (down["format"], down["outliers"]) == ("nested", 2)
    assert down["bytes"] == 64 * 112 * 2 + 2 * 12
    gate_up = linears["model.layers.1.mlp.gate_up_proj"]
    assert (gate_up["format"], gate_up["dtype"]) == ("plain", "F16")
    assert gate_up["exception"].startswith("16 of 14336 weights exceed 1.75")
    assert gate_up["outliers"] == 0
    assert report["outliers"] == 2
    assert report["nested_linear_layers"] == 11
    assert "exception: 16 of 14336" in dualfp("inspect", copy).stdout
    done = generate(copy, "--prompt", PROMPT, "-n", 3, "--precision", "fp8")
    assert done.returncode == 0
    assert "warning: 1 of 12 linear layers stay plain" in done.stderr


def test_inspect_counts_rounded_weights(copy):
    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].bfloat16()
        tensors[DOWN][0, :3] = torch.tensor([2.0**-17 * 1.5, 2.0**-24 * 1.5, 2.0**-30])

    change_tensors(copy, change)
    values = load_torch(copy / "model.safetensors")
    report = inspect(copy, "--quantization", "nested")
    linears = {linear["name"]: linear for linear in report["linears"]}
    weight = values[DOWN].float()
    error = (weight.half().float() - weight).abs() / weight.abs().clamp(min=1e-45)
    down = linears["model.layers.2.mlp.down_proj"]
    assert down["rounded"] == int((weight.half().float() != weight).sum()) >= 2
    assert down["largest_relative_rounding"] == pytest.approx(float(error.max()))


def remainders(weight):
    """Weights that 12-bit planes do not hold, by the format's definition in double."""
    w = weight.double()
    largest = w.abs().amax(1, keepdim=True)
    shift = torch.floor(torch.log2(1.75 / largest))
    assert ((largest * 2**shift <= 1.75) & (largest * 2**shift > 0.875)).all()
    v = w * 2**shift
    return (v.abs() < 2**-14) & ((v * 2**21).round() != v * 2**21)


def test_inspect_bf16_in_12_bits(copy):
    def change(tensors):
        for name in tensors:
            tensors[name] = tensors[name].bfloat16()
        tensors[DOWN][0, :3] = torch.tensor([2.0**-22 * 1.5, -(2.0**-30), 0.0])
        tensors[UP][:8, :20] = 2.0**-30

    change_tensors(copy, change)
    report = inspect(copy)
    values = load_torch(copy / "model.safetensors")
    total = 0
    for linear in report["linears"]:
        table = linear["name"] == "model.embed_tokens"
        left = sum(int(remainders(values[name]).sum()) for name in linear["tensors"])
        n, k = linear["shape"]
        if linear["name"] == "model.layers.1.mlp.gate_up_proj":
            assert left >= 160
            assert linear["exception"].startswith(f"{left} of {n * k} weights leave a remainder")
        else:
            assert not linear["exception"]
        plain = table or bool(linear["exception"])
        assert linear["format"] == ("plain" if plain else "nested12")
        assert linear["rounded"] == linear["outliers"] == 0
        if plain:
            assert linear["remainders"] == 0
            assert linear["bytes"] == n * k * 2
        else:
            assert linear["remainders"] == left
            assert linear["bytes"] == n * k + n * ((k + 1) // 2) + n + 12 * left
            total += left
    assert report["remainders"] == total > 0
    assert report["outliers"] == 0
    bits = 8 * sum(linear["bytes"] for linear in report["linears"]) / report["parameters"]
    assert report["bits_per_weight"] == pytest.approx(bits)
    assert report["nested_linear_layers"] == 11
    ids = ",".join(map(str, tiny_models.random_tokens(60, vocabulary=320)))
    texts = [generate(copy, "--prompt-token-ids", ids, "-n", 20, "--json", *more).stdout
             for more in ([], ["--quantization", "none"])]
    assert json.loads(texts[0])["token_ids"] == json.loads(texts[1])["token_ids"]


# --- bad input ---


def refuses(done, *texts, code=1, warnings=0):
    """One line says why, after so many warnings."""
    assert done.returncode == code, done
    assert done.stdout == ""
    *before, error = done.stderr.splitlines()
    assert len(before) == warnings and all(line.startswith("warning: ") for line in before), done.stderr
    assert error.startswith("dualfp: error: ")
    for text in texts:
        assert text in error


def edit_config(directory, **changes):
    path = directory / "config.json"
    config = json.loads(path.read_text())
    config.update(changes)
    path.write_text(json.dumps(config))


def test_no_model(tmp_path):
    refuses(generate(tmp_path / "nowhere", "--prompt", "x"), "nowhere")
    refuses(generate(tmp_path, "--prompt", "x"), "config.json")
    refuses(dualfp("inspect", tmp_path), "config.json")
    (tmp_path / "file").write_text("x")
    refuses(generate(tmp_path / "file", "--prompt", "x"), "file")


def test_unsupported_architecture(copy):
    edit_config(copy, architectures=["GPT2LMHeadModel"], model_type="gpt2")
    refuses(generate(copy, "--prompt", "x"), "GPT2LMHeadModel")


def test_unsupported_rope_type(copy):
    edit_config(copy, rope_parameters={"rope_type": "spiral", "rope_theta": 1e4})
    refuses(generate(copy, "--prompt", "x"), "spiral")


def test_quantized_checkpoint(copy):
    edit_config(copy, quantization_config={"quant_method": "gptq", "bits": 4})
    refuses(generate(copy, "--prompt", "x"), "gptq")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("name", [DOWN, "model.embed_tokens.weight", "model.norm.weight"])
@pytest.mark.parametrize("quantization", ["nested", "none"])
def test_weights_that_are_not_finite(copy, value, name, quantization):
    change_tensors(copy, lambda tensors: tensors[name].view(-1)[77 % tensors[name].numel() :][:1].fill_(value))
    refuses(generate(copy, "--prompt", "x", "--quantization", quantization), name, "NaN or infinity")


def test_tensors_that_do_not_fit_the_config(copy, tmp_path):
    original = copy / "model.safetensors"
    saved = tmp_path / "saved"
    shutil.copy(original, saved)

    def broken(change):
        shutil.copy(saved, original)
        change_tensors(copy, change)
        return generate(copy, "--prompt", "x")

    refuses(broken(lambda t: t.pop(UP)), UP, "missing", "[112, 64]")
    refuses(broken(lambda t: t.update({UP: torch.zeros(113, 64)})), UP, "[113, 64]", "[112, 64]")
    refuses(broken(lambda t: t.update({UP: torch.zeros(112, 64, dtype=torch.int32)})), UP, "I32")
    shutil.copy(saved, original)
    original.write_bytes(original.read_bytes()[:-100])
    refuses(generate(copy, "--prompt", "x"), "model.safetensors")


def test_tokenizer_with_more_ids_than_the_model(copy):
    ids = make_tokenizer(copy, 400).encode(PROMPT).ids
    edit_config(copy, vocab_size=270, eos_token_id=[2, 280])
    change_tensors(copy, lambda t: t.update({name: t[name][:270].clone() for name in
                                             ("model.embed_tokens.weight", "lm_head.weight")}))
    done = generate(copy, "--prompt", "x y z", "-n", 4, "--json")
    assert done.returncode == 0, done.stderr
    assert "up to 269" in done.stderr
    beyond = next(i for i in ids if i >= 270)
    refuses(generate(copy, "--prompt", PROMPT), f"token {beyond}", "270", warnings=1)
    refuses(generate(copy, "--prompt-token-ids", "1,270"), "token 270", "270", warnings=1)


def test_tokenizer_with_fewer_ids_than_the_model(copy):
    """What the tokenizer has no text for is never drawn, whatever its logits."""
    change_tensors(copy, lambda t: t["lm_head.weight"][300:].mul_(100))
    for more in ([], ["--temperature", 1, "--seed", 5]):
        done = generate(copy, "--prompt", PROMPT, "-n", 30, "--json", *more)
        assert done.returncode == 0, done.stderr
        tokens = json.loads(done.stdout)["token_ids"]
        assert tokens and max(tokens) < 300
    (copy / "tokenizer.json").unlink()
    done = generate(copy, "--prompt-token-ids", "1,5", "-n", 30, "--json")
    assert max(json.loads(done.stdout)["token_ids"]) >= 300


def test_prompts_that_cannot_be(directory, copy, tmp_path):
    long = ",".join(["5"] * 1025)
    refuses(generate(directory, "--prompt-token-ids", long), "1025", "1024")
    refuses(generate(directory, "--prompt-token-ids", "1,2,3", "--max-model-len", 2), "3 tokens", "2")
    refuses(generate(directory, "--prompt-token-ids", "1", "--max-model-len", 4096), "4096", "1024")
    refuses(generate(directory, "--prompt-token-ids", "1,320"), "320")
    refuses(generate(directory, "--prompt-token-ids=-1"), "-1")
    refuses(generate(directory, "--prompt", ""), "empty")
    refuses(generate(directory, "--prompt-file", tmp_path / "none"), "none")
    (copy / "tokenizer.json").unlink()
    refuses(generate(copy, "--prompt", "x"), "tokenizer.json")


def test_fp8_without_an_eligible_layer(copy, directory, tmp_path):
    def change(tensors):
        for tensor in tensors.values():
            if tensor.dim() == 2:
                tensor[:, ::10] = 2.0

    change_tensors(copy, change)
    for more in (["--precision", "fp8"], ["--switch-at", 3], ["--compare"]):
        refuses(generate(copy, "--prompt", "x", *more), "no linear layer can compute at fp8")
    assert generate(copy, "--prompt", "x", "-n", 2).returncode == 0
    refuses(generate(directory, "--prompt", "x", "--precision", "fp8", "--quantization", "none"),
            "--quantization nested")


def test_nothing_is_written_on_failure(copy, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    change_tensors(copy, lambda tensors: tensors[DOWN].fill_(float("nan")))
    refuses(generate(copy, "--prompt", "x", "--save-logits", out / "logits"), DOWN)
    assert list(out.iterdir()) == []
    refuses(generate(copy, "--prompt", "x", "--save-logits", out / "missing" / "logits"), "missing")


@pytest.mark.parametrize("arguments", [
    [],
    ["nonsense"],
    ["generate"],
    ["generate", "model"],
    ["generate", "model", "--prompt", "x", "--prompt-token-ids", "1"],
    ["generate", "model", "--prompt-token-ids", "1,x"],
    ["generate", "model", "--prompt", "x", "--precision", "fp7"],
    ["generate", "model", "--prompt", "x", "--switch-at", "0"],
    ["generate", "model", "--prompt", "x", "--max-tokens", "-1"],
    ["generate", "model", "--prompt", "x", "--temperature", "hot"],
    ["generate", "model", "--prompt", "x", "--quantization", "int4"],
    ["generate", "model", "--prompt", "x", "--unknown"],
    ["generate", "model", "--prompt-token-ids", "1", "--chat"],
    ["inspect"],
    ["frobnicate"],
    ["bench", "frobnicate"],
])
def test_usage_errors(arguments):
    done = dualfp(*arguments)
    assert done.returncode == 2
    assert done.stdout == "" and done.stderr


@pytest.mark.parametrize("command", ["generate", "inspect"])
def test_help_fits_a_screen(command):
    done = dualfp(command, "--help")
    assert done.returncode == 0 and done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) <= 48 and max(map(len, lines)) <= 100
    assert any(line.startswith("Example: dualfp " + command) for line in lines)
