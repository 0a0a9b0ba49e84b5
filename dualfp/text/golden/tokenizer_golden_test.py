"""Our tokenizer against Hugging Face's, on tokenizers built like the published ones."""

import itertools
import json
import os
import random
import subprocess

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import AutoTokenizer

import corpus
import reference_tokenizers

TOOL = os.path.join(os.environ["DUALFP_BUILD_DIR"], "layers", "text", "text_golden_tool")


def run_tool(directory, cases):
    """Our results for the cases, in order."""
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    result = subprocess.run([TOOL, "tokenize", str(directory)], input=lines.encode(), check=True,
                            stdout=subprocess.PIPE)
    results = [json.loads(line) for line in result.stdout.decode().split("\n")[:-1]]
    assert len(results) == len(cases)
    return results


def check_texts(directory, reference, texts):
    results = run_tool(directory, [{"text": text} for text in texts] +
                       [{"text": text, "special": False} for text in texts])
    for special, part in ((True, results[:len(texts)]), (False, results[len(texts):])):
        for text, result in zip(texts, part):
            ids = reference.encode(text, add_special_tokens=special).ids
            assert result.get("ids") == ids, (text, special, result)
            check_decoding(reference, result)


def check_decoding(reference, result):
    ids = result["ids"]
    if ids or reference.decoder is not None:
        assert result["all"] == reference.decode(ids, skip_special_tokens=False), ids
        assert result["skipped"] == reference.decode(ids, skip_special_tokens=True), ids
    assert "".join(result["stream"]) == result["all"]


def save(reference, directory):
    reference.save(str(directory / "tokenizer.json"))


@pytest.fixture(scope="module", params=sorted(reference_tokenizers.MODELS))
def model(request, tmp_path_factory):
    reference = reference_tokenizers.MODELS[request.param]()
    directory = tmp_path_factory.mktemp(request.param)
    save(reference, directory)
    return request.param, reference, directory


def test_samples(model):
    _, reference, directory = model
    check_texts(directory, reference, corpus.SAMPLES + ["".join(corpus.SAMPLES)])


def test_random_texts(model):
    name, reference, directory = model
    check_texts(directory, reference, corpus.random_texts(3000, seed=len(name)))


def test_random_ids(model):
    """Ids that no text encodes to: broken characters, byte tokens anywhere, ids out of range."""
    _, reference, directory = model
    generator = random.Random(3)
    size = reference.get_vocab_size()
    cases = [[generator.randrange(size + 2) for _ in range(generator.choice([1, 2, 5, 20]))]
             for _ in range(500)]
    # Where there are byte tokens they are few among all: let them meet.
    cases += [[generator.randrange(3, 259) for _ in range(8)] for _ in range(300)]
    if reference.decoder is not None and "BPEDecoder" in str(reference.decoder):
        cases = [case for case in cases if any(i < size for i in case)]
    for case, result in zip(cases, run_tool(directory, [{"ids": case} for case in cases])):
        assert result["ids"] == case
        check_decoding(reference, result)


def test_truncation(model):
    _, reference, directory = model
    text = corpus.SAMPLES[0]
    reference = Tokenizer.from_str(reference.to_str())
    for side in ("right", "left"):
        for length in (2, 3, 7, 1000):
            reference.enable_truncation(length, direction=side)
            result, = run_tool(directory, [{"text": text, "max_length": length,
                                            "left": side == "left"}])
            assert result["ids"] == reference.encode(text).ids


def test_special_tokens_as_text(model):
    _, reference, directory = model
    reference = Tokenizer.from_str(reference.to_str())
    reference.encode_special_tokens = True
    texts = [text for text in corpus.SAMPLES + corpus.random_texts(400, seed=5) if "<" in text]
    results = run_tool(directory, [{"text": text, "parse_special": False} for text in texts])
    for text, result in zip(texts, results):
        assert result["ids"] == reference.encode(text).ids, text


@pytest.mark.parametrize("name", sorted(reference_tokenizers.PRE_TOKENIZERS))
def test_pre_tokenizer(name, tmp_path):
    reference = reference_tokenizers.pre_tokenizer_only(reference_tokenizers.PRE_TOKENIZERS[name])
    save(reference, tmp_path)
    check_texts(tmp_path, reference, corpus.SAMPLES + corpus.random_texts(1000, seed=11))


