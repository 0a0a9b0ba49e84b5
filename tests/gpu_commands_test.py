"""dualfp tune, bench gemm --device cuda and bench report where there is no GPU: help, errors, files."""

import json
import os
import pathlib
import subprocess
import sys
import xml.etree.ElementTree

import pytest
from records import unpack_records

DUALFP = os.environ["DUALFP_BINARY"]
SOURCE_DIR = pathlib.Path(os.environ["DUALFP_SOURCE_DIR"])
HAS_CUDA = (
    "no CUDA kernels"
    not in subprocess.run(
        [DUALFP, "tune", "--explain", "16,16,1"], capture_output=True, text=True, timeout=60
    ).stderr
)
needs_cuda_build = pytest.mark.skipif(not HAS_CUDA, reason="a build without CUDA kernels")

TUNED_FORMATS = ["nested", "nested12", "nested12-f16", "f16", "bf16", "fp8", "fp8-promoted"]
# Those that run another's kernels have no rows of their own.
FORMATS = TUNED_FORMATS[:-1] + ["fp8-nested12", "fp8-promoted", "fp8-block"]

RUN = {"kind": "run", "gpu": "NVIDIA H200", "sms": 132, "kernels": "k", "command": "c"}
POINT = {
    "kind": "point", "format": "nested", "n": 4096, "k": 4096, "m": 16, "plan": "p",
    "us": 12.0, "no_overlap_us": 13.0, "cublaslt_us": 11.0, "with_quantize_us": 0, "error": 2e-4,
}  # fmt: skip


def dualfp(*arguments, cwd=None, **variables):
    return subprocess.run(
        [DUALFP, *map(str, arguments)],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=120,
        env={**os.environ, "CUDA_VISIBLE_DEVICES": "", **variables},
    )


def write_records(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


@pytest.mark.parametrize("command", [("tune",), ("bench", "gemm"), ("bench", "report")])
def test_help_fits_a_screen_and_has_an_example(command):
    result = dualfp(*command, "--help")
    assert result.returncode == 0
    lines = result.stdout.splitlines()
    assert len(lines) <= 45
    assert max(map(len, lines)) <= 130
    assert f"Example: dualfp {' '.join(command)} " in result.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("tune", "--output", "t"),
        ("tune", "--published"),
        ("tune", "--n", "4096", "--output", "t"),
        ("tune", "--n", "4100", "--k", "4096", "--output", "t"),
        ("tune", "--n", "4096", "--k", "4096", "--m", "9:1:1", "--output", "t"),
        ("tune", "--n", "4096", "--k", "4096", "--m", "", "--output", "t"),
        ("tune", "--n", "4096", "--k", "4096", "--format", "int4", "--output", "t"),
        ("tune", "--n", "4096", "--k", "4096", "--format", "fp8-block", "--output", "t"),
        ("tune", "--published", "--tensor-parallel", "3", "--output", "t"),
        ("tune", "--published", "--gpus", "-1", "--output", "t"),
        ("tune", "--explain", "4096,4096"),
        ("tune", "--explain", "4096,4100,1"),
        ("bench", "gemm", "--device", "tpu"),
        ("bench", "gemm", "--plot", "p"),
        ("bench", "gemm", "--top", "3"),
        ("bench", "gemm", "--device", "cuda", "--shape", "4096"),
        ("bench", "gemm", "--device", "cuda", "--format", "f32"),
        ("bench", "gemm", "--device", "cuda", "--m", "0"),
        ("bench", "report", "--output", "x.md"),
        ("bench", "report", "x.jsonl"),
    ],
)
def test_usage_errors(arguments, tmp_path):
    result = dualfp(*arguments, cwd=tmp_path)
    assert result.returncode == 2, result
    assert result.stdout == ""
    assert "--help" in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "arguments",
    [
        ("tune", "--n", "4096", "--k", "4096", "--output", "t"),
        ("tune", "--model", SOURCE_DIR / "models/reference", "--output", "t"),
        ("bench", "gemm", "--device", "cuda", "--json", "j"),
        ("bench", "gemm", "--device", "cuda", "--format", "nested-fp8," + ",".join(FORMATS)),
        ("tune", "--n", "16", "--k", "16", "--format", ",".join(TUNED_FORMATS), "--output", "t"),
    ],
)
def test_without_a_gpu(arguments, tmp_path):
    result = dualfp(*arguments, cwd=tmp_path)
    assert result.returncode == 1
    assert result.stderr.startswith("dualfp: error: ")
    assert "no GPU: " in result.stderr or "no CUDA kernels" in result.stderr
    assert result.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_format_is_told_the_others():
    result = dualfp("bench", "gemm", "--device", "cuda", "--format", "nested,f32")
    assert "f32 is not measured on GPUs; expected " + ", ".join(FORMATS) in result.stderr
    result = dualfp("tune", "--explain", "16,16,1", "--format", "int4")
    assert "{" + ",".join(TUNED_FORMATS) + "}" in result.stderr
    assert "Formats on GPUs: " + ", ".join(FORMATS) in dualfp("bench", "gemm", "--help").stdout
    assert "Of: " + ", ".join(TUNED_FORMATS) in dualfp("tune", "--help").stdout


