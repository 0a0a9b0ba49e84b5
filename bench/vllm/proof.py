#!/usr/bin/env python3
"""Shows on a GPU that the vLLM plugin computes what vLLM does.

Usage: proof.py MODEL HELD_OUT.txt OUT.json [--runner v1|v2] [--dtype auto|float16]

Each engine is a process of its own: vLLM at the checkpoint's dtype, then the plugin. Compared are
log-probabilities of the same tokens (those that vLLM chose greedily: 5 prompts, 200 tokens each,
batches padded from 5 to 8), where the greedy tokens part, that switching to FP8 and back changes
nothing, and the perplexity of a text in both precisions.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
from typing import Any

PROMPTS = (
    "In the beginning",
    "What is a dictionary?",
    "The king said to the queen that",
    "A ship",
    "Once upon a time there was",
)
TOKENS = 200
WINDOW, WINDOWS = 1023, 12


def engine(arguments: argparse.Namespace, quantization: str | None) -> Any:
    from vllm import LLM

    return LLM(
        model=arguments.model,
        quantization=quantization,
        dtype=arguments.dtype,
        max_model_len=1024,
        max_num_seqs=16,
        kv_cache_memory_bytes=4 << 30,
        gpu_memory_utilization=0.5,
        enable_prefix_caching=False,
        enforce_eager=arguments.eager,
        compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8, 16]},
    )


def greedy(llm: Any, prompts: list[list[int]]) -> list[dict[str, Any]]:
    from vllm import SamplingParams

    how = SamplingParams(temperature=0, max_tokens=TOKENS, ignore_eos=True, logprobs=2)
    found = []
    for output in llm.generate([{"prompt_token_ids": ids} for ids in prompts], how, use_tqdm=False):
        best = [sorted((p.logprob for p in step.values()), reverse=True)[:2]
                for step in output.outputs[0].logprobs]
        found.append({"tokens": list(output.outputs[0].token_ids), "best": best})
    return found


def forced(llm: Any, sequences: list[list[int]]) -> list[list[float]]:
    """Log-probability of each token after the first, given those before it."""
    from vllm import SamplingParams

    how = SamplingParams(temperature=0, max_tokens=1, prompt_logprobs=0)
    outputs = llm.generate([{"prompt_token_ids": ids} for ids in sequences], how, use_tqdm=False)
    return [
        [step[token].logprob for token, step in zip(ids[1:], output.prompt_logprobs[1:])]
        for ids, output in zip(sequences, outputs)
    ]


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    plain = arguments.engine == "plain"
    llm = engine(arguments, None if plain else "dualfp")
    tokenizer = llm.get_tokenizer()
    prompts = [tokenizer(text)["input_ids"] for text in PROMPTS]
    text = open(arguments.held_out, encoding="utf-8").read()
    ids = tokenizer(text)["input_ids"]
    windows = [ids[at * WINDOW : (at + 1) * WINDOW] for at in range(WINDOWS)]
    result: dict[str, Any] = {"dtype": str(llm.llm_engine.vllm_config.model_config.dtype)}

    def perplexity() -> float:
        losses = [-value for window in forced(llm, windows) for value in window]
        return math.exp(sum(losses) / len(losses))

    if plain:
        result["greedy"] = greedy(llm, prompts)
        sequences = [a + b["tokens"] for a, b in zip(prompts, result["greedy"])]
        result["sequences"] = sequences
        result["forced"] = forced(llm, sequences)
        result["again"] = forced(llm, sequences)
        result["perplexity"] = perplexity()
        return result
    sequences = json.load(open(arguments.reference))["sequences"]
    switch = llm.quantization_method
    result["exact"] = {"greedy": greedy(llm, prompts), "forced": forced(llm, sequences),
                       "perplexity": perplexity()}
    switch.fp8 = True
    result["fp8"] = {"greedy": greedy(llm, prompts), "again": greedy(llm, prompts),
                     "forced": forced(llm, sequences), "perplexity": perplexity()}
    switch.fp8 = False
    result["back"] = {"greedy": greedy(llm, prompts), "forced": forced(llm, sequences)}
    result["state"] = switch.get()
    result["worker"] = llm.collective_rpc("dualfp_stats")
    return result


def largest(a: list[list[float]], b: list[list[float]]) -> float:
    return max(abs(x - y) for p, q in zip(a, b) for x, y in zip(p, q))


def summary(plain: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    parted = []
    for a, b in zip(plain["greedy"], ours["exact"]["greedy"]):
        at = next((i for i, (x, y) in enumerate(zip(a["tokens"], b["tokens"])) if x != y), None)
        if at is not None:
            best = a["best"][at]
            parted.append({"token": at, "gap of the best two": round(best[0] - best[1], 5)})
    return {
        "dtype": [plain["dtype"], ours["dtype"]],
        "exact: largest difference of a log-probability": largest(plain["forced"], ours["exact"]["forced"]),
        "vLLM from itself, same tokens again": largest(plain["forced"], plain["again"]),
        "exact: greedy tokens part at": parted,
        "exact after FP8 is the same": ours["exact"]["greedy"] == ours["back"]["greedy"]
        and ours["exact"]["forced"] == ours["back"]["forced"],
        "FP8 repeats": ours["fp8"]["greedy"] == ours["fp8"]["again"],
        "FP8: largest difference of a log-probability": largest(plain["forced"], ours["fp8"]["forced"]),
        "perplexity: vLLM, exact, FP8": [plain["perplexity"], ours["exact"]["perplexity"], ours["fp8"]["perplexity"]],
        "state": ours["state"],
        "graphs": ours["worker"],
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("held_out")
    parser.add_argument("out")
    parser.add_argument("--runner", choices=("v1", "v2"), default="v1")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--eager", action="store_true")
    parser.add_argument("--engine", choices=("plain", "dualfp"))
    parser.add_argument("--reference")
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "1" if arguments.runner == "v2" else "0"
    if arguments.engine:
        json.dump(one(arguments), open(arguments.out, "w"))
        return
    parts = {}
    for name in ("plain", "dualfp"):
        out = f"{arguments.out}.{name}"
        command = [sys.executable, __file__, arguments.model, arguments.held_out, out, "--engine",
                   name, "--runner", arguments.runner, "--dtype", arguments.dtype, "--reference", f"{arguments.out}.plain"]
        subprocess.run(command + ["--eager"] * arguments.eager, check=True)
        parts[name] = json.load(open(out))
    result = {"runner": arguments.runner, **summary(parts["plain"], parts["dualfp"])}
    json.dump(result, open(arguments.out, "w"), indent=1)
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
