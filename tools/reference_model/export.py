"""Turns the weights that train.py wrote into a Hugging Face model folder."""

import argparse
import json
import pathlib

import safetensors.torch
import tokenizers
import torch


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--run", type=pathlib.Path, default="build/reference_model/run", help="train.py's --out")
    parser.add_argument("--model", type=pathlib.Path, default="models/reference")
    args = parser.parse_args()
    with open(args.run / "log.jsonl") as log:
        shape = json.loads(log.readline())["config"]
    weights = {}
    for path in sorted(args.run.glob("weights-*.pt")):
        weights |= torch.load(path)
    safetensors.torch.save_file(weights, args.model / "model.safetensors", metadata={"format": "pt"})

    tokenizer = tokenizers.Tokenizer.from_file(str(args.model / "tokenizer.json"))
    bos, eos, pad, end_of_turn = (
        tokenizer.token_to_id(f"<|{name}|>")
        for name in ("begin_of_text", "end_of_text", "finetune_right_pad_id", "eot_id")
    )
    config = {
        "architectures": ["LlamaForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": bos,
        "eos_token_id": [eos, end_of_turn],
        "hidden_act": "silu",
        "initializer_range": 0.02,
        "mlp_bias": False,
        "model_type": "llama",
        "pad_token_id": pad,
        "pretraining_tp": 1,
        "rope_scaling": None,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "use_cache": True,
    } | shape
    generation = {
        "bos_token_id": bos,
        "eos_token_id": [eos, end_of_turn],
        "pad_token_id": pad,
        "do_sample": True,
        "temperature": 0.8,
        "top_p": 0.95,
    }
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        (args.model / name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n")
    total = sum(path.stat().st_size for path in args.model.iterdir())
    print(f"{sum(w.numel() for w in weights.values())} parameters, folder of {total} bytes")


if __name__ == "__main__":
    main()
