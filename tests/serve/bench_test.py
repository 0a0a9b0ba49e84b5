"""`dualfp bench serve | throughput | latency`: figures recomputed with numpy, and servers that fail."""

import contextlib
import http.server
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading
import time
import xml.etree.ElementTree

import numpy
import pytest

sys.path[:0] = [os.path.dirname(__file__), os.path.dirname(os.path.dirname(__file__))]
from browser import label_faults, open_browser  # noqa: E402
from running import DUALFP, MODEL, free_port, serve, serve_toy  # noqa: E402


def bench(kind, *arguments, timeout=120):
    return subprocess.run([DUALFP, "bench", kind, *map(str, arguments)], capture_output=True,
                          text=True, timeout=timeout)


def run(directory, server, *arguments):
    """The JSON of a run that must succeed, and what was printed."""
    path = pathlib.Path(directory) / "result.json"
    done = bench("serve", "--port", server.port, "--save-result", path, *arguments)
    assert done.returncode == 0, done.stderr
    return json.loads(path.read_text()), done.stdout


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("serve"), "--ttft-target", "300", "--tpot-target",
               "20") as server:
        yield server


def check_summary(result, name, seconds):
    if not seconds:
        assert result[f"mean_{name}_ms"] is None
        return
    ms = 1e3 * numpy.array(seconds)
    for key, value in {"mean": ms.mean(), "std": ms.std(), "median": numpy.median(ms),
                       "p90": numpy.percentile(ms, 90),
                       "p99": numpy.percentile(ms, 99)}.items():
        assert result[f"{key}_{name}_ms"] == pytest.approx(value, rel=1e-9), (name, key)


def check_definitions(result):
    """Every figure from the requests alone."""
    requests = [r for r in result["requests"] if "error" not in r]
    assert result["completed"] == len(requests) == len(result["ttfts"])
    assert result["failed"] == len(result["requests"]) - len(requests) == len(result["errors"])
    duration = result["duration"]
    inputs = sum(r["prompt_tokens"] for r in requests)
    outputs = sum(r["output_tokens"] for r in requests)
    assert (result["total_input_tokens"], result["total_output_tokens"]) == (inputs, outputs)
    assert result["request_throughput"] == pytest.approx(len(requests) / duration)
    assert result["output_throughput"] == pytest.approx(outputs / duration)
    assert result["total_token_throughput"] == pytest.approx((inputs + outputs) / duration)
    check_summary(result, "ttft", [r["ttft"] for r in requests])
    check_summary(result, "e2el", [r["latency"] for r in requests])
    check_summary(result, "itl", [gap for gaps in result["itls"] for gap in gaps])
    tpots = [(r["latency"] - r["ttft"]) / (r["output_tokens"] - 1)
             for r in requests if r["output_tokens"] > 1]
    check_summary(result, "tpot", tpots)
    for request, gaps in zip(requests, result["itls"]):
        assert request["latency"] == pytest.approx(request["ttft"] + sum(gaps))
        assert request["start"] >= request["planned"]
        assert request["start"] + request["latency"] <= duration + 1e-9
    if not requests:
        return
    spans = [(r["start"], r["start"] + r["latency"]) for r in requests]
    assert result["peak_concurrency"] == max(
        sum(begin <= at < end for begin, end in spans) for at, _ in spans)
    seconds = [sum(int(begin) <= s <= int(end) for begin, end in spans)
               for s in range(int(duration) + 1)]
    assert result["max_concurrent_requests"] == max(seconds)


def test_definitions_on_a_real_server(tmp_path, reference):
    result, text = run(tmp_path, reference, "--num-prompts", 40, "--request-rate", 20,
                       "--burstiness", 0.5, "--random-input-len", 60, "--random-output-len", 20,
                       "--random-range-ratio", 0.5, "--goodput", "ttft:100", "tpot:10")
    assert result["completed"] == 40
    assert result["model_id"] == "reference"
    check_definitions(result)
    # The lengths asked for are the lengths that the server counted.
    assert result["exact_prompt_lengths"]
    assert 30 <= min(result["input_lens"]) < max(result["input_lens"]) <= 90
    assert all(len(gaps) == n - 1 for gaps, n in zip(result["itls"], result["output_lens"]))
    good = sum(ttft <= 0.1 and (n == 1 or sum(gaps) / (n - 1) <= 0.01) for ttft, gaps, n in
               zip(result["ttfts"], result["itls"], result["output_lens"]))
    assert result["request_goodput"] == pytest.approx(good / result["duration"])
    assert result["good_share"] == good / 40
    arrivals = [r["planned"] for r in result["requests"]]
    assert arrivals[-1] == pytest.approx(39 / 20)
    assert sum(result["tokens_by_precision"].values()) == (
        result["total_input_tokens"] + result["total_output_tokens"])
    # What was printed is what was saved.
    for name, key in [("Time to first token (TTFT)", "ttft"), ("Inter-token latency (ITL)", "itl")]:
        line = next(line for line in text.splitlines() if line.startswith(name))
        assert [float(x) for x in line[len(name):].split()] == pytest.approx(
            [result[f"{kind}_{key}_ms"] for kind in ("mean", "median", "p90", "p99")], abs=0.006)


