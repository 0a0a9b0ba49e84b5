"""Random tokenizers and random texts: no difference to Hugging Face's library. `make test` takes a
sample; DUALFP_RANDOM_TOKENIZERS=1000 DUALFP_RANDOM_TEXTS=100 is the long run of `make soak`."""

import os
import random
import subprocess

os.environ.setdefault("RAYON_NUM_THREADS", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import corpus
import pytest
import random_tokenizers
from tokenizers import Tokenizer
from tokenizer_golden_test import TOOL, run_tool

TOKENIZERS = int(os.environ.get("DUALFP_RANDOM_TOKENIZERS", "40"))
TEXTS = int(os.environ.get("DUALFP_RANDOM_TEXTS", "40"))
FIRST_SEED = int(os.environ.get("DUALFP_RANDOM_SEED", "0"))


def answer(call):
    """What the library answers: (value, None) or (None, its error)."""
    try:
        return call(), None
    except BaseException as error:  # it panics as a BaseException of its own
        if isinstance(error, KeyboardInterrupt):
            raise
        return None, error


def check_encoding(reference, case, result):
    expected, error = answer(
        lambda: reference.encode(case["text"], add_special_tokens=case["special"]).ids)
    if error is None:
        assert result.get("ids") == expected, (case, result)
        check_decoding(reference, result)
    elif isinstance(error, Exception):
        assert "error" in result, (case, error, result)


def check_decoding(reference, result):
    ids = result["ids"]
    if not ids and reference.decoder is None:
        return
    for key, skip in (("all", False), ("skipped", True)):
        expected, error = answer(lambda: reference.decode(ids, skip_special_tokens=skip))
        if error is None:
            assert result[key] == expected, ids
    assert "".join(result["stream"]) == result["all"]


def without_unusable_template(reference, directory):
    """The library has no template for three parts or more, which the processors before it may have
    made: it panics (Rust's todo!()) at every text with special tokens. We refuse such a file. What
    remains without its post-processor can be compared."""
    path = str(directory / "tokenizer.json")
    _, error = answer(lambda: reference.encode(""))
    if str(error) != "not yet implemented":
        return reference
    result = subprocess.run([TOOL, "tokenize", str(directory)], input="", text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert result.returncode == 1 and "template after processors" in result.stderr, result
    reference.post_processor = None
    reference.save(path)
    return Tokenizer.from_file(path)


@pytest.mark.parametrize("seed", range(FIRST_SEED, FIRST_SEED + TOKENIZERS))
def test_random_tokenizer(seed, tmp_path):
    generator = random.Random(seed)
    path = str(tmp_path / "tokenizer.json")
    random_tokenizers.Builder(generator).tokenizer().save(path)
    reference = without_unusable_template(Tokenizer.from_file(path), tmp_path)
    texts = corpus.random_texts(TEXTS, seed)
    cases = [{"text": text, "special": generator.random() < 0.5} for text in texts]
    size = reference.get_vocab_size()
    ids = [[generator.randrange(size + 2) for _ in range(generator.choice([1, 2, 5, 20]))]
           for _ in range(TEXTS // 4)]
    ids = [case for case in ids if any(i < size for i in case)]
    results = run_tool(tmp_path, cases + [{"ids": case} for case in ids])
    for case, result in zip(cases, results):
        check_encoding(reference, case, result)
    for result in results[len(cases):]:
        check_decoding(reference, result)
