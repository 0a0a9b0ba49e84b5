"""Our tokenizer's speed as a multiple of Hugging Face tokenizers', on one thread.

  python bench/bench_tokenizer.py [--build-dir build]

Both encode and decode the same documents in turns; the figures are the best of the rounds, the
ratio is that of the medians. Texts: this Python's standard library (code and English) and the
multilingual samples of the golden tests. The tokenizers are trained on them, with the
pre-tokenizers of published models; the 128,000-token vocabulary for the load time is made up.
"""

import argparse
import json
import os
import pathlib
import random
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["RAYON_NUM_THREADS"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "dualfp" / "text" / "golden"))

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

import corpus
import reference_tokenizers

ROUNDS = 7


def code_documents(count, size):
    """Pieces of the standard library's sources."""
    library = pathlib.Path(os.__file__).parent
    text = "".join(path.read_text(encoding="utf-8", errors="replace")
                   for path in sorted(library.glob("*.py")))
    return [text[i * size:(i + 1) * size].replace("\0", "") for i in range(count)]


def multilingual_documents(count, size):
    generator = random.Random(1)
    words = " ".join(corpus.SAMPLES[2:14]).split()
    return [" ".join(generator.choices(words, k=size // 8)) for _ in range(count)]


def byte_level(pattern, documents, normalizer=None):
    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(pattern), "isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=20000, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def measure(name, reference, documents, binary):
    with tempfile.TemporaryDirectory() as directory:
        reference.save(os.path.join(directory, "tokenizer.json"))
        path = os.path.join(directory, "documents")
        pathlib.Path(path).write_bytes("\0".join(documents).encode())
        ours = subprocess.Popen([binary, directory, path], stdin=subprocess.PIPE,
                                stdout=subprocess.PIPE, text=True)
        times = {"encode": [], "decode": [], "hf encode": [], "hf decode": []}
        for _ in range(ROUNDS):
            ours.stdin.write("go\n")
            ours.stdin.flush()
            result = json.loads(ours.stdout.readline())
            times["encode"].append(result["encode"])
            times["decode"].append(result["decode"])
            start = time.perf_counter()
            encodings = reference.encode_batch_fast(documents)
            times["hf encode"].append(time.perf_counter() - start)
            ids = [encoding.ids for encoding in encodings]
            start = time.perf_counter()
            reference.decode_batch(ids)
            times["hf decode"].append(time.perf_counter() - start)
            assert sum(map(len, ids)) == result["tokens"], "the tokenizers disagree"
        ours.stdin.close()
        ours.wait()
    megabytes = sum(len(d.encode()) for d in documents) / 1e6
    for what in ("encode", "decode"):
        ratio = statistics.median(times["hf " + what]) / statistics.median(times[what])
        print(f"{name:28} {what}: {ratio:5.1f}x Hugging Face   "
              f"({megabytes / min(times[what]):6.1f} MB/s, "
              f"Hugging Face {megabytes / min(times['hf ' + what]):5.1f} MB/s)")


def large_vocabulary(size=128_000):
    """A byte-level tokenizer of that many random tokens."""
    generator = random.Random(2)
    tokens = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(tokens)}
    merges = []
    while len(tokens) < size:
        left, right = generator.choice(tokens), generator.choice(tokens)
        if len(left + right) <= 12 and left + right not in vocabulary:
            vocabulary[left + right] = len(tokens)
            tokens.append(left + right)
            merges.append((left, right))
    return Tokenizer(models.BPE(vocab=vocabulary, merges=merges))


def measure_load(binary):
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "tokenizer.json")
        large_vocabulary().save(path, pretty=True)
        empty = os.path.join(directory, "documents")
        pathlib.Path(empty).touch()
        ours, theirs = [], []
        for _ in range(5):
            output = subprocess.run([binary, directory, empty], input="go\n", text=True,
                                    stdout=subprocess.PIPE, check=True).stdout
            ours.append(json.loads(output)["load"])
            start = time.perf_counter()
            Tokenizer.from_file(path)
            theirs.append(time.perf_counter() - start)
        print(f"load 128,000 tokens ({os.path.getsize(path) / 1e6:.1f} MB): {min(ours):.3f} s, "
              f"Hugging Face {min(theirs):.3f} s")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--build-dir", default=str(ROOT / "build"))
    binary = os.path.join(parser.parse_args().build_dir, "bench", "bench_tokenizer")
    code = code_documents(400, 4096)
    multilingual = multilingual_documents(200, 4096)
    for name, pattern, normalizer in (
            ("llama-3", reference_tokenizers.LLAMA3, None),
            ("qwen-2", reference_tokenizers.QWEN2, normalizers.NFC()),
            ("tekken", reference_tokenizers.TEKKEN, None)):
        reference = byte_level(pattern, code + multilingual, normalizer)
        measure(name + " code", reference, code, binary)
        measure(name + " multilingual", reference, multilingual, binary)
    reference = reference_tokenizers.metaspace(legacy=False)
    measure("llama-2 code", reference, code, binary)
    measure("llama-2 multilingual", reference, multilingual, binary)
    measure_load(binary)


if __name__ == "__main__":
    main()