def test_latencies_are_the_servers(tmp_path):
    """With steps of a known time the client's figures are the steps'."""
    with serve_toy(tmp_path, step_us=20000) as server:
        result, _ = run(tmp_path, server, "--num-prompts", 12, "--max-concurrency", 4,
                        "--random-input-len", 16, "--random-output-len", 10)
    check_definitions(result)
    assert result["peak_concurrency"] == 4
    assert 20 <= result["median_itl_ms"] < 40
    assert 20 <= result["median_tpot_ms"] < 40
    assert result["median_ttft_ms"] >= 20
    assert result["median_e2el_ms"] >= 200
    # Three waves of four requests of ten steps each.
    assert result["duration"] >= 3 * 10 * 0.020


def test_server_samples_follow_the_run(tmp_path, reference):
    result, _ = run(tmp_path, reference, "--num-prompts", 30, "--request-rate", 15,
                    "--sample-interval", 0.1, "--random-output-len", 40, "--precision", "fp8")
    samples = result["server_samples"]
    assert len(samples) >= 10
    assert [s["at"] for s in samples] == sorted(s["at"] for s in samples)
    grown = samples[-1]["precision_tokens"]["fp8"] - samples[0]["precision_tokens"]["fp8"]
    assert 0 < grown <= result["total_input_tokens"] + result["total_output_tokens"]
    assert result["tokens_by_precision"]["fp8"] > 0
    assert result["tokens_by_precision"]["exact"] == 0


def test_trace_replay(tmp_path, reference):
    trace = tmp_path / "trace.csv"
    trace.write_text("TIMESTAMP,ContextTokens,GeneratedTokens\n" + "".join(
        f"2024-01-01 00:00:{at:06.3f},{prompt},{output}\n"
        for at, prompt, output in [(1, 10, 5), (1.5, 20, 6), (3, 3000, 7)]))
    result, _ = run(tmp_path, reference, "--trace", trace, "--trace-speedup", 2)
    assert [r["planned"] for r in result["requests"]] == pytest.approx([0, 0.25, 1])
    assert result["input_lens"] == [10, 20, 1024 - 7]
    assert result["output_lens"] == [5, 6, 7]
    assert result["shortened_to_context"] == 1
    # A rate dilates time, too.
    result, _ = run(tmp_path, reference, "--trace", trace, "--request-rate", 4)
    assert [r["planned"] for r in result["requests"]] == pytest.approx([0, 0.125, 0.5])


def test_chat_endpoint(tmp_path, reference):
    result, _ = run(tmp_path, reference, "--endpoint", "/v1/chat/completions", "--num-prompts", 5,
                    "--random-output-len", 8)
    check_definitions(result)
    assert result["output_lens"] == [8] * 5
    assert not result["exact_prompt_lengths"]


def test_report_is_one_beautiful_file(tmp_path, reference):
    report = tmp_path / "report.html"
    drawing = tmp_path / "timeline.svg"
    load = ["--num-prompts", 60, "--trace", "azure-conv-2024", "--trace-lengths", 0.05,
            "--request-rate", 20, "--goodput", "ttft:200", "tpot:20"]
    result, _ = run(tmp_path, reference, *load, "--save-report", report)
    run(tmp_path, reference, *load, "--save-report", drawing)
    xml.etree.ElementTree.parse(drawing)
    text = report.read_text()
    assert "http" not in text.replace("http://www.w3.org/2000/svg", "").replace(
        f"http://127.0.0.1:{reference.port}", "")
    with open_browser() as browser:
        page = browser.new_page(viewport={"width": 1100, "height": 900})
        problems, requests = [], []
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(report.as_uri())
        assert problems == []
        assert requests == [report.as_uri()]
        titles = page.locator("svg .title").all_text_contents()
        for title in ["Arrivals", "Requests", "Tokens computed", "Layers in FP8",
                      "Time to first token", "Inter-token latency", "TTFT", "ITL"]:
            assert any(found.startswith(title) for found in titles), title
        tiles = page.locator(".tile").all_text_contents()
        assert any("60 completed" in tile for tile in tiles)
        assert any(f"{result['good_share']:.0%}"[:1] in tile and "goals" in tile for tile in tiles)
        # Nothing is wider than the window, on a desk or in a hand.
        for width in (1100, 400):
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.set_viewport_size({"width": 1100, "height": 900})
        assert label_faults(page) == []
        page.goto(drawing.as_uri())
        assert label_faults(page) == []


