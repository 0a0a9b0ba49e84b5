"""Writes the reference model's card from the results."""

import argparse
import json
import math
import pathlib

WORDNET_NOTICE = (
    "WordNet 3.0 Copyright 2006 by Princeton University. All rights reserved. THIS SOFTWARE AND DATABASE IS "
    'PROVIDED "AS IS" AND PRINCETON UNIVERSITY MAKES NO REPRESENTATIONS OR WARRANTIES, EXPRESS OR IMPLIED.'
)


def card(sources, evaluation, log):
    """Returns the model card."""
    run, last = log[0], log[-1]
    config, baseline, sample = run["config"], evaluation["baseline"], evaluation["sample"]
    rows = "\n".join(
        f"| {s['package']} | {s['version']} | {s['licence']} | {s['train'] / 1e6:.2f} | {s.get('held_out', 0) / 1e3:.0f} |"
        for s in sorted(sources["sources"], key=lambda s: -s["train"])
    )
    texts = "\n\n".join(
        f"> **{prompt}**{' ' if prompt.endswith(('?', '.')) else ''}{text.strip(chr(10))}".replace("\n", "\n> ")
        for prompt, text in evaluation["samples"]
    )
    return f"""---
language: en
license: apache-2.0
library_name: transformers
pipeline_tag: text-generation
---
# dualfp reference model

A small language model that ships with the source, so that quality can be measured on real trained weights
with nothing to download. It is {run["parameters"]:,} parameters (Llama architecture), trained from scratch
on {sources["totals"]["train"] / 1e6:.0f} MB of text from Debian packages. It writes readable English in the
styles it was trained on; it knows little and must not be used for advice.

| | |
| --- | --- |
| architecture | LlamaForCausalLM: {config["num_hidden_layers"]} layers, hidden {config["hidden_size"]}, FFN {config["intermediate_size"]}, {config["num_attention_heads"]} query and {config["num_key_value_heads"]} key/value heads of {config["head_dim"]}, tied embeddings, context {config["max_position_embeddings"]} |
| weights | BF16 |
| tokenizer | byte-level BPE, {config["vocab_size"]} tokens, Llama 3's pre-tokenizer; a simple chat template in Llama 3's form |
| chat | a third of WordNet's training entries were told again as question and answer, so "Define WORD." and "What does WORD mean?" get an answer in that form, often a wrong one; nothing else was tuned |

```python
from transformers import pipeline
print(pipeline("text-generation", "models/reference")("In the beginning")[0]["generated_text"])
```

## Quality
{evaluation["tokens"]:,} held-out tokens ({evaluation["bytes"]:,} bytes), FP32 arithmetic on the BF16 weights,
windows of {config["max_position_embeddings"]} tokens that advance by half (transformers {evaluation["transformers"]}).
`held_out.txt` is tokenized as one text with the begin-of-text token first.

| model | text | perplexity per token | bits per byte |
| --- | --- | --- | --- |
| **this model** | all held out | **{evaluation["perplexity"]:.3f}** | **{evaluation["bits_per_byte"]:.4f}** |
| interpolated modified Kneser-Ney 5-gram on the same training tokens | all held out | {baseline["perplexity"]:.3f} | {evaluation["baseline_bits_per_byte"]:.4f} |
| this model | `held_out.txt` ({sample["tokens"]:,} tokens, {sample["bytes"]:,} bytes) | {sample["perplexity"]:.4f} | {sample["bits_per_byte"]:.4f} |

{100 * evaluation["below_baseline"]:.0f} % below the 5-gram. The held-out text is 2 % of the documents, chosen by a
hash of their names (whole books for the two Bibles); paragraphs that occur twice in the corpus were removed first,
so none is on both sides. `held_out.txt` is a sample of it, cut from documents in the public domain or under
CC0, Apache-2.0 or WordNet's licence: excerpts, markup removed.

![loss curve](training_loss.svg)

## Training
One run on one {run["device"]}: {last["seconds"]:.0f} s, {last["step"]:,} steps of {run["batch"]} windows,
{last["tokens"] / 1e9:.2f} billion tokens ({last["tokens"] / run["train_tokens"]:.0f} epochs of
{run["train_tokens"] / 1e6:.1f} million), {last["tokens_per_second"] / 1e6:.2f} million tokens/s. AdamW (0.9, 0.95),
weight decay {run["decay"]}, peak rate {run["rate"]}, warm-up then cosine to zero over the time budget, dropout
{run["dropout"]}, gradient clipping at 1, BF16 autocast with FP32 weights, seed {run["seed"]}, PyTorch {run["torch"]}.
Training loss at the end {last["train_loss"]} (with dropout), held-out {last["held_out_loss"]}
(perplexity {math.exp(last["held_out_loss"]):.2f} over disjoint windows). The scripts, the exact commands and the
log are in `tools/reference_model/`. GPU arithmetic and the clock-driven schedule make a second run agree in
quality, not bit for bit.

## Sources
Text extracted from these Debian 12 packages: public domain and permissive licences only, by each package's
copyright file (the copyleft parts that some of those list are code, build and test files, not the documentation
used here, but for one 5 kB page of the SWI-Prolog manual about a GPL library). Names of licence families are shortened; the copyright files have the exact terms and holders. Sizes
are after cleaning; the conversations made from WordNet come on top.

| package | version | licence | training, MB | held out, kB |
| --- | --- | --- | --- | --- |
{rows}
| **all** | | | **{sources["totals"]["train"] / 1e6:.2f}** | **{sources["totals"]["held_out"] / 1e3:.0f}** |

{WORDNET_NOTICE}

## Samples
Temperature 0.8, top-p 0.95, seed 1; the prompt in bold. The last two are chats.

{texts}
"""


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, default="build/reference_model")
    parser.add_argument("--model", type=pathlib.Path, default="models/reference")
    parser.add_argument("--log", type=pathlib.Path, default=pathlib.Path(__file__).parent / "training_log.jsonl")
    args = parser.parse_args()
    sources = json.loads((args.work / "sources.json").read_text())
    evaluation = json.loads((args.work / "evaluation.json").read_text())
    log = [json.loads(line) for line in args.log.read_text().splitlines()]
    (args.model / "README.md").write_text(card(sources, evaluation, log))


if __name__ == "__main__":
    main()
