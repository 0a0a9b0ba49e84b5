"""Small tokenizers built and trained by Hugging Face's library, with the normalizers, patterns,
processors and decoders of published models. No published vocabulary is needed for this."""

import base64
import functools
import json

from tokenizers import (AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers,
                        processors, trainers)

import corpus
import random_tokenizers

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
          r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")
TEKKEN = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|"
          r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|"
          r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")
O200K = (r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
         r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?|"
         r"\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+")


def special(content, **flags):
    return AddedToken(content, special=True, normalized=False, **flags)


def byte_level(pattern, normalizer=None, ignore_merges=False, vocab_size=3000):
    """Split by the pattern, then GPT-2's byte alphabet."""
    tokenizer = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    if normalizer is not None:
        tokenizer.normalizer = normalizer
    if pattern is None:
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(corpus.training_texts(), trainer)
    return tokenizer


def gpt2():
    tokenizer = byte_level(None)
    tokenizer.add_special_tokens(["<|endoftext|>"])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def gpt2_prefix_space():
    tokenizer = gpt2()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    return tokenizer


def llama3():
    tokenizer = byte_level(LLAMA3, ignore_merges=True)
    tokenizer.add_special_tokens([special("<|begin_of_text|>"), special("<|end_of_text|>"),
                                  special("<|im_start|>"), special("<|im_end|>")])
    bos = tokenizer.token_to_id("<|begin_of_text|>")
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=True),
        processors.TemplateProcessing(single="<|begin_of_text|> $A",
                                      pair="<|begin_of_text|> $A <|begin_of_text|>:1 $B:1",
                                      special_tokens=[("<|begin_of_text|>", bos)])])
    return tokenizer


def qwen2():
    tokenizer = byte_level(QWEN2, normalizer=normalizers.NFC())
    tokenizer.add_special_tokens([special(t) for t in
                                  ("<|endoftext|>", "<|im_start|>", "<|im_end|>")])
    tokenizer.add_tokens([AddedToken("<tool>", special=False, normalized=False),
                          AddedToken("</tool>", special=False, normalized=False)])
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    return tokenizer


def phi4():
    tokenizer = byte_level(LLAMA3)
    tokenizer.add_special_tokens([
        AddedToken("<|endoftext|>", special=True, normalized=False, lstrip=True, rstrip=True),
        AddedToken("<|im_start|>", special=True, normalized=False, lstrip=True, rstrip=True),
        AddedToken("<|im_end|>", special=True, normalized=False, lstrip=True, rstrip=True)])
    return tokenizer


def tekken():
    tokenizer = byte_level(TEKKEN, ignore_merges=True)
    tokenizer.add_special_tokens([special("<s>"), special("</s>"), special("[INST]"),
                                  special("[/INST]")])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A $B </s>",
        special_tokens=[("<s>", tokenizer.token_to_id("<s>")),
                        ("</s>", tokenizer.token_to_id("</s>"))])
    return tokenizer


def o200k():
    return byte_level(O200K)


def metaspace(legacy, scheme="first", split=False):
    """Llama-2 and Mistral: U+2581 for the space, bytes for unknown characters."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    # Training splits at spaces, so that no token spans words, like SentencePiece.
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    texts = [t for t in corpus.training_texts() if "\u0301" not in t and "\x00" not in t]
    trainer = trainers.BpeTrainer(vocab_size=3000, show_progress=False, limit_alphabet=300,
                                  special_tokens=["<unk>", "<s>", "</s>"] + byte_tokens)
    tokenizer.train_from_iterator(texts, trainer)
    # The trainer registers the byte tokens as special; in the published files they are not.
    document = json.loads(tokenizer.to_str())
    document["added_tokens"] = [t for t in document["added_tokens"]
                                if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    if legacy:
        tokenizer.pre_tokenizer = None
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"),
                                                     normalizers.Replace(" ", "▁")])
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                               decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    else:
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=split)
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                               decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", pair="<s> $A <s>:1 $B:1", special_tokens=[("<s>", 1)])
    return tokenizer


def gemma_like():
    """Replace as the normalizer, a Split by a plain string, NFKC and lower case."""
    tokenizer = metaspace(legacy=True)
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase(),
                                                 normalizers.Strip(), normalizers.Replace(" ", "▁")])
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_previous")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.add_tokens([AddedToken("Mixed Case", normalized=True),
                          AddedToken("word", single_word=True, normalized=True),
                          AddedToken("[INST]", lstrip=True, normalized=False)])
    return tokenizer


def no_fallback():
    """Unknown characters become <unk>, one each."""
    tokenizer = metaspace(legacy=False, scheme="always", split=True)
    document = json.loads(tokenizer.to_str())
    document["model"].update(byte_fallback=False, fuse_unk=False)
    return Tokenizer.from_str(json.dumps(document))


def legacy_merges(build):
    """The same file with merges as "a b", where no token contains a space, and no model type."""
    document = json.loads(build().to_str())
    document["model"]["merges"] = [" ".join(pair) for pair in document["model"]["merges"]]
    return Tokenizer.from_str(json.dumps(document)), json.dumps(document, ensure_ascii=False)


def classic_bpe():
    """Word ends marked by a suffix, characters inside words by a prefix; dropped unknowns."""
    tokenizer = Tokenizer(models.BPE(unk_token=None, continuing_subword_prefix="##",
                                     end_of_word_suffix="</w>"))
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFD(), normalizers.StripAccents()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation(),
        pre_tokenizers.Digits(individual_digits=True)])
    trainer = trainers.BpeTrainer(vocab_size=1500, show_progress=False, limit_alphabet=120,
                                  continuing_subword_prefix="##", end_of_word_suffix="</w>")
    tokenizer.train_from_iterator(corpus.training_texts(), trainer)
    tokenizer.decoder = decoders.BPEDecoder(suffix="</w>")
    return tokenizer


def unigram(byte_fallback=False, japanese=False):
    """SentencePiece's, as T5 and XLM-R have it, and Japanese Llamas with byte fallback."""
    byte_tokens = [f"<0x{byte:02X}>" for byte in range(256)] if byte_fallback else []
    specials = ["<unk>", "<s>", "</s>"] + byte_tokens
    tokenizer = Tokenizer(models.Unigram([("<unk>", 0.0)], 0, byte_fallback))
    tokenizer.normalizer = normalizers.Sequence([
        normalizers.Precompiled(base64.b64decode(random_tokenizers.double_array(CHARSMAP))),
        normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(
        prepend_scheme="never" if japanese else "always", split=not japanese)
    trainer = trainers.UnigramTrainer(vocab_size=900 + len(byte_tokens), show_progress=False,
                                      unk_token="<unk>", special_tokens=specials)
    tokenizer.train_from_iterator(corpus.training_texts(), trainer)
    document = json.loads(tokenizer.to_str())
    document["model"]["byte_fallback"] = byte_fallback
    document["added_tokens"] = [t for t in document["added_tokens"]
                                if not t["content"].startswith("<0x")]
    tokenizer = Tokenizer.from_str(json.dumps(document))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s>", pair="$A </s> $B </s>", special_tokens=[("</s>", 2)])
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    if byte_fallback:
        tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(),
                                               decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    return tokenizer


def bert(**options):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(**options)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(vocab_size=1500, show_progress=False, limit_alphabet=400,
                                        special_tokens=["[UNK]", "[CLS]", "[SEP]", "[MASK]"])
    tokenizer.train_from_iterator(corpus.training_texts(), trainer)
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 2), ("[CLS]", 1))
    tokenizer.decoder = decoders.WordPiece(prefix="##")
    return tokenizer