def test_model_without_config(tmp_path):
    result = dualfp("tune", "--model", tmp_path, "--output", tmp_path / "t")
    assert result.returncode == 1
    assert "config.json" in result.stderr


@needs_cuda_build
def test_explain_tells_the_plan_and_why():
    result = dualfp("tune", "--explain", "4096,4096,16", "--format", "nested")
    assert result.returncode == 0
    assert "Y[16, 4096] = X[16, 4096] W[4096, 4096]^T" in result.stdout
    assert "why:  tuned, tuned_h200.txt:" in result.stdout
    assert result.stdout == dualfp("tune", "--explain", "4096,4096,16", "--format", "nested").stdout
    result = dualfp("tune", "--explain", "1040,2064,100", "--format", "fp8-promoted")
    assert result.stdout.startswith("e4m3_promoted Y[100, 1040]")
    assert "plan: e4m3_promoted_" in result.stdout
    result = dualfp("tune", "--explain", "1040,2064,100", "--format", "fp8")
    assert "why:  the cost model's best; no tuned row for N = 1040, K = 2064" in result.stdout


@needs_cuda_build
def test_a_table_from_records_selects(tmp_path):
    # The slowest plan that the model knows of, so that nothing else would choose it.
    plans = dualfp("tune", "--explain", "1040,2064,16", "--format", "nested").stdout.splitlines()
    plan = plans[-1].split()[-1]
    records = write_records(
        tmp_path / "r.jsonl", RUN, {**POINT, "n": 1040, "k": 2064, "plan": plan, "us": 99.0}
    )
    table = tmp_path / "t.table"
    result = dualfp("tune", "--from", records, "--output", table)
    assert result.returncode == 0, result.stderr
    assert "1 rows for NVIDIA H200" in result.stdout
    assert f"nested 1040 2064\n16 {plan.removeprefix('nested_')} 99.00\n" in table.read_text()
    for how in [("--table", table), ()]:
        variables = {} if how else {"DUALFP_TUNED_TABLE": str(table)}
        text = dualfp(
            "tune", "--explain", "1040,2064,9", "--format", "nested", *how, **variables
        ).stdout
        assert f"plan: {plan}\n" in text
        assert f"why:  tuned, {table}:" in text
        assert "with kernels k (this build has" in text


@needs_cuda_build
@pytest.mark.parametrize(
    "content, message",
    [
        ("", ':1: expected "dualfp-tuned-table 2" in the first line'),
        ("dualfp-tuned-table 2\ndevice x\n", ':2: expected "device MULTIPROCESSORS NAME"'),
        (
            "dualfp-tuned-table 2\ndevice 132 NVIDIA H200\nnested 16 16\n1 no_such_plan 1.5\n",
            ":4: no plan of this build is named nested_no_such_plan",
        ),
        ("dualfp-tuned-table 2\ndevice 78 Other\n", " (DUALFP_TUNED_TABLE) is for Other with 78"),
    ],
)
def test_bad_tables(content, message, tmp_path):
    table = tmp_path / "bad.table"
    table.write_text(content)
    result = dualfp("tune", "--explain", "4096,4096,1", DUALFP_TUNED_TABLE=str(table))
    assert result.returncode == 1
    assert result.stderr.startswith(f"dualfp: error: {table}{message}")


@needs_cuda_build
def test_missing_table_and_records(tmp_path):
    result = dualfp("tune", "--explain", "4096,4096,1", "--table", tmp_path / "none")
    assert result.returncode == 1
    assert str(tmp_path / "none") in result.stderr
    result = dualfp("tune", "--from", tmp_path / "none", "--output", tmp_path / "t")
    assert result.returncode == 1
    assert str(tmp_path / "none") in result.stderr
    assert not (tmp_path / "t").exists()


