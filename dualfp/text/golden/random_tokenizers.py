"""Random tokenizers: every kind of component in random order and with random settings, the models
trained on random texts by Hugging Face's library."""

import base64
import json
import struct

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers
from tokenizers import processors, trainers

import corpus

BEHAVIORS = ["removed", "isolated", "merged_with_previous", "merged_with_next", "contiguous"]

PATTERNS = [
    # Of the kind that published byte-level tokenizers have.
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|"
    r"\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|\p{N}|\s+",
    r"\s+", r"\w+|[^\w\s]+", r"[aeiou ]", r"\b", r"x*", r"^.|.$", r"[a-z&&[^aeiou]]+",
    r"[\p{L}&&[^\p{Latin}]]+", r"[^\s[:punct:]]+", r"[[:alpha:]]+|[[:digit:]]", r"\p{Han}|\p{Kana}+",
    r"[^\W\d]+", r"(?i:the|le)|\d{1,3}(?=(?:\d{3})*\b)", r"\p{Uppercase_Letter}\p{Ll}*",
    r"[\p{M}\p{Emoji_Presentation}]", r"\p{In_CJK_Unified_Ideographs}", r"(?<=\s)\S", r"\n|\r\n?",
    r"[^a-z[A-Z]]", r"\p{^Cyrillic}{2}", r"[[:^ascii:]]+",
]

STRINGS = [" ", "  ", "a", "e", "▁", "'", "é", "好", "\n", "an", "", "́"]

ADDED = ["<s>", "</s>", "<x>", "[MASK]", "  ", " ", "\n", "Mixed Case", "word", "é", "好", "▁", "ab",
         "<|im_start|>", "123", "ſ", "ÀB"]


def double_array(rules):
    """SentencePiece's compiled rules: a darts-clone double array, then the replacements."""
    trie, replacements = {}, b""
    for key, value in rules.items():
        node = trie
        for byte in key.encode():
            node = node.setdefault(byte, {})
        node[0] = len(replacements)
        replacements += value.encode() + b"\0"
    units = {0: 0}

    def place(node, at):
        base = next(b for b in range(1, 1 << 20)
                    if all(b ^ label not in units for label in node))
        for label in node:
            units[base ^ label] = 0
        units[at] |= (at ^ base) << 10 | (0 in node) << 8
        for label, child in node.items():
            if label == 0:
                units[base] = child | 1 << 31
            else:
                units[base ^ label] = label
                place(child, base ^ label)

    place(trie, 0)
    array = [units.get(i, 0) for i in range(max(units) + 256)]
    blob = struct.pack(f"<{len(array)}I", *array)
    return base64.b64encode(struct.pack("<I", len(blob)) + blob + replacements).decode()