def word_level():
    tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(vocab_size=500, special_tokens=["<unk>"])
    tokenizer.train_from_iterator(corpus.training_texts(), trainer)
    return tokenizer


# Some of NFKC and of SentencePiece's own rules, on characters and on what combines to them.
CHARSMAP = {"\t": " ", "\n": " ", "\r\n": " ", "　": " ", "\u200b": "", "ﬁ": "fi", "½": "1⁄2", "…": "...",
            "Ａ": "A", "ｱ": "ア", "ｶﾞ": "ガ", "é": "é", "Å": "Å", "①": "1", "ſ": "s", "\xa0": " "}


def pre_tokenizer_only(pre_tokenizer):
    """Splits as told, then bytes: shows where a pre-tokenizer cuts."""
    tokenizer = byte_level(LLAMA3, vocab_size=1000)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizer, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    return tokenizer


MODELS = {
    "gpt2": gpt2,
    "gpt2-prefix-space": gpt2_prefix_space,
    "llama3": llama3,
    "qwen2": qwen2,
    "phi4": phi4,
    "tekken": tekken,
    "o200k": o200k,
    "llama2-legacy": functools.partial(metaspace, legacy=True),
    "llama2-first": functools.partial(metaspace, legacy=False),
    "llama2-always": functools.partial(metaspace, legacy=False, scheme="always"),
    "llama2-never-split": functools.partial(metaspace, legacy=False, scheme="never", split=True),
    "gemma-like": gemma_like,
    "no-fallback": no_fallback,
    "classic-bpe": classic_bpe,
    "unigram": unigram,
    "unigram-bytes": functools.partial(unigram, byte_fallback=True),
    "unigram-japanese": functools.partial(unigram, byte_fallback=True, japanese=True),
    "bert-uncased": bert,
    "bert-cased": functools.partial(bert, lowercase=False, strip_accents=False),
    "word-level": word_level,
}

PRE_TOKENIZERS = {
    "digits": pre_tokenizers.Digits(individual_digits=False),
    "individual-digits": pre_tokenizers.Digits(individual_digits=True),
    "punctuation-removed": pre_tokenizers.Punctuation("removed"),
    "punctuation-contiguous": pre_tokenizers.Punctuation("contiguous"),
    "whitespace": pre_tokenizers.Whitespace(),
    "bert": pre_tokenizers.BertPreTokenizer(),
    "scripts": pre_tokenizers.UnicodeScripts(),
    "delimiter": pre_tokenizers.CharDelimiterSplit("a"),
    "fixed-length": pre_tokenizers.FixedLength(3),
    "split-removed": pre_tokenizers.Split(Regex(r"\s+"), "removed"),
    "split-previous": pre_tokenizers.Split(Regex(r"[aeiou ]"), "merged_with_previous"),
    "split-next": pre_tokenizers.Split(Regex(r"[aeiou ]"), "merged_with_next"),
    "split-contiguous": pre_tokenizers.Split(Regex(r"[aeiou ]"), "contiguous"),
    "split-invert": pre_tokenizers.Split(Regex(r"\w+"), "removed", invert=True),
    "split-empty-matches": pre_tokenizers.Split(Regex(r"x*"), "isolated"),
    "split-lines": pre_tokenizers.Split(Regex(r"^.|.$"), "isolated"),
    "split-boundary": pre_tokenizers.Split(Regex(r"\b"), "isolated"),
    "split-repeated-interval": pre_tokenizers.Split(Regex(r"[a-z]{2}+"), "isolated"),
    "split-string": pre_tokenizers.Split("an", "isolated"),
}
