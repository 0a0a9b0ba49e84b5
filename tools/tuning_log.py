#!/usr/bin/env python3
"""Packs what `dualfp tune` and the GPU benchmarks record to a fraction of its size, and unpacks it.

    tuning_log.py pack LOG.jsonl LOG.xz
    tuning_log.py unpack LOG.xz... FOLDER     writes FOLDER/LOG.jsonl of each

A tuner's plans become indices into a list of names, and their times thousandths above the point's fastest
plan: an unpacked time is within 0.06 % of what was measured. The points' winners, and all records
of other kinds, are kept exactly.
"""

import json
import lzma
import pathlib
import sys

HEAD = ("format", "n", "k", "m", "plan", "us")


def pack(lines):
    records = [json.loads(line) for line in lines]
    tuned = [record for record in records if record["kind"] == "tuned"]
    names = sorted({name for record in tuned for name in record["timed"]})
    index = {name: i for i, name in enumerate(names)}
    yield [record for record in records if record["kind"] != "tuned"]
    yield names
    # Neighbours are alike, which compresses best.
    for record in sorted(tuned, key=lambda r: (r["format"], r["m"], r["n"], r["k"])):
        best = min(record["timed"].values())
        timed = sorted((index[name], time) for name, time in record["timed"].items())
        others = {key: value for key, value in record.items() if key not in (*HEAD, "kind", "timed")}
        steps = [b - a for a, b in zip([0] + [i for i, _ in timed], (i for i, _ in timed))]
        above = [round((time / best - 1) * 1000) for _, time in timed]
        yield [*(record[key] for key in HEAD), others, best, steps, above]


def unpack(lines):
    rows = (json.loads(line) for line in lines)
    yield from next(rows)
    names = next(rows)
    for *head, others, best, steps, above in rows:
        timed = []
        place = 0
        for step, thousandths in zip(steps, above):
            place += step
            timed.append((best * (1 + thousandths / 1000), names[place]))
        yield {"kind": "tuned", **dict(zip(HEAD, head)), **others,
               "timed": {name: round(time, 3) for time, name in sorted(timed)}}


def write(out, rows):
    for row in rows:
        out.write(json.dumps(row, separators=(",", ":")) + "\n")


def main():
    command, *sources, target = sys.argv[1:]
    if command == "pack":
        [source] = sources
        preset = 9 | lzma.PRESET_EXTREME
        with open(source, encoding="utf-8") as lines, \
                lzma.open(target, "wt", encoding="utf-8", preset=preset) as out:
            write(out, pack(lines))
    elif command == "unpack":
        folder = pathlib.Path(target)
        folder.mkdir(parents=True, exist_ok=True)
        for source in map(pathlib.Path, sources):
            with lzma.open(source, "rt", encoding="utf-8") as lines, \
                    open(folder / f"{source.stem}.jsonl", "w", encoding="utf-8") as out:
                write(out, unpack(lines))
    else:
        sys.exit(__doc__)


if __name__ == "__main__":
    main()