@pytest.mark.parametrize("name", ["gpt2", "llama3", "tekken"])
def test_every_code_point(name, tmp_path):
    """Alone between letters, so that its class decides where words end."""
    reference = reference_tokenizers.MODELS[name]()
    save(reference, tmp_path)
    code_points = [chr(c) for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    texts = ["".join(f"a{c}b" for c in code_points[i:i + 500])
             for i in range(0, len(code_points), 500)]
    results = run_tool(tmp_path, [{"text": text, "decode": False} for text in texts])
    for text, result, encoding in zip(texts, results, reference.encode_batch_fast(texts)):
        assert result["ids"] == encoding.ids, text


def test_the_script_of_every_code_point(tmp_path):
    """A token a piece: each code point beside others of its script and of any that changed."""
    reference = Tokenizer(models.WordLevel({"<unk>": 0}, unk_token="<unk>"))
    reference.pre_tokenizer = pre_tokenizers.UnicodeScripts()
    save(reference, tmp_path)
    code_points = [chr(c) for c in range(0x110000) if not 0xd800 <= c < 0xe000]
    texts = [neighbour.join(code_points[i:i + 50])
             for i in range(0, len(code_points), 50) for neighbour in ["", "1", "a", "क", "\u0301"]]
    results = run_tool(tmp_path, [{"text": text, "decode": False} for text in texts])
    for text, result, encoding in zip(texts, results, reference.encode_batch_fast(texts)):
        assert result["ids"] == encoding.ids, text


def check_auto_tokenizer(directory, config, model_type, texts):
    (directory / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    (directory / "config.json").write_text(json.dumps({"model_type": model_type}), encoding="utf-8")
    reference = AutoTokenizer.from_pretrained(directory)
    for text, result in zip(texts, run_tool(directory, [{"text": text} for text in texts])):
        assert result["ids"] == reference.encode(text), text


TOKEN_TEXTS = corpus.SAMPLES + [
    "a <extra>b extra word extra words", "<extra>", "a <mask> b<pad>  c", "Mask Masked <image>\n",
    "<other>a<pad><mask> mask"]


# A class of one model takes vocabulary and post-processor from tokenizer.json and builds its own
# normalizer, pre-tokenizer and decoder (transformers 5): an oracle only for files of its kind.
@pytest.mark.parametrize("tokenizer_class", ["PreTrainedTokenizerFast", "LlamaTokenizer"])
@pytest.mark.parametrize("config", [
    {},
    {"add_bos_token": True},
    {"add_bos_token": False},
    {"add_bos_token": None},
    {"add_bos_token": True, "bos_token": None},
    {"add_bos_token": True, "add_eos_token": True},
    {"add_eos_token": True},
    {"add_bos_token": True, "bos_token": {"content": "</s>", "__type": "AddedToken"}},
    {"added_tokens_decoder": {"9000": {"content": "<extra>", "special": True, "lstrip": True},
                              "9001": {"content": "extra word", "special": False}}},
    {"pad_token": "<pad>", "mask_token": "<mask>"},
    {"mask_token": {"content": "<mask>", "lstrip": True, "rstrip": True, "__type": "AddedToken"}},
    {"cls_token": {"content": "Mask", "single_word": True, "normalized": True,
                   "__type": "AddedToken"}},
    {"sep_token": "a", "pad_token": "</s>"},
    {"unk_token": "<other>", "image_token": "<image>", "pad_token": None, "add_image_token": True},
    {"additional_special_tokens": ["<image>", {"content": "<pad>", "rstrip": True,
                                               "__type": "AddedToken"}], "cls_token": "<mask>"},
    {"extra_special_tokens": {"image_token": "<image>", "boi_token": "<pad>"},
     "sep_token": "extra"},
    {"added_tokens_decoder": {"9000": {"content": "<image>", "special": True}},
     "pad_token": "<pad>", "mask_token": "<image>"},
])
def test_tokenizer_config(config, tokenizer_class, tmp_path):
    """What tokenizer_config.json changes, against transformers: not the tokens around a text, which
    are tokenizer.json's."""
    save(reference_tokenizers.metaspace(legacy=False), tmp_path)
    config = {"tokenizer_class": tokenizer_class, "bos_token": "<s>", "eos_token": "</s>",
              "unk_token": "<unk>", **config}
    check_auto_tokenizer(tmp_path, config, "llama", TOKEN_TEXTS)


@pytest.mark.parametrize("config", [{}, {"pad_token": "<pad>"},
                                    {"added_tokens_decoder": {}, "pad_token": "<pad>"}])
@pytest.mark.parametrize("special", [
    {"pad_token": "<mask>"}, {"pad_token": None, "bos_token": "</s>"},
    {"mask_token": {"content": "<mask>", "lstrip": True, "single_word": False, "rstrip": False,
                    "normalized": False}, "additional_special_tokens": ["<image>"]},
])
def test_files_that_tokenizer_config_replaced(config, special, tmp_path):
    """special_tokens_map.json and added_tokens.json count unless it lists the added tokens."""
    save(reference_tokenizers.metaspace(legacy=False), tmp_path)
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(special))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"extra word": 9001, "<image>": 9000}))
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<s>", "eos_token": "</s>",
              "unk_token": "<unk>", **config}
    check_auto_tokenizer(tmp_path, config, "llama", TOKEN_TEXTS)