@pytest.mark.parametrize("arguments,message", [
    (["--request-rate", "0"], "--request-rate"),
    (["--request-rate", "fast"], "--request-rate"),
    (["--burstiness", "-1"], "--burstiness"),
    (["--num-prompts", "0"], "--num-prompts"),
    (["--goodput", "itl:5"], "--goodput"),
    (["--base-url", "https://example.org"], "http://"),
    (["--base-url", "http://a", "--port", "3"], "excludes"),
    (["--trace", "no-such-trace"], "azure-conv-2023"),
    (["--endpoint", "/v1/embeddings"], "--endpoint"),
    (["--trace", "azure-code", "--request-rate", "2", "--trace-speedup", "2"], "excludes"),
    (["--no-such-flag"], "--no-such-flag"),
])
def test_usage_errors(arguments, message):
    done = bench("serve", *arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert done.stdout == ""


def test_no_server():
    port = free_port()
    done = bench("serve", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"dualfp: error: http://127.0.0.1:{port}: cannot connect: "
                           "Connection refused\n")


def test_an_unwritable_result_is_known_at_once(reference):
    begin = time.monotonic()
    done = bench("serve", "--port", reference.port, "--save-result", "/no/such/folder/r.json",
                 "--request-rate", "0.1")
    assert done.returncode == 1
    assert "/no/such/folder" in done.stderr
    assert time.monotonic() - begin < 10


def test_unknown_model_and_wrong_key(tmp_path, reference):
    done = bench("serve", "--port", reference.port, "--model", "gpt-7")
    assert done.returncode == 1
    assert 'does not have the model "gpt-7"; it has "reference"' in done.stderr
    with serve_toy(tmp_path, key="secret") as server:
        refused = bench("serve", "--port", server.port)
        assert refused.returncode == 1
        assert "HTTP 401" in refused.stderr
        assert bench("serve", "--port", server.port, "--api-key", "secret", "--num-prompts", 3,
                     "--random-output-len", 5).returncode == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_server_that_dies_is_reported(tmp_path, number):
    path = tmp_path / "result.json"
    with serve_toy(tmp_path, step_us=20000, grace_ms=100) as server:
        process = subprocess.Popen(
            [DUALFP, "bench", "serve", "--port", str(server.port), "--num-prompts", "400",
             "--request-rate", "50", "--random-output-len", "50", "--save-result", str(path)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        while server.metric("generation_tokens_total") < 3000:
            time.sleep(0.05)
        server.process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    result = json.loads(path.read_text())
    assert result["failed"] > 0
    assert result["not_sent"] > 0
    assert result["completed"] + result["failed"] + result["not_sent"] == 400
    assert f"{400 - result['completed']} of 400 requests failed; the first: " in errors
    check_definitions(result)


def test_overload_is_counted(tmp_path):
    path = tmp_path / "result.json"
    with serve_toy(tmp_path, step_us=5000, max_waiting=4) as server:
        done = bench("serve", "--port", server.port, "--num-prompts", 300, "--random-output-len", 20,
                     "--save-result", path)
    assert done.returncode == 1
    assert "HTTP 429" in done.stderr
    result = json.loads(path.read_text())
    assert result["completed"] > 0
    assert set(e.split(":")[0] for e in result["errors"]) == {"HTTP 429"}
    check_definitions(result)


@contextlib.contextmanager
def odd_server(behaviour):
    """Lists one model, and does `behaviour(handler)` for a completion."""
    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_):
            pass

        def answer(self, body, kind="application/json"):
            self.send_response(200)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):
            if self.path == "/v1/models":
                self.answer(b'{"data": [{"id": "odd"}]}')
            else:
                self.send_error(404)

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            if self.path == "/tokenize":
                self.send_error(404)
            else:
                behaviour(self)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def event(text):
    return b"data: " + json.dumps({"choices": [{"text": text}]}).encode() + b"\n\n"


def cut(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(event("a"))
    handler.close_connection = True


def hang(handler):
    handler.send_response(200)
    handler.send_header("Content-Length", "1000")
    handler.end_headers()
    handler.wfile.write(event("a"))
    time.sleep(5)
    handler.close_connection = True


def garbage(handler):
    handler.wfile.write(b"\x00\x01\x02 this is not HTTP\r\n\r\n")
    handler.close_connection = True


def page(handler):
    handler.answer(b"<html>hello</html>", "text/html")


def in_stream_error(handler):
    handler.answer(event("a") + b'data: {"error": {"message": "out of luck"}}\n\ndata: [DONE]\n\n')


@pytest.mark.parametrize("behaviour,message", [
    (cut, "closed the connection before the end"),
    (hang, "no answer in time"),
    (garbage, "bad version"),
    (page, "brought no token"),
    (in_stream_error, 'error in the stream: "out of luck"'),
])
def test_odd_servers_are_failures_not_hangs(behaviour, message):
    with odd_server(behaviour) as port:
        for warmups in (0, 1):
            done = bench("serve", "--port", port, "--num-prompts", 3, "--timeout", 0.7,
                         "--num-warmups", warmups, timeout=30)
            assert done.returncode == 1
            assert message in done.stderr
            assert done.stderr.splitlines()[-1].startswith("dualfp: error: ")


def test_a_server_that_knows_only_openais_fields(tmp_path):
    """No /tokenize, no /metrics, no usage: words for prompts, chunks for tokens."""
    def whole(handler):
        handler.answer(event("a") + event("b") + b"data: [DONE]\n\n", "text/event-stream")

    with odd_server(whole) as port:
        path = tmp_path / "result.json"
        report = tmp_path / "report.html"
        done = bench("serve", "--port", port, "--num-prompts", 4, "--save-result", path,
                     "--save-report", report, "--no-ignore-eos")
    assert done.returncode == 0, done.stderr
    assert "words" in done.stderr
    result = json.loads(path.read_text())
    assert result["output_lens"] == [2] * 4
    assert result["server_samples"] == []
    assert "Output tokens" in report.read_text()
    check_definitions(result)


def test_throughput(tmp_path):
    path = tmp_path / "result.json"
    done = bench("throughput", MODEL, "--concurrency", "1,8", "--num-prompts", 16, "--input-len", 20,
                 "--output-len", 16, "--rounds", 2, "--precision", "fp8", "--save-result", path)
    assert done.returncode == 0, done.stderr
    one, eight = json.loads(path.read_text())["results"]
    assert (one["concurrency"], eight["concurrency"]) == (1, 8)
    assert eight["prompt_tokens"] == 16 * 20 and eight["output_tokens"] == 16 * 16
    for level in (one, eight):
        assert level["output_tokens_per_second"] == pytest.approx(
            level["output_tokens"] / level["elapsed_time"])
        assert level["tokens_per_second"] == pytest.approx(
            (level["prompt_tokens"] + level["output_tokens"]) / level["elapsed_time"])
    assert eight["output_tokens_per_second"] > one["output_tokens_per_second"]
    assert "fp8 100.0 %" in done.stdout


def test_latency(tmp_path):
    path = tmp_path / "result.json"
    done = bench("latency", MODEL, "--batch-size", 2, "--input-len", 16, "--output-len", 8,
                 "--num-iters", 3, "--num-iters-warmup", 1, "--save-result", path)
    assert done.returncode == 0, done.stderr
    result = json.loads(path.read_text())
    assert len(result["latencies"]) == 3
    assert result["avg_latency"] == pytest.approx(numpy.mean(result["latencies"]))
    assert result["percentiles"]["90"] == pytest.approx(numpy.percentile(result["latencies"], 90))
    assert result["decode_steps"] >= 3 * 7
    assert 0 < result["median_decode_step"] < min(result["latencies"])


def test_in_process_errors():
    for kind, arguments in [("latency", ["--batch-size", 65]), ("throughput", ["--concurrency", 65]),
                            ("latency", ["--num-iters", 0])]:
        done = bench(kind, MODEL, *arguments)
        assert done.returncode == 2
        assert arguments[0] in done.stderr
    missing = bench("throughput", "/no/such/model")
    assert missing.returncode == 1
    assert missing.stderr.startswith("dualfp: error: ")
    long = bench("latency", MODEL, "--input-len", 2000)
    assert long.returncode == 1
    assert "max_model_len" in long.stderr or "context" in long.stderr
