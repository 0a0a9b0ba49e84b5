"""Held-out perplexity, sample texts and the loss curve of the reference model.

Runs the exported folder with transformers in FP32: windows of the whole
context slide over the held-out tokens by half a context, and every token is
scored once, with at least half a context before it (but for the first window).
"""

import argparse
import json
import math
import pathlib

import matplotlib
import numpy as np
import torch
import transformers

matplotlib.use("svg")
PROMPTS = (
    "And it came to pass in those days, that",
    "It is a truth universally acknowledged, that",
    "The function returns",
    "To start the server,",
    "lighthouse (noun):",
)
QUESTIONS = ("What does violin mean?", "Define courage.")


@torch.no_grad()
def held_out_loss(model, tokens, context):
    """Returns the mean loss in nats over tokens[1:]."""
    stride, total, scored = context // 2, 0.0, 1
    for start in range(0, len(tokens), stride):
        window = torch.from_numpy(tokens[start : start + context].astype(np.int64))[None].to(model.device)
        end = start + window.shape[1]
        if end <= scored:
            break
        logits = model(window).logits[0, :-1].float()
        losses = torch.nn.functional.cross_entropy(logits, window[0, 1:], reduction="none")
        total += losses[scored - end :].double().sum().item()
        scored = end
    return total / (len(tokens) - 1)


def samples(model, tokenizer, seed):
    """Yields (prompt, continuation)."""
    torch.manual_seed(seed)
    prompts = [(text, tokenizer(text, return_tensors="pt").input_ids) for text in PROMPTS]
    for question in QUESTIONS:
        chat = [{"role": "user", "content": question}]
        text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
        prompts.append((question, tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids))
    for text, ids in prompts:
        out = model.generate(ids.to(model.device), max_new_tokens=90, do_sample=True, temperature=0.8, top_p=0.95)
        yield text, tokenizer.decode(out[0, ids.shape[1] :], skip_special_tokens=True)


def plot(rows, path, baseline):
    """Draws the training and held-out loss against the tokens seen."""
    from matplotlib import pyplot

    # Text as text is a third of the size of text as outlines.
    matplotlib.rcParams.update({"svg.hashsalt": "dualfp", "svg.fonttype": "none"})
    figure, axes = pyplot.subplots(figsize=(7, 4))
    tokens = [row["tokens"] / 1e6 for row in rows]
    axes.plot(tokens, [row["train_loss"] for row in rows], label="training (with dropout)")
    axes.plot(tokens, [row["held_out_loss"] for row in rows], label="held out")
    if baseline:
        axes.axhline(baseline, color="gray", linestyle="--", label="Kneser-Ney 5-gram, held out")
    axes.set(xlabel="million tokens", ylabel="loss (nats per token)", ylim=(None, rows[0]["held_out_loss"] + 0.3))
    axes.legend()
    axes.grid(alpha=0.3)
    figure.savefig(path, format="svg", bbox_inches="tight", metadata={"Date": None})


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, default="build/reference_model")
    parser.add_argument("--model", type=pathlib.Path, default="models/reference")
    parser.add_argument("--log", type=pathlib.Path, default=pathlib.Path(__file__).parent / "training_log.jsonl")
    parser.add_argument("--baseline", type=pathlib.Path, help="kn5.py's output")
    parser.add_argument("--device", default="cpu", help="cuda takes seconds, the CPU most of an hour")
    args = parser.parse_args()
    model = transformers.AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32).to(args.device)
    tokenizer = transformers.AutoTokenizer.from_pretrained(args.model)
    tokens = np.fromfile(args.work / "held_out.bin", dtype="<u2")
    with open(args.work / "held_out.jsonl") as lines:
        size = sum(len(json.loads(line)["text"].encode()) for line in lines)
    loss = held_out_loss(model, tokens, model.config.max_position_embeddings)
    text = (args.model / "held_out.txt").read_text()
    sample = np.array(tokenizer(text).input_ids)
    sample_loss = held_out_loss(model, sample, model.config.max_position_embeddings)
    baseline = json.loads(args.baseline.read_text()) if args.baseline else None
    report = {
        "tokens": len(tokens),
        "bytes": size,
        "loss": loss,
        "perplexity": math.exp(loss),
        "bits_per_byte": loss * (len(tokens) - 1) / math.log(2) / size,
        "sample": {
            "tokens": len(sample),
            "bytes": len(text.encode()),
            "loss": sample_loss,
            "perplexity": math.exp(sample_loss),
            "bits_per_byte": sample_loss * (len(sample) - 1) / math.log(2) / len(text.encode()),
        },
        "baseline": baseline,
        "device": args.device,
        "samples": list(samples(model, tokenizer, seed=1)),
        "transformers": transformers.__version__,
        "torch": torch.__version__,
    }
    if baseline:
        report["baseline_bits_per_byte"] = baseline["loss"] * (len(tokens) - 1) / math.log(2) / size
        report["below_baseline"] = 1 - report["perplexity"] / baseline["perplexity"]
    (args.work / "evaluation.json").write_text(json.dumps(report, indent=1) + "\n")
    rows = [row for row in map(json.loads, args.log.read_text().splitlines()) if "step" in row]
    plot(rows, args.model / "training_loss.svg", baseline and baseline["loss"])
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