def test_report_writes_a_page_with_plots(tmp_path):
    records = write_records(
        tmp_path / "r.jsonl", RUN, POINT, {**POINT, "m": 64}, {**POINT, "format": "fp8"}
    )
    page = tmp_path / "out.md"
    result = dualfp("bench", "report", records, "--output", page)
    assert result.returncode == 0, result.stderr
    text = page.read_text()
    assert "| NestedFP16 ÷ cuBLASLt FP16, M = 1 … 4096 | 2 | **0.917** | 0.917 |" in text
    plots = sorted((tmp_path / "out").iterdir())
    assert [plot.name for plot in plots] == [
        "fp8_4096_4096.svg", "fp8_speed.svg", "nested_4096_4096.svg", "nested_speed.svg",
    ]  # fmt: skip
    for plot in plots:
        assert f"](out/{plot.name})" in text
        root = xml.etree.ElementTree.parse(plot).getroot()
        assert root.tag == "{http://www.w3.org/2000/svg}svg"
        left, top, width, height = map(float, root.attrib["viewBox"].split())
        for element in root.iter():
            for key, low, size in (("x", left, width), ("cx", left, width),
                                   ("y", top, height), ("cy", top, height)):  # fmt: skip
                assert low <= float(element.attrib.get(key, 0)) <= low + size


def test_report_of_every_format(tmp_path):
    records = write_records(
        tmp_path / "r.jsonl", RUN, *({**POINT, "format": format} for format in FORMATS)
    )
    result = dualfp("bench", "report", records, "--output", tmp_path / "out.md")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "out.md").read_text()
    for title, baseline in [("FP16", "FP16"), ("BF16", "BF16"), ("FP8, promoted", "FP8 promoted"),
                            ("FP8, block scales", "FP8 block scales")]:  # fmt: skip
        assert f"| {title} ÷ cuBLASLt {baseline} | 1 | **0.917** | 0.917 |\n" in text
    # Promoted sums, with block scales or without, lie on FP8's roofline.
    rates = [format for format in FORMATS if format not in ("fp8-promoted", "fp8-block")]
    assert {plot.name for plot in (tmp_path / "out").iterdir()} == {
        *(f"{format}_speed.svg" for format in FORMATS),
        *(f"{format}_4096_4096.svg" for format in rates),
    }


def test_report_names_the_bad_line(tmp_path):
    records = write_records(tmp_path / "r.jsonl", RUN, {**POINT, "us": "fast"})
    result = dualfp("bench", "report", records, "--output", tmp_path / "out.md")
    assert result.returncode == 1
    assert f"{records}:2: field us: expected" in result.stderr
    assert not (tmp_path / "out.md").exists()


def test_the_page_is_that_of_the_records(tmp_path):
    """docs/performance.md is what the recorded files give."""
    if not HAS_CUDA:
        pytest.skip("the cost model's figures need a build with CUDA kernels")
    records = unpack_records(tmp_path, "h200-*")
    result = dualfp("bench", "report", *records, "--output", tmp_path / "performance.md")
    assert result.returncode == 0, result.stderr
    made = (tmp_path / "performance.md").read_text().splitlines()
    kept = (SOURCE_DIR / "docs/performance.md").read_text().splitlines()
    # The third line names the command, and with it the output.
    assert made[3:] == kept[3:]


def test_a_packed_tuning_log_keeps_every_plan(tmp_path):
    tuned = {"kind": "tuned", "format": "f16", "n": 4096, "k": 1024, "m": 16, "plan": "b",
             "us": 11.25, "cublaslt_us": 12.5}  # fmt: skip
    records = [RUN, {**tuned, "timed": {"b": 11.3, "a": 11.4, "d": 45.678}},
               {**tuned, "m": 1, "plan": "c", "timed": {"c": 9.999}},
               {"kind": "failed", "format": "f16", "plan": "e", "reason": "did not finish"}]  # fmt: skip
    log = write_records(tmp_path / "log.jsonl", *records)
    packer = [sys.executable, SOURCE_DIR / "tools/tuning_log.py"]
    subprocess.run([*packer, "pack", log, tmp_path / "log.xz"], check=True, timeout=60)
    subprocess.run([*packer, "unpack", tmp_path / "log.xz", tmp_path / "again"], check=True, timeout=60)
    again = [json.loads(line) for line in (tmp_path / "again/log.jsonl").read_text().splitlines()]
    def plans(all_records):
        stripped = [{**r, "timed": sorted(r.get("timed", {}))} for r in all_records]
        return sorted(stripped, key=lambda r: json.dumps(r, sort_keys=True))

    def times(all_records):
        return {(r["m"], plan): us for r in all_records for plan, us in r.get("timed", {}).items()}

    assert plans(again) == plans(records)
    assert times(again) == pytest.approx(times(records), rel=6e-4)
