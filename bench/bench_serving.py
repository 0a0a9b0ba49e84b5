#!/usr/bin/env python3
"""The server under load: figures of issue-sized runs, each a ratio measured within one run.

    bench_serving.py soak [--minutes 2]     64 streaming clients: failures, memory, p99 / median ITL
    bench_serving.py slow [--rounds 5]      32 streams, alone and beside 1,000 connections that send
                                            one byte a second: p99 latency with / without

Options: --build DIR (default build), --model DIR (default models/reference), --save-report FILE.
"""

import argparse
import contextlib
import json
import pathlib
import re
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent


@contextlib.contextmanager
def serve(dualfp, model, *arguments):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    process = subprocess.Popen([dualfp, "serve", model, "--port", str(port), "--no-access-log",
                                "--log-level", "warning", *arguments])
    try:
        while True:
            assert process.poll() is None, "the server ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).close()
                break
            except OSError:
                time.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


def metric(port, name):
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=30) as response:
        text = response.read().decode()
    return float(re.search(rf"^{name}(?:{{.*}})? (\S+)$", text, re.MULTILINE)[1])


def bench(dualfp, port, *arguments):
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        subprocess.run([dualfp, "bench", "serve", "--port", str(port), "--save-result", file.name,
                        *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)
        return json.load(open(file.name))


class MemoryWatch(threading.Thread):
    """The server's resident memory, once a second."""

    def __init__(self, port):
        super().__init__(daemon=True)
        self.port, self.samples, self.ended = port, [], threading.Event()

    def run(self):
        begin = time.monotonic()
        while not self.ended.wait(1.0):
            bytes_ = metric(self.port, "process_resident_memory_bytes")
            self.samples.append((time.monotonic() - begin, bytes_))

    def stop(self):
        self.ended.set()
        self.join()
        return self.samples


def soak(args):
    # Requests for about the time asked for: a short run tells the rate.
    load = ["--max-concurrency", 64, "--random-input-len", 96, "--random-output-len", 96,
            "--random-range-ratio", 0.5, "--sample-interval", 1]
    with serve(args.dualfp, args.model, "--precision", args.precision) as port:
        rate = bench(args.dualfp, port, "--num-prompts", 256, *load)["request_throughput"]
        watch = MemoryWatch(port)
        watch.start()
        if args.save_report:
            load += ["--save-report", args.save_report]
        result = bench(args.dualfp, port, "--num-prompts", max(64, round(rate * 60 * args.minutes)),
                       "--seed", 1, *load)
        samples = watch.stop()
    # What is warm after the first quarter stays.
    quarter = result["duration"] / 4
    warm = max(bytes_ for at, bytes_ in samples if at <= quarter)
    last = max(bytes_ for at, bytes_ in samples if at > quarter)
    print(f"{args.precision}: 64 streaming clients for {result['duration']:.0f} s, "
          f"{result['completed']} requests, {result['failed']} failed; "
          f"{result['output_throughput']:.0f} output tokens/s")
    print(f"  inter-token latency: median {result['median_itl_ms']:.1f} ms, "
          f"p99 {result['p99_itl_ms']:.1f} ms, "
          f"ratio {result['p99_itl_ms'] / result['median_itl_ms']:.2f}")
    print(f"  resident memory: {warm / 1e6:.1f} MB at most in the first quarter, "
          f"{last / 1e6:.1f} MB after it ({(last - warm) / 1e6:+.1f} MB)")


@contextlib.contextmanager
def slow_connections(port, count):
    """`count` connections that send the head of a request, a byte a second."""
    sockets = [socket.create_connection(("127.0.0.1", port)) for _ in range(count)]
    ended = threading.Event()

    def drip():
        head = b"POST /v1/completions HTTP/1.1\r\nX: " + b"a" * 10000
        for byte in head:
            # Spread over the second, as a thousand clients would.
            for i, sock in enumerate(sockets):
                with contextlib.suppress(OSError):
                    sock.send(bytes([byte]))
                if i % 50 == 49 and ended.wait(1.0 / (count / 50)):
                    return

    thread = threading.Thread(target=drip)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
        for sock in sockets:
            sock.close()


def slow(args):
    load = ["--num-prompts", 128, "--max-concurrency", 32, "--random-input-len", 32,
            "--random-output-len", 128, "--sample-interval", 0]
    kinds = {"itl": "inter-token latency", "ttft": "time to first token",
             "e2el": "end to end"}
    p99 = {kind: {False: [], True: []} for kind in kinds}
    with serve(args.dualfp, args.model, "--precision", args.precision) as port:
        bench(args.dualfp, port, *load)
        for round_ in range(args.rounds):
            for crowded in (False, True):
                with slow_connections(port, 1000 if crowded else 0):
                    # Prompts of their own, which no cache knows.
                    result = bench(args.dualfp, port, *load, "--seed", 1 + 2 * round_ + crowded)
                    connections = metric(port, "dualfp:http_connections")
                assert connections >= (1000 if crowded else 0)
                for kind in kinds:
                    p99[kind][crowded].append(result[f"p99_{kind}_ms"])
    print(f"{args.precision}: 32 streams, alone and beside 1,000 slow connections, "
          f"medians of {args.rounds} rounds")
    for kind, name in kinds.items():
        alone, beside = (statistics.median(p99[kind][crowded]) for crowded in (False, True))
        print(f"  p99 of {name}: {alone:.1f} ms alone, {beside:.1f} ms beside, "
              f"ratio {beside / alone:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["soak", "slow"])
    parser.add_argument("--build", default=ROOT / "build")
    parser.add_argument("--model", default=ROOT / "models/reference")
    parser.add_argument("--precision", default="exact")
    parser.add_argument("--minutes", type=float, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--save-report")
    args = parser.parse_args()
    args.dualfp = str(pathlib.Path(args.build) / "dualfp")
    args.model = str(args.model)
    {"soak": soak, "slow": slow}[args.what](args)


if __name__ == "__main__":
    main()