@pytest.mark.parametrize("config", [
    {}, {"add_bos_token": True}, {"add_bos_token": False}, {"add_eos_token": True},
])
def test_tokenizer_config_of_gpt2(config, tmp_path):
    save(reference_tokenizers.gpt2(), tmp_path)
    roles = dict.fromkeys(["bos_token", "eos_token", "unk_token"], "<|endoftext|>")
    config = {"tokenizer_class": "GPT2Tokenizer", **roles, **config}
    check_auto_tokenizer(tmp_path, config, "gpt2", corpus.SAMPLES)


def test_whitespace_tokens_that_strip(tmp_path):
    """A token of whitespace is not there where the one before has taken all of it."""
    reference = reference_tokenizers.gpt2()
    reference.add_tokens([AddedToken("<x>", rstrip=True, normalized=False),
                          AddedToken("  ", lstrip=True, rstrip=True, normalized=False),
                          AddedToken("\t", rstrip=True, normalized=False),
                          AddedToken("\n", normalized=False)])
    save(reference, tmp_path)
    generator = random.Random(17)
    texts = ["<x>    the", "<x>  ", "h    e", "<x>   \n\t <x>"]
    texts += ["".join(generator.choices(["<x>", " ", "  ", "\t", "\n", "a"], k=8))
              for _ in range(500)]
    check_texts(tmp_path, reference, texts)


@pytest.mark.parametrize("flags", list(itertools.product([True, False], repeat=5)))
def test_tokens_of_which_normalization_leaves_nothing(flags, tmp_path):
    """Every short text of a few characters."""
    left, right, lstrip, rstrip, single_word = flags
    vocabulary = {text: i for i, text in enumerate(["<unk>", "a", "!", " ", "\n"])}
    reference = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    reference.normalizer = normalizers.Strip(left=left, right=right)
    reference.add_tokens([AddedToken("  ", single_word=single_word, lstrip=lstrip, rstrip=rstrip)])
    save(reference, tmp_path)
    texts = ["".join(text) for size in range(6) for text in itertools.product("a! \n", repeat=size)]
    results = run_tool(tmp_path, [{"text": text} for text in texts])
    for text, result in zip(texts, results):
        assert result["ids"] == reference.encode(text).ids, text


def test_merges_as_strings(tmp_path):
    reference, text = reference_tokenizers.legacy_merges(reference_tokenizers.qwen2)
    (tmp_path / "tokenizer.json").write_text(text, encoding="utf-8")
    check_texts(tmp_path, reference, corpus.SAMPLES)


def test_invalid_utf8_is_replaced(model):
    _, reference, directory = model
    generator = random.Random(9)
    cases = [bytes(generator.choice([0x20, 0x41, 0xc3, 0xa9, 0xe2, 0x82, 0xac, 0xf0, 0x9f, 0x98,
                                     0x80, 0xff, 0xed, 0xa0]) for _ in range(12))
             for _ in range(300)]
    results = run_tool(directory, [{"bytes": case.hex()} for case in cases])
    for case, result in zip(cases, results):
        assert result["ids"] == reference.encode(case.decode("utf-8", "replace")).ids, case
