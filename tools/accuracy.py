#!/usr/bin/env python3
"""Writes docs/accuracy.md and its plots: what each format and activation scheme costs.

    tools/accuracy.py [--dualfp build/dualfp] [--max-tokens 8192]

Rows are measured with `dualfp eval`, all on the same tokens and against the plain FP16 weights. A
new format is one line in ROWS. Standard library only.
"""

import argparse
import concurrent.futures
import json
import os
import pathlib
import platform
import struct
import subprocess
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "reference"
TEXT = MODEL / "held_out.txt"
# Static scales are calibrated on the end of the text, which is not evaluated.
CALIBRATION_BYTES = 60_000

# (weights, activations, flags of dualfp eval), each on an FP16 copy of the model, but for those of
# the checkpoint itself, which is BF16.
CHECKPOINT = ("plain BF16, the checkpoint", "nested12, exact", "nested12, at FP8")
ROWS = [
    ("plain BF16, the checkpoint", "16 bit", ["--quantization", "none"]),
    ("nested12, exact", "16 bit", ["--quantization", "nested12"]),
    ("plain FP16", "16 bit", ["--quantization", "none"]),
    ("nested, at FP16", "16 bit", ["--quantization", "nested"]),
    *[
        (name, scheme, ["--quantization", quantization, "--precision", "fp8", "--activations", scheme])
        for name, quantization in [
            ("nested, at FP8", "nested"),
            ("nested12, at FP8", "nested12"),
            ("FP8, a scale per tensor", "fp8-tensor"),
            ("FP8, a scale per channel", "fp8-channel"),
            ("FP8, a scale per 128x128 block", "fp8-block"),
        ]
        for scheme in ("dynamic", "static", "none")
    ],
]


def bf16_to_fp16(bits):
    """One little-endian BF16 tensor's bytes as FP16, rounded to nearest even."""
    count = len(bits) // 2
    values = struct.unpack(f"<{count}f", b"".join(b"\0\0" + bits[i : i + 2] for i in range(0, len(bits), 2)))
    return struct.pack(f"<{count}e", *values)


def write_fp16_copy(source, directory):
    """The checkpoint with its BF16 tensors converted to FP16: what a plain FP16 model is."""
    for path in source.iterdir():
        if path.suffix == ".json":
            (directory / path.name).write_bytes(path.read_bytes())
    data = (source / "model.safetensors").read_bytes()
    (size,) = struct.unpack("<Q", data[:8])
    header, body = json.loads(data[8 : 8 + size]), bytearray(data[8 + size :])
    for name, entry in header.items():
        if name != "__metadata__" and entry["dtype"] == "BF16":
            begin, end = entry["data_offsets"]
            body[begin:end] = bf16_to_fp16(body[begin:end])
            entry["dtype"] = "F16"
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    (directory / "model.safetensors").write_bytes(struct.pack("<Q", len(text)) + text + body)


def processor():
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def interval(estimate, form, factor=1):
    value, low, high = (format(factor * estimate[key], form) for key in ("value", "low", "high"))
    return f"{value} <sub>{low} to {high}</sub>"


def table(results):
    lines = [
        "| weights | activations | perplexity, change in % | bits per byte | KL divergence, 10⁻³ nats: mean "
        "| 99th percentile | same top token, % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for (name, activations, _), result in results:
        lines.append(
            f"| {name} | {activations} | {result['perplexity']['value']:.4f}, "
            f"{interval(result['perplexity_change'], '+.3f', 100)} "
            f"| {result['bits_per_byte']['value']:.5f} | {interval(result['mean_kl'], '.3f', 1e3)} "
            f"| {interval(result['kl_99'], '.2f', 1e3)} | {interval(result['top1_agreement'], '.2f', 100)} |"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--dualfp", type=pathlib.Path, default=ROOT / "build" / "dualfp")
    parser.add_argument("--max-tokens", type=int, default=8192)
    parser.add_argument("--output", type=pathlib.Path, default=ROOT / "docs")
    parser.add_argument("--layer-tokens", type=int, default=4096, help="for the plot of single layers")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="rows at a time, a thread each")
    arguments = parser.parse_args()
    commit = subprocess.run(
        ["git", "describe", "--always", "--abbrev=10", "--dirty"], cwd=ROOT, capture_output=True, text=True
    ).stdout.strip()

    with tempfile.TemporaryDirectory() as temporary:
        work = pathlib.Path(temporary)
        fp16 = work / "reference-fp16"
        fp16.mkdir()
        write_fp16_copy(MODEL, fp16)
        calibration = work / "calibration.txt"
        calibration.write_bytes(TEXT.read_bytes()[-CALIBRATION_BYTES:])

        def evaluate(model, tokens, *flags):
            command = [arguments.dualfp, "eval", model, "--text", TEXT, "--max-tokens", tokens,
                       "--threads", 1, "--json", *flags]
            done = subprocess.run([str(word) for word in command], capture_output=True, text=True)
            if done.returncode:
                raise SystemExit(done.stderr)
            return json.loads(done.stdout)

        def measure(row):
            name, scheme, flags = row
            if scheme == "static":
                flags = [*flags, "--calibration-text", calibration]
            model = MODEL if name in CHECKPOINT else fp16
            result = evaluate(model, arguments.max_tokens, *flags, "--against-model", fp16)
            print(f"{name}, {scheme}: KL {result['mean_kl']['value']:.3e}", flush=True)
            return row, result

        def draw(scheme):
            svg = arguments.output / f"accuracy_layers_{scheme}.svg"
            evaluate(MODEL, arguments.layer_tokens, "--per-layer", "--activations", scheme, "--svg", svg)
            return f"![one part of the nested model at FP8, activations {scheme}]({svg.name})"

        with concurrent.futures.ThreadPoolExecutor(arguments.jobs) as pool:
            plot = pool.submit(draw, "dynamic")
            results = list(pool.map(measure, ROWS))
            plot = plot.result()

    any_result = results[0][1]
    replace_measured(
        arguments.output / "accuracy.md",
        f"{any_result['scored_tokens']} tokens ({any_result['scored_bytes']} bytes) of "
        f"`models/reference/held_out.txt`, {any_result['windows']} windows. "
        f"`tools/accuracy.py --max-tokens {arguments.max_tokens}` at commit "
        f"{commit} on {processor()} (CPU kernels). Small print: 95 % "
        "intervals over resampled windows; changes and divergences are from plain FP16.\n\n"
        + table(results)
        + f"\n\nOne layer, or one kind of projection in all layers, at FP8 and the rest at FP16, over the first "
        f"{arguments.layer_tokens} tokens (`dualfp eval models/reference --text models/reference/held_out.txt "
        f"--per-layer --max-tokens {arguments.layer_tokens} --svg FILE`):\n\n"
        + plot,
    )


BEGIN, END = "<!-- measured: tools/accuracy.py writes this part -->", "<!-- end of the measured part -->"


def replace_measured(path, text):
    """Puts the figures between the markers, leaving what people wrote around them."""
    page = path.read_text()
    before, rest = page.split(BEGIN)
    path.write_text(before + BEGIN + "\n" + text + "\n" + END + rest.split(END)[1])


if __name__ == "__main__":
    main()
