"""Builds the training text of the reference model from Debian packages.

Downloads the packages of sources.tsv with apt-get, extracts their prose,
removes repeated paragraphs across the whole corpus and splits the documents
into a training and a held-out part by a hash of their names.
"""

import argparse
import collections
import hashlib
import json
import multiprocessing
import pathlib
import re
import subprocess
import urllib.parse

import readers

HERE = pathlib.Path(__file__).parent
HELD_OUT_SHARE = 0.02
# Two translations of the Bible: the same books are held out of both.
HELD_OUT_BOOKS = {"Ruth", "Jonah", "Jas", "Titus", "Phil", "Hab"}
MIN_DOCUMENT = 300  # characters
CHAT_SHARE = 1 / 3  # of WordNet's training documents, told again as conversations
QUESTIONS = ("What does {} mean?", "What is the meaning of {}?", "Define {}.", "Can you explain {}?")
_MARKUP = re.compile("[\u200b\u00ad\ufeff\ue000-\uf8ff\ufffd]")
_BOILERPLATE = re.compile(
    r"copyright \(?[c©]|all rights reserved|created using sphinx|last updated on|generated (on|by)|"
    r"licensed under|trademark|documentation built with|edit this page|javascript",
    re.IGNORECASE,
)


def load_sources():
    """Returns sources.tsv as dictionaries."""
    rows = []
    for line in (HERE / "sources.tsv").read_text().splitlines():
        if not line.startswith("#"):
            package, licence, reader, patterns = line.split("\t")
            rows.append({"package": package, "licence": licence, "reader": reader, "patterns": patterns.split()})
    return rows


def unpack(package, work):
    """Downloads and unpacks one package unless that was done; returns (folder, version)."""
    debs, root = work / "debs", work / "unpacked" / package
    debs.mkdir(parents=True, exist_ok=True)
    if not list(debs.glob(f"{package}_*.deb")):
        subprocess.run(["apt-get", "download", "-q", package], cwd=debs, check=True, capture_output=True)
    deb = max(debs.glob(f"{package}_*.deb"))
    if not root.exists():
        root.mkdir(parents=True)
        subprocess.run(["dpkg-deb", "-x", deb, root], check=True)
    return root, urllib.parse.unquote(deb.name.split("_")[1])


def clean(text):
    """Normalises one document: quotes, dashes, spaces; drops boilerplate paragraphs."""
    for old, new in ("‘'", "’'", '“"', '”"', "–-", "‐-", "‑-", "\xa0 ", "\t "):
        text = text.replace(old, new)
    text = _MARKUP.sub("", text).replace("—", "--").replace("…", "...")
    paragraphs = []
    for paragraph in text.split("\n\n"):
        paragraph = paragraph.strip("\n")
        ascii_share = sum(c < "\x7f" for c in paragraph) / max(1, len(paragraph))
        if paragraph.strip() and ascii_share > 0.9 and not _BOILERPLATE.search(paragraph):
            paragraphs.append(paragraph)
    return paragraphs


def extract(job):
    """Returns (source, [(document name, paragraphs)])."""
    source, work = job
    root, source["version"] = unpack(source["package"], work)
    documents = [
        (f"{source['package']}/{name}", clean(text))
        for name, text in readers.read_package(root, source["reader"], source["patterns"])
    ]
    return source, documents


def is_held_out(name):
    """Decides by the document's name alone which side of the split it is on."""
    package, _, document = name.partition("/")
    if package in ("bible-kjv-text", "sword-text-web"):
        return document.split()[0] in HELD_OUT_BOOKS
    return name_fraction(name) < HELD_OUT_SHARE


def drop_repeats(documents, seen):
    """Yields the documents without paragraphs that an earlier one already had."""
    for name, paragraphs in documents:
        kept, new_prose = [], 0
        for paragraph in paragraphs:
            key = re.sub(r"\W+", " ", paragraph.lower()).strip()
            if len(key) < 40:  # headings and terms may repeat
                kept.append(paragraph)
            elif key not in seen:
                seen.add(key)
                kept.append(paragraph)
                new_prose += len(paragraph)
        while kept and len(kept[-1]) < 40:
            kept.pop()
        text = "\n\n".join(kept)
        if new_prose >= MIN_DOCUMENT and new_prose >= 0.5 * len(text):
            yield name, text


def name_fraction(name):
    """Returns a number in [0, 1) that depends on the name alone."""
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") / 2**64


def to_chat(name, text):
    """Yields WordNet's entries as conversations of four questions, in the chat template's form."""
    entries = text.split("\n\n")
    for start in range(0, len(entries), 4):
        turns = []
        for entry in entries[start : start + 4]:
            words, _, gloss = entry.partition(": ")
            word = words.split(",")[0].split(" (")[0]
            kind = words.rpartition("(")[2].rstrip(")")
            question = QUESTIONS[int(len(QUESTIONS) * name_fraction(name + word))].format(word)
            article = "an" if kind[0] in "aeiou" else "a"
            answer = f"As {article} {kind}, {word} means: {gloss}"
            for role, content in (("user", question), ("assistant", answer)):
                turns.append(f"<|start_header_id|>{role}<|end_header_id|>\n\n{content}<|eot_id|>")
        yield f"{name}/chat{start}", "".join(turns)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, default="build/reference_model")
    parser.add_argument("--jobs", type=int, default=2)
    args = parser.parse_args()
    seen, table = set(), []
    totals = collections.Counter()
    args.work.mkdir(parents=True, exist_ok=True)
    with (
        multiprocessing.Pool(args.jobs) as pool,
        open(args.work / "train.jsonl", "w") as train,
        open(args.work / "held_out.jsonl", "w") as held_out,
    ):
        jobs = [(source, args.work) for source in load_sources()]
        for source, documents in pool.imap(extract, jobs):
            size = collections.Counter()
            for name, text in drop_repeats(documents, seen):
                side = "held_out" if is_held_out(name) else "train"
                size[side] += len(text.encode())
                size[side + "_documents"] += 1
                texts = [(name, text)]
                if source["reader"] == "wordnet" and side == "train" and name_fraction("chat" + name) < CHAT_SHARE:
                    texts += to_chat(name, text)
                for name_, text_ in texts:
                    line = json.dumps({"name": name_, "text": text_}, ensure_ascii=False)
                    (held_out if side == "held_out" else train).write(line + "\n")
            totals.update(size)
            table.append({k: source[k] for k in ("package", "version", "licence")} | dict(size))
            print(
                f"{source['package']:40} {size['train'] / 1e6:8.2f} MB {size['train_documents']:6} documents",
                flush=True,
            )
    (args.work / "sources.json").write_text(json.dumps({"totals": totals, "sources": table}, indent=1))
    print({k: v for k, v in totals.items()})


if __name__ == "__main__":
    main()
