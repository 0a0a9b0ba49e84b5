"""Trains the byte-level BPE tokenizer and encodes both parts of the corpus.

Writes tokenizer.json, tokenizer_config.json and special_tokens_map.json to the
model's folder, and train.bin and held_out.bin (little-endian uint16 tokens;
every document is <|begin_of_text|> text <|end_of_text|>) to the work folder.
"""

import argparse
import json
import pathlib
import random

import numpy as np
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 4096
BOS, EOS = "<|begin_of_text|>", "<|end_of_text|>"
SPECIAL = [BOS, EOS, "<|finetune_right_pad_id|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
# The pre-tokenizer of Llama 3.
PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] + '<|eot_id|>' }}"
    "{% endfor %}{% if add_generation_prompt %}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)


def documents(path):
    """Returns the texts of a JSON-lines file in a fixed random order."""
    with open(path) as lines:
        texts = [json.loads(line)["text"] for line in lines]
    random.Random(0).shuffle(texts)
    return texts


def train(texts):
    """Returns a tokenizer trained on texts; the special tokens get the last ids."""
    tokenizer = tokenizers.Tokenizer(models.BPE())
    split = pre_tokenizers.Split(tokenizers.Regex(PATTERN), behavior="isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL), initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    tokenizer.train_from_iterator((t for t in texts if "<|eot_id|>" not in t), trainer)
    tokenizer.add_special_tokens(SPECIAL)
    bos = (BOS, tokenizer.token_to_id(BOS))
    template = processors.TemplateProcessing(single=f"{BOS} $A", pair=f"{BOS} $A {BOS} $B:1", special_tokens=[bos])
    tokenizer.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), template])
    return tokenizer


def save(tokenizer, folder, context):
    """Writes the tokenizer files of a Hugging Face model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    names = {"bos_token": BOS, "eos_token": EOS, "pad_token": SPECIAL[2]}
    config = {
        "added_tokens_decoder": {
            str(tokenizer.token_to_id(token)): {
                "content": token, "lstrip": False, "normalized": False,
                "rstrip": False, "single_word": False, "special": True,
            }
            for token in SPECIAL
        },
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "model_max_length": context,
        "tokenizer_class": "PreTrainedTokenizerFast",
    } | names  # fmt: skip
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    (folder / "special_tokens_map.json").write_text(json.dumps(names, indent=2) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, default="build/reference_model")
    parser.add_argument("--model", type=pathlib.Path, default="models/reference")
    parser.add_argument("--context", type=int, default=1024)
    args = parser.parse_args()
    parts = {part: documents(args.work / f"{part}.jsonl") for part in ("train", "held_out")}
    tokenizer = train(parts["train"])
    save(tokenizer, args.model, args.context)
    eos = tokenizer.token_to_id(EOS)
    for part, texts in parts.items():
        pieces = []
        for start in range(0, len(texts), 1000):
            for encoding in tokenizer.encode_batch(texts[start : start + 1000]):
                pieces.append(np.array(encoding.ids + [eos], dtype="<u2"))
        tokens = np.concatenate(pieces)
        tokens.tofile(args.work / f"{part}.bin")
        size = sum(len(text.encode()) for text in texts)
        print(
            f"{part}: {len(texts)} documents, {size} bytes, {len(tokens)} tokens, {size / len(tokens):.3f} bytes/token"
        )


if __name__ == "__main__":
    main()