class Builder:
    def __init__(self, generator):
        self.random = generator

    def flag(self):
        return self.random.random() < 0.5

    def pattern(self):
        if self.flag():
            return Regex(self.random.choice(PATTERNS))
        return self.random.choice([s for s in STRINGS if s])

    def charsmap(self):
        sources = ["ﬁ", "½", "Å", "é", "é", "à", "ｱ", "Ａ", "　", "\t", "\n", "①", "…",
                   "ab", "q", "́", "👍", "👍🏽", "ｶﾞ", "\u200b", "\r\n", "ß", "S", "क"]
        targets = ["fi", "1/2", "å", "é", "", " ", "a", "...", "ア", "ss", "x́", "▁"]
        keys = self.random.sample(sources, self.random.randint(1, 12))
        return {key: self.random.choice(targets) for key in keys}

    def normalizer(self, depth=0):
        n = normalizers
        kind = self.random.randrange(13 if depth == 0 else 11)
        if kind < 4:
            return [n.NFC, n.NFD, n.NFKC, n.NFKD][kind]()
        if kind == 4:
            return n.Replace(self.pattern(), self.random.choice(STRINGS))
        if kind == 5:
            return n.Prepend(self.random.choice(["▁", "a", " ", "xy"]))
        if kind == 6:
            return n.Strip(left=self.flag(), right=self.flag())
        if kind == 7:
            return n.BertNormalizer(clean_text=self.flag(), handle_chinese_chars=self.flag(),
                                    strip_accents=self.random.choice([None, True, False]),
                                    lowercase=self.flag())
        if kind == 8:
            return n.Precompiled(base64.b64decode(double_array(self.charsmap())))
        if kind < 11:
            return self.random.choice([n.StripAccents, n.Lowercase, n.Nmt])()
        return n.Sequence([self.normalizer(1) for _ in range(self.random.randint(0, 4))])

    def pre_tokenizer(self, depth=0):
        p = pre_tokenizers
        kind = self.random.randrange(15 if depth == 0 else 12)
        if kind == 0:
            return p.ByteLevel(add_prefix_space=self.flag(), use_regex=self.flag())
        if kind == 1:
            return p.Metaspace(prepend_scheme=self.random.choice(["always", "first", "never"]),
                               split=self.flag(), replacement=self.random.choice("▁▁_"))
        if kind < 5:
            return p.Split(self.pattern(), self.random.choice(BEHAVIORS), invert=self.flag())
        if kind == 5:
            return p.Digits(individual_digits=self.flag())
        if kind == 6:
            return p.Punctuation(self.random.choice(BEHAVIORS))
        if kind == 7:
            return p.CharDelimiterSplit(self.random.choice("a e"))
        if kind == 8:
            return p.FixedLength(self.random.randint(1, 9))
        if kind == 9:
            return p.UnicodeScripts()
        if kind < 12:
            return self.random.choice([p.Whitespace, p.WhitespaceSplit, p.BertPreTokenizer])()
        return p.Sequence([self.pre_tokenizer(1) for _ in range(self.random.randint(0, 3))])

    def decoder(self, depth=0):
        d = decoders
        kind = self.random.randrange(13 if depth == 0 else 10)
        if kind == 0:
            return d.ByteLevel()
        if kind == 1:
            return d.Metaspace(prepend_scheme=self.random.choice(["always", "first", "never"]))
        if kind == 2:
            return d.WordPiece(prefix=self.random.choice(["##", "▁"]), cleanup=self.flag())
        if kind == 3:
            return d.CTC(pad_token=self.random.choice(["<s>", "a"]),
                         word_delimiter_token=self.random.choice(["|", "▁"]), cleanup=self.flag())
        if kind == 4:
            return d.Strip(self.random.choice(" a▁"), self.random.randint(0, 2),
                           self.random.randint(0, 2))
        if kind == 5:
            return d.Replace(self.random.choice(["▁", Regex(r"\s"), "a"]),
                             self.random.choice([" ", "", "b"]))
        if kind < 9:
            return [d.ByteFallback, d.Fuse, d.BPEDecoder][kind - 6]()
        if kind == 9:
            return d.Replace("▁", " ")
        return d.Sequence([self.decoder(1) for _ in range(self.random.randint(1, 4))])

    def post_processor(self, tokenizer, depth=0):
        specials = [(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")]
        first, second = self.random.sample(specials, 2)
        kind = self.random.randrange(5 if depth == 0 else 4)
        if kind == 0:
            return processors.ByteLevel(trim_offsets=self.flag())
        if kind == 1:
            return processors.BertProcessing(second, first)
        if kind == 2:
            return processors.RobertaProcessing(second, first, add_prefix_space=self.flag())
        if kind == 3:
            single = self.random.choice(["<s> $A", "$A </s>", "<s> $A </s>", "<s> <s> $A", "$A"])
            return processors.TemplateProcessing(single=single, pair="$A </s> $B",
                                                 special_tokens=specials)
        return processors.Sequence([self.post_processor(tokenizer, 1)
                                    for _ in range(self.random.randint(0, 3))])

    def model(self):
        """An empty model and its trainer."""
        size = self.random.choice([60, 200, 600])
        bytes_too = self.random.random() < 0.3
        specials = ["<unk>", "<s>", "</s>"]
        specials += [f"<0x{byte:02X}>" for byte in range(256)] if bytes_too else []
        size += len(specials)
        kind = self.random.randrange(4)
        if kind == 0:
            affixes = {}
            if self.random.random() < 0.2:
                affixes = {"continuing_subword_prefix": "##", "end_of_word_suffix": "</w>"}
            return (models.BPE(unk_token=self.random.choice([None, "<unk>"]),
                               fuse_unk=self.flag(), byte_fallback=bytes_too, **affixes,
                               ignore_merges=self.flag()),
                    trainers.BpeTrainer(vocab_size=size, show_progress=False, limit_alphabet=150,
                                        special_tokens=specials, **affixes))
        if kind == 1:
            # Its trainer wants room for all characters.
            return (models.Unigram([("<unk>", 0.0)], 0, bytes_too),
                    trainers.UnigramTrainer(vocab_size=size + 900, show_progress=False,
                                            unk_token="<unk>", special_tokens=specials))
        if kind == 2:
            return (models.WordPiece(unk_token="<unk>",
                                     max_input_chars_per_word=self.random.choice([5, 20, 100])),
                    trainers.WordPieceTrainer(vocab_size=size, show_progress=False,
                                              limit_alphabet=150, special_tokens=specials))
        return (models.WordLevel(unk_token="<unk>"),
                trainers.WordLevelTrainer(vocab_size=size, show_progress=False,
                                          special_tokens=specials))

    def tokenizer(self):
        model, trainer = self.model()
        tokenizer = Tokenizer(model)
        if self.random.random() < 0.7:
            tokenizer.normalizer = self.normalizer()
        if self.random.random() < 0.8:
            tokenizer.pre_tokenizer = self.pre_tokenizer()
        texts = self.random.sample(corpus.SAMPLES, 12)
        texts += [" ".join(self.random.choices(texts[0].split() or ["x"], k=20)) for _ in range(5)]
        tokenizer.train_from_iterator(texts, trainer)
        document = json.loads(tokenizer.to_str())
        # The trainer registers the byte tokens as special; in published files they are not.
        document["added_tokens"] = [t for t in document["added_tokens"]
                                    if not t["content"].startswith("<0x")]
        settings = document["model"]
        if settings["type"] in ("BPE", "Unigram"):
            settings["byte_fallback"] = "<0x41>" in str(settings["vocab"])
        if settings["type"] == "Unigram" and self.random.random() < 0.1:
            settings["unk_id"] = None
        tokenizer = Tokenizer.from_str(json.dumps(document))
        forms = set()
        for content in self.random.sample(ADDED, self.random.randint(0, 6)):
            token = AddedToken(content, single_word=self.random.random() < 0.2,
                               lstrip=self.random.random() < 0.3,
                               rstrip=self.random.random() < 0.3, normalized=self.flag())
            # Which of two tokens is found that look alike in normalized text is a matter of the
            # library's hash map.
            if token.normalized and tokenizer.normalizer is not None:
                form = tokenizer.normalizer.normalize_str(content)
                if form in forms:
                    continue
                forms.add(form)
            if self.flag():
                tokenizer.add_special_tokens([token])
            else:
                tokenizer.add_tokens([token])
        if self.flag():
            tokenizer.post_processor = self.post_processor(tokenizer)
        if self.random.random() < 0.8:
            tokenizer.decoder = self.decoder()
        return tokenizer
