"""The sampler against transformers' logits processors, torch and numpy.

Expected distributions are built from transformers' processors, composed in vLLM's order (min_tokens,
logit_bias, penalties, temperature, min_p, top_k, top_p); presence and frequency penalties, which
transformers lacks, are written out in numpy from OpenAI's formula.
"""

import json
import os
import pathlib
import subprocess

import numpy as np
import pytest
import torch
from transformers import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
    SuppressTokensLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

TOOL = pathlib.Path(os.environ.get("DUALFP_BUILD_DIR", "build")) / "tests" / "sampler_tool"


def run(cases):
    text = "\n".join(json.dumps(case) for case in cases)
    done = subprocess.run([TOOL], input=text, capture_output=True, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def expected_probabilities(case):
    """float64 [V]; a one-hot row for temperature 0."""
    params = case["params"]
    prompt, output = case.get("prompt", []), case.get("output", [])
    scores = torch.tensor([case["logits"]], dtype=torch.float32)
    ids = torch.tensor([prompt + output], dtype=torch.long)
    if len(output) < params.get("min_tokens", 0):
        scores = SuppressTokensLogitsProcessor(case["stop_ids"])(ids, scores)
    if params.get("logit_bias"):
        bias = {(token,): value for token, value in params["logit_bias"]}
        scores = SequenceBiasLogitsProcessor(bias)(ids, scores)
    if params.get("repetition_penalty", 1.0) != 1.0:
        scores = RepetitionPenaltyLogitsProcessor(params["repetition_penalty"])(ids, scores)
    counts = np.bincount(output, minlength=scores.shape[1]).astype(np.float32)
    scores = scores - torch.from_numpy(
        params.get("frequency_penalty", 0.0) * counts
        + params.get("presence_penalty", 0.0) * (counts > 0)
    ).to(torch.float32)
    if params.get("temperature", 1.0) == 0.0:
        one_hot = np.zeros(scores.shape[1])
        one_hot[int(scores.argmax())] = 1.0
        return one_hot
    scores = TemperatureLogitsWarper(float(params.get("temperature", 1.0)))(ids, scores)
    if params.get("min_p", 0.0) > 0.0:
        scores = MinPLogitsWarper(params["min_p"])(ids, scores)
    if params.get("top_k", 0) > 0:
        scores = TopKLogitsWarper(params["top_k"])(ids, scores)
    if params.get("top_p", 1.0) < 1.0:
        scores = TopPLogitsWarper(params["top_p"])(ids, scores)
    return torch.softmax(scores[0].double(), dim=-1).numpy()


def chi_square_p_value(counts, probabilities):
    """Of the counts, tokens that are too rare for the approximation thrown together."""
    total = counts.sum()
    common = probabilities * total >= 8
    observed, wanted = list(counts[common]), list(probabilities[common] * total)
    if (rest := total - sum(wanted)) > 1e-6 * total:
        observed.append(total - sum(observed))
        wanted.append(rest)
    if len(observed) < 2:
        return 1.0
    statistic = sum((o - w) ** 2 / w for o, w in zip(observed, wanted))
    degrees = torch.tensor((len(observed) - 1) / 2, dtype=torch.float64)
    return float(torch.special.gammaincc(degrees, torch.tensor(statistic / 2, dtype=torch.float64)))


def random_case(seed, vocabulary=60, **params):
    random = np.random.default_rng(seed)
    return {
        "logits": (random.standard_normal(vocabulary) * 2).astype(np.float32).tolist(),
        "prompt": random.integers(0, vocabulary, 12).tolist(),
        "output": random.integers(0, vocabulary, 9).tolist(),
        "stop_ids": [1, 5],
        "choice": int(seed % 3),
        "params": params,
    }


SETTINGS = [
    {},
    {"temperature": 0.3},
    {"temperature": 1.7},
    {"temperature": 1e30},
    {"top_k": 1},
    {"top_k": 7},
    {"top_k": -1},
    {"top_k": 1000},
    {"top_p": 0.1},
    {"top_p": 0.6},
    {"top_p": 0.95},
    {"min_p": 0.05},
    {"min_p": 0.4},
    {"min_p": 1.0},
    {"presence_penalty": 1.5},
    {"presence_penalty": -1.0},
    {"frequency_penalty": 0.7},
    {"frequency_penalty": -0.4},
    {"repetition_penalty": 1.4},
    {"repetition_penalty": 0.6},
    {"min_tokens": 10},
    {"min_tokens": 9},
    {"logit_bias": [[3, 4.5], [5, -100.0], [17, 2.0]]},
    {"temperature": 0.7, "top_k": 20, "top_p": 0.8, "min_p": 0.02},
    {"temperature": 1.3, "top_k": 12, "top_p": 0.9},
    {"temperature": 0.9, "top_p": 0.9, "min_p": 0.1},
    {
        "temperature": 1.2,
        "top_k": 30,
        "top_p": 0.97,
        "min_p": 0.01,
        "presence_penalty": 0.4,
        "frequency_penalty": 0.2,
        "repetition_penalty": 1.15,
        "min_tokens": 20,
        "logit_bias": [[1, 50.0], [2, 1.0]],
    },
]


@pytest.mark.parametrize("params", SETTINGS, ids=lambda p: ",".join(p) or "default")
def test_draws_follow_the_expected_distribution(params):
    cases = [dict(random_case(seed, **params), draws=20000) for seed in range(3)]
    for case, result in zip(cases, run(cases)):
        probabilities = expected_probabilities(case)
        counts = np.bincount(result["tokens"], minlength=len(probabilities))
        assert (counts[probabilities == 0.0] == 0).all(), "a token that is cut off was drawn"
        assert chi_square_p_value(counts, probabilities) > 1e-5


def test_the_chi_square_test_can_fail():
    case = dict(random_case(0), draws=20000)
    counts = np.bincount(run([case])[0]["tokens"], minlength=60)
    tilted = expected_probabilities(case) ** 1.1
    assert chi_square_p_value(counts, tilted / tilted.sum()) < 1e-5


def test_greedy_takes_the_largest_processed_logit():
    cases = []
    for seed in range(300):
        params = dict(SETTINGS[seed % len(SETTINGS)], temperature=0.0)
        cases.append(random_case(seed, vocabulary=200, **params))
    for case, result in zip(cases, run(cases)):
        assert result["tokens"][0] == int(expected_probabilities(case).argmax())


def test_large_vocabularies():
    random = np.random.default_rng(0)
    logits = (random.standard_normal(128256) * 3).astype(np.float32).tolist()
    for params in ({"top_p": 0.8}, {"top_k": 50}, {"min_p": 0.1}, {"temperature": 0.2}):
        case = {"logits": logits, "params": params, "draws": 3000}
        probabilities = expected_probabilities(case)
        counts = np.bincount(run([case])[0]["tokens"], minlength=len(probabilities))
        assert (counts[probabilities == 0.0] == 0).all()
        assert chi_square_p_value(counts, probabilities) > 1e-5


def test_logprobs_are_of_the_raw_logits():
    cases = [
        dict(random_case(seed, vocabulary=int(v), **params), num_top=8)
        for seed, (v, params) in enumerate(
            (v, p) for v in (9, 64, 1000) for p in (SETTINGS[0], SETTINGS[1], SETTINGS[-1])
        )
    ]
    for case, result in zip(cases, run(cases)):
        logits = torch.tensor(case["logits"], dtype=torch.float64)
        reference = torch.log_softmax(logits, dim=-1)
        (token, logprob, rank), *top = result["scores"]
        assert token == result["tokens"][0]
        assert logprob == pytest.approx(float(reference[token]), abs=2e-6)
        assert rank == int((logits >= logits[token]).sum())
        wanted = torch.topk(reference, 8)
        assert [entry[0] for entry in top] == wanted.indices.tolist()
        assert [entry[1] for entry in top] == pytest.approx(wanted.values.tolist(), abs=2e-6)
        assert [entry[2] for entry in top] == list(range(1, 9))


def test_draws_depend_on_seed_choice_and_position():
    case = random_case(0)
    base = run([dict(case, draws=200)])[0]["tokens"]
    assert base == run([dict(case, draws=200)])[0]["tokens"]
    assert base != run([dict(case, draws=200, choice=1)])[0]["tokens"]
    # Without penalties only the position of another output matters.
    shorter = dict(case, output=case["output"][:-1], draws=200)
    assert base != run([shorter])[0]["tokens"]
    other = dict(case, output=list(reversed(case["output"])), draws=200)
    assert base == run([other])[0]["tokens"]


def test_philox_known_answers():
    """Random123's kat_vectors for philox4x32 with 10 rounds."""
    ones = 0xFFFFFFFF
    assert run([{"philox": [0] * 6}, {"philox": [ones] * 6}]) == [
        [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8],
        [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD],
    ]


def test_impossible_tokens():
    allowed = dict(random_case(1, vocabulary=6, min_tokens=100), stop_ids=[0, 1, 2, 4, 5], draws=50)
    assert set(run([allowed])[0]["tokens"]) == {3}
    none = dict(random_case(1, vocabulary=6, min_tokens=100), stop_ids=list(range(6)))
    assert run([none])[0]["ok"] is False
