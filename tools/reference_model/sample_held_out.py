"""Writes held_out.txt, a sample of the held-out documents for `dualfp eval`.

Takes documents whose licence is public domain, CC0, WordNet's or Apache-2.0
only; long ones are cut at a paragraph.
"""

import argparse
import json
import pathlib
import random

SAMPLE_LICENCES = ("public domain", "CC0", "WordNet", "Apache-2.0")
SAMPLE_BYTES, DOCUMENT_BYTES = 500_000, 6_000


def sample(documents, sources):
    """Returns the text of held_out.txt."""
    chosen, size = [], 0
    random.Random(0).shuffle(documents)
    for document in documents:
        licence = sources[document["name"].partition("/")[0]]["licence"]
        if not any(name in licence for name in SAMPLE_LICENCES):
            continue
        text = document["text"]
        if len(text) > DOCUMENT_BYTES:
            text = text[:DOCUMENT_BYTES].rpartition("\n\n")[0]
        size += len(text.encode()) + 2
        if size > SAMPLE_BYTES:
            break
        chosen.append(text)
    return "\n\n".join(chosen) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=pathlib.Path, default="build/reference_model")
    parser.add_argument("--model", type=pathlib.Path, default="models/reference")
    args = parser.parse_args()
    table = json.loads((args.work / "sources.json").read_text())["sources"]
    with open(args.work / "held_out.jsonl") as lines:
        documents = [json.loads(line) for line in lines]
    text = sample(documents, {source["package"]: source for source in table})
    (args.model / "held_out.txt").write_text(text)


if __name__ == "__main__":
    main()
