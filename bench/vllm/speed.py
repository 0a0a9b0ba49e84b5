#!/usr/bin/env python3
"""Times vLLM with and without the plugin on one GPU, weights of a real shape, values random.

Usage: speed.py MODEL_DIR OUT.json [--engines plain,dualfp,fp8]

MODEL_DIR needs a config.json only. Engines run one after the other in processes of their own:
plain vLLM at the checkpoint's dtype, vLLM's own FP8 (quantization="fp8"), and the plugin, which is
timed in both precisions. A decode step is the difference of two lengths of output over the tokens
between them; prefill is a prompt and one token.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import time
from typing import Any

DECODE_BATCHES = (1, 16, 64, 256)
SHORT, LONG = 16, 112
PREFILLS = ((1, 2048), (4, 2048))


def points(llm: Any) -> dict[str, float]:
    from vllm import SamplingParams

    draw = random.Random(0)

    def seconds(batch: int, prompt: int, new: int) -> float:
        prompts = [{"prompt_token_ids": [draw.randrange(1000, 100000) for _ in range(prompt)]}
                   for _ in range(batch)]
        how = SamplingParams(temperature=0, max_tokens=new, ignore_eos=True, detokenize=False)
        begin = time.perf_counter()
        llm.generate(prompts, how, use_tqdm=False)
        return time.perf_counter() - begin

    found = {}
    seconds(8, 64, 8)
    for batch in DECODE_BATCHES:
        seconds(batch, 128, 4)
        steps = [(seconds(batch, 128, LONG) - seconds(batch, 128, SHORT)) / (LONG - SHORT)
                 for _ in range(2)]
        found[f"decode ms, batch {batch}"] = 1e3 * min(steps)
    for batch, prompt in PREFILLS:
        seconds(batch, prompt, 1)
        rates = [batch * prompt / seconds(batch, prompt, 1) for _ in range(3)]
        found[f"prefill tokens/s, {batch} x {prompt}"] = statistics.median(rates)
    return found


def one(arguments: argparse.Namespace) -> dict[str, Any]:
    from vllm import LLM

    begin = time.perf_counter()
    llm = LLM(
        model=arguments.model,
        load_format="dummy",
        skip_tokenizer_init=True,
        quantization=None if arguments.one == "plain" else arguments.one,
        max_model_len=4096,
        max_num_seqs=256,
        max_num_batched_tokens=8192,
        gpu_memory_utilization=0.8,
        enable_prefix_caching=False,
        disable_log_stats=True,
        compilation_config={"cudagraph_capture_sizes": [1, 2, 4, 8, 16, 32, 64, 128, 256]},
    )
    result = {"start s": time.perf_counter() - begin,
              "kv tokens": llm.llm_engine.vllm_config.cache_config.num_gpu_blocks}
    if arguments.one == "dualfp":
        result["exact"] = points(llm)
        llm.quantization_method.fp8 = True
        result["fp8"] = points(llm)
        result["state"] = llm.quantization_method.get()
        result["worker"] = llm.collective_rpc("dualfp_stats")
    else:
        result[arguments.one] = points(llm)
    return result


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--engines", default="plain,dualfp,fp8")
    parser.add_argument("--one", choices=("plain", "dualfp", "fp8"))
    arguments = parser.parse_args()
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("VLLM_USE_FLASHINFER_SAMPLER", "0")
    os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
    os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
    if arguments.one:
        json.dump(one(arguments), open(arguments.out, "w"))
        return
    result: dict[str, Any] = {}
    for name in arguments.engines.split(","):
        out = f"{arguments.out}.{name}"
        subprocess.run([sys.executable, __file__, arguments.model, out, "--one", name], check=True)
        result[name] = json.load(open(out))
        print(name, json.dumps(result[name]), flush=True)
    ratios = {}
    for ours, other in (("exact", "plain"), ("fp8", "fp8")):
        if "dualfp" in result and other in result:
            for point, value in result["dualfp"][ours].items():
                their = result[other][other][point]
                ratio = value / their if "tokens/s" in point else their / value
                ratios[f"{ours} / vLLM {other}: {point.replace(' ms', '')}"] = round(ratio, 3)
    result["speed ratios"] = ratios
    json.dump(result, open(arguments.out, "w"), indent=1)
    print(json.dumps(ratios, indent=1))


if __name__ == "__main__":
    main()
