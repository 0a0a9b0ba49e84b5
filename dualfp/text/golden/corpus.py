"""Texts that exercise tokenizers: many scripts, code, emoji, control characters, noise."""

import random

SAMPLES = [
    "The quick brown fox jumps over the lazy dog. It's 7:45 a.m., and we've got 1,234,567 reasons!",
    "I'LL can't WON'T you're he'd they'Ve I'M 'S 'ſ",
    "Der schnelle braune Fuchs springt über den faulen Hund; Größe, Straße, ÄÖÜ.",
    "Le cœur déçu mais l'âme plutôt naïve, Louÿs rêva de crapaüter en canoë.",
    "Съешь же ещё этих мягких французских булок, да выпей чаю. №42",
    "Ξεσκεπάζω τὴν ψυχοφθόρα βδελυγμία. ΐ ΰ",
    "敏捷的棕色狐狸跳过了懒狗。他说:「你好,世界!」2024年3月15日",
    "いろはにほへと ちりぬるを。カタカナとひらがなと漢字が混ざった文章です。",
    "키스의 고유조건은 입술끼리 만나야 하고 특별한 기술은 필요치 않다. 각 각",
    "نص حكيم له سر قاطع وذو شأن عظيم مكتوب على ثوب أخضر. ١٢٣",
    "דג סקרן שט בים מאוכזב ולפתע מצא חברה. שָׁלוֹם",
    "ऋषियों को सताने वाले दुष्ट राक्षसों के राजा रावण का सर्वनाश करने वाले। १२३",
    "เป็นมนุษย์สุดประเสริฐเลิศคุณค่า กว่าบรรดาฝูงสัตว์เดรัจฉาน ๑๒๓",
    "ဗုဒ္ဓဘာသာ မြန်မာစာ ខ្មែរ ລາວ አማርኛ ქართული Հայերեն తెలుగు தமிழ்",
    "def f(x):\n    return {k: v for k, v in x.items() if v != 0}  # comment\n\n\n\tif a<=b: pass\r\n",
    "#include <vector>\nint main() { std::vector<int> v{1, 2, 3}; return v[0]->x & 0xFF; }\n",
    "SELECT * FROM t WHERE a='b' AND c>=10.5e-3; -- x\n<html><body class=\"a b\">&nbsp;</body></html>",
    "👍👍🏽 👩‍👩‍👧‍👦 🇩🇪🇫🇷 🏴‍☠️ ❤️‍🔥 1️⃣ ☺︎ 🫠🫶🏿",
    "e\u0301 a\u0308\u0323 \u1e9b\u0323 q\u0307\u0323 \u0344 \u212b \u2126 \ufb01 \u00bd \uff21\uff42",
    "\u1100\u1161\u11a8 \uac00\u11a8 \u0958 \u2adc \ufb2c \U0001d15e \U0002f800",
    "\x00\x01\x02\x1f\x7f\x80\x85\x9f\xa0\xad\u180e\u200b\u200c\u200d\u2028\u2029\u202e\u2060\ufeff\ufffd",
    "  leading and trailing   \t\t\n \n\n  \r\n\r\n   x    ",
    " ▁▁ ▁a▁ ▁ b▁▁▁c  d   e",
    "<s>[INST] hi [/INST]</s> <|im_start|>user\nhi<|im_end|> <|endoftext|>",
    "<|im_start|><|im_start|> <|im_start|>\t<|im_end|>x<|im_end|>y",
    "a" * 300 + "b" * 5 + "a" * 120,
    "abcdefghij" * 60,
    " " * 100 + "x" + "\n" * 50 + "y" + "\t \n" * 20,
    "好" * 200,
    "\u0301" * 40 + "x\u0316\u0301" * 30,
    "http://example.com/a/b?c=d&e=f#g user@example.org C:\\dir\\file.txt ~/.bashrc --flag=1",
    "1234567890 12 345 6789 ½ Ⅷ ² ①② 𝟙𝟚 ٣٤",
    "ǅ ǈ ʰʱ ªº Ǆ camelCaseWordHTTPServer XMLHttpRequest iPhone15Pro snake_case_name",
    "$100 + €200 = £300? ©®™ §¶ «quotes» “curly” ‘single’ –—…",
    "",
    " ",
    "\n",
    "x",
]

SPECIAL = [
    "<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "[INST]", "<unk>", "<0x41>", "▁",
    "<|begin_of_text|>", "<tool>", "word", "Mixed Case",
]


def training_texts():
    """Enough repetition for a few thousand merges."""
    generator = random.Random(7)
    texts = list(SAMPLES)
    words = " ".join(SAMPLES[:17]).split()
    for _ in range(300):
        texts.append(" ".join(generator.choices(words, k=30)))
    return texts


def random_code_point(generator):
    """Any scalar value, with the blocks that matter most often more likely."""
    low, high = generator.choice([
        (0x00, 0x7f), (0x00, 0x7f), (0x80, 0x24f), (0x250, 0x6ff), (0x900, 0xdff), (0x2000, 0x2bff),
        (0x3000, 0x30ff), (0x4e00, 0x9fff), (0xac00, 0xd7a3), (0x1100, 0x11ff), (0xf900, 0xffff),
        (0x1f000, 0x1faff), (0x10000, 0x10ffff),
    ])
    return chr(generator.randint(low, high))


def random_texts(count, seed):
    """Random code points, random mixtures of the samples, and random bytes decoded leniently."""
    generator = random.Random(seed)
    texts = []
    for i in range(count):
        kind = i % 4
        length = generator.choice([1, 2, 3, 5, 8, 20, 60])
        if kind == 0:
            text = "".join(random_code_point(generator) for _ in range(length))
        elif kind == 1:
            text = bytes(generator.randrange(256) for _ in range(length)).decode("utf-8", "replace")
        elif kind == 2:
            pieces = [" ", "  ", "\n", "\r\n", "\t", "'s", "'LL", "a", "B", "1", "23", "!", "é", "好",
                      "\u3000", "\xa0", "/", "\u0301", "ſ", "K"] + SPECIAL
            text = "".join(generator.choice(pieces) for _ in range(length))
        else:
            source = "".join(generator.choices(SAMPLES, k=3))
            start = generator.randrange(len(source) + 1)
            text = source[start:start + 4 * length]
        texts.append(text)
    return texts
