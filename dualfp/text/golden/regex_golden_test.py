"""Our regular expressions against Hugging Face's: the members of sets over the code points, and the matches of patterns on texts."""

import json
import os
import subprocess

os.environ.setdefault("RAYON_NUM_THREADS", "1")

import corpus
import pytest
import random_tokenizers
from tokenizers import Regex, pre_tokenizers

TOOL = os.path.join(os.environ["DUALFP_BUILD_DIR"], "layers", "text", "text_golden_tool")
# Every code point, of the large uniform ranges every 61st.
ALL = "".join(chr(c) for c in range(0x110000) if not 0xd800 <= c < 0xe000 and (
    c % 61 == 0 or not (0x3500 <= c < 0x9f00 or 0xac10 <= c < 0xd700 or 0xe010 <= c < 0xf8f0 or
                        0x12600 <= c < 0x13000 or 0x17010 <= c < 0x18700 or 0x20010 <= c < 0x2a600 or
                        0x2a800 <= c < 0x2b600 or 0x2b900 <= c < 0x2ea00 or 0x2fa20 <= c < 0xdff00 or
                        0xe0200 <= c < 0x10ff00)))

SETS = [
    r"\w", r"\W", r"[\w]", r"[^\w]", r"\d", r"[\D]", r"\s", r"\S", r"\h", r"[\H]", r"\O", r"\N",
    "[[:alpha:]]", "[[:digit:]]", "[[:alnum:]]", "[[:upper:]]", "[[:lower:]]", "[[:space:]]",
    "[[:blank:]]", "[[:cntrl:]]", "[[:punct:]]", "[[:graph:]]", "[[:print:]]", "[[:xdigit:]]",
    "[[:ascii:]]", "[[:word:]]", "[[:^word:]]", r"[^[:^punct:]]",
    *(rf"\p{{{name}}}" for name in (
        "L Lu Ll Lt Lm Lo M Mn Mc Me N Nd Nl No P Pc Pd Ps Pe Pi Pf Po S Sm Sc Sk So Z Zs Zl Zp C "
        "Cc Cf Cn Co LC Letter Cased_Letter Uppercase_Letter Mark Nonspacing_Mark Spacing_Mark "
        "Decimal_Number Punctuation Dash_Punctuation Symbol Other_Symbol Separator Other Format "
        "Unassigned Alpha Alnum Digit Space Punct Word Graph Print XDigit Blank Cntrl ASCII Any "
        "Assigned Alphabetic Uppercase Lowercase White_Space Emoji Emoji_Presentation "
        "Emoji_Modifier Extended_Pictographic ID_Start ID_Continue XID_Start XID_Continue "
        "Ideographic Unified_Ideograph Hex_Digit Dash Diacritic Math Grapheme_Extend "
        "Case_Ignorable Default_Ignorable_Code_Point Join_Control Han Hani Hiragana Katakana Latin "
        "Latn Greek Grek Cyrillic Arabic Hebrew Thai Hangul Devanagari Bengali Tamil Armenian "
        "Georgian Ethiopic Khmer Mongolian Common Zyyy Inherited Zinh Unknown Egyptian_Hieroglyphs "
        "Kawi Garay Myanmar Khojki In_Basic_Latin In_Latin_1_Supplement In_Greek_and_Coptic "
        "In_CJK_Unified_Ideographs In_Hiragana In_Emoticons In_No_Block").split()),
    r"\P{L}", r"\p{^Han}", r"\P{^Lu}", r"\p{ l_u-}", r"[\P{Alphabetic}\d]", r"[^\P{Cn}]",
    r"[\p{L}&&\p{ASCII}]", r"[\p{L}&&[^\p{Lu}]]", r"[^\p{L}&&\p{Latin}]", r"[a-f[x-z]&&[b-y]]",
    r"[\w&&[^\d]&&[^\p{Lu}]]", r"[[^a]]", r"[^[^a]]", r"[a[^\W]]", r"[&&a]", r"[]a]", r"[a-]",
    r"[-a]", r"[\]\[]", r"[\x{1F600}-\x{1F64F}]", r"[一-龯]", r"\u4e00", r"\x41", r"\101",
    r"\xe4\xb8\x80", r"[\xe4\xb8\x80]", r"[\b\e]", r"(?i:k)", r"(?i:[^a-z])",
]

PATTERNS = random_tokenizers.PATTERNS + [
    r"(?m)a.b", r"a.b", r"^x$", r"\d{2}+", r"a++b", r"a**b", r"a{2}?", r"a{,2}", r"a{,}", r"x{",
    r"\R", r"(?<n>a)b\k<n>", r"(a)\1", r"\Qa", r"\pL", r"a|", r"\Z", r"\A.", r"(?>a+)b",
    r"(?#[)a", r"\bthe\b", r"\B.", r"(?i)THE", r"(?i:[[a-c]&&[b-d]])+", r"[^\r\n]+\K.",
]


def ours(cases):
    lines = "".join(json.dumps(case) + "\n" for case in cases)
    result = subprocess.run([TOOL, "regex"], input=lines.encode(), check=True,
                            stdout=subprocess.PIPE)
    return [json.loads(line) for line in result.stdout.decode().split("\n")[:-1]]


def theirs(pattern, text):
    splitter = pre_tokenizers.Split(Regex(pattern), "isolated")
    return [part for part, _ in splitter.pre_tokenize_str(text)]


def members(pattern):
    """Of a set, by what is left when its runs are cut out."""
    run = f"(?:{pattern})+"
    result, = ours([{"pattern": run, "text": ALL}])
    assert "error" not in result, result
    return result["parts"], theirs(run, ALL)


@pytest.mark.parametrize("pattern", SETS)
def test_set(pattern):
    result, expected = members(pattern)
    assert result == expected


def test_patterns():
    texts = corpus.SAMPLES + corpus.random_texts(100, seed=21) + ["aab x{ a{,} aaaa bthe the ab"]
    cases = [{"pattern": pattern, "text": text} for pattern in PATTERNS for text in texts]
    for case, result in zip(cases, ours(cases)):
        assert result.get("parts") == theirs(case["pattern"], case["text"]), (case, result)


@pytest.mark.parametrize("pattern", [
    "(", "[a", "[]", "[^]", "[z-a]", r"[a-\d]", r"\p{Nope}", r"\p{sc=Greek}", r"\u12", "*", "\\",
    "(?<n", "[:x", "[[:nope:]]", "[[a]"])
def test_what_neither_reads(pattern):
    with pytest.raises(Exception):
        Regex(pattern)
    result, = ours([{"pattern": pattern, "text": "a"}])
    assert "case" in result["error"]
