#!/usr/bin/env python3
"""A long mixed load on `dualfp serve`, which must leave nothing behind.

Ten workers send whole and streamed completions, chats, token counts, compressed and chunked bodies,
and bad requests; some vanish in the middle. Meanwhile the precision is switched. The run fails when
an answer is a 5xx, when resident memory grows by 1 MB or more after the first quarter, or when at
the end a descriptor, a sequence or a KV block is still held.

    tools/serve_soak.py --dualfp build/dualfp [--minutes 20] [--workers 10] [--model DIR]
"""

import argparse
import collections
import gzip
import http.client
import json
import pathlib
import random
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORDS = "the of and to in a is that it was for on are with as his they at be this from".split()


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dualfp", default=str(ROOT / "build/dualfp"))
    parser.add_argument("--model", default=str(ROOT / "models/reference"))
    parser.add_argument("--minutes", type=float, default=20)
    parser.add_argument("--workers", type=int, default=10)
    parser.add_argument("--max-growth-mb", type=float, default=1.0)
    return parser.parse_args()


class Server:
    def __init__(self, command):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.process = subprocess.Popen([*command, "--port", str(self.port), "--no-access-log",
                                         "--log-level", "error"])
        while not self.ready():
            if self.process.poll() is not None:
                sys.exit("serve_soak: the server ended at its start")
            time.sleep(0.1)

    def ready(self):
        try:
            return self.ask("GET", "/health")[0] == 200
        except OSError:
            return False

    def ask(self, method, path, body=None, headers=None):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, path, body,
                               {"Content-Type": "application/json", **(headers or {})})
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def metrics(self):
        values = collections.Counter()
        for line in self.ask("GET", "/metrics")[1].decode().splitlines():
            if not line.startswith("#"):
                name, value = line.rsplit(" ", 1)
                values[name.split("{")[0].split(":")[-1]] += float(value)
        return values


class Worker(threading.Thread):
    def __init__(self, server, seed, deadline):
        super().__init__()
        self.server = server
        self.random = random.Random(seed)
        self.deadline = deadline
        self.statuses = collections.Counter()
        self.failures = []

    def run(self):
        kinds = [self.whole, self.stream, self.chat, self.tokenize, self.compressed, self.chunked,
                 self.vanish, self.vanish, self.nonsense, self.bad_fields, self.half_closed]
        while time.monotonic() < self.deadline and not self.failures:
            kind = self.random.choice(kinds)
            try:
                kind()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{kind.__name__}: {error!r}")

    def note(self, status):
        self.statuses[status] += 1
        if status >= 500:
            self.failures.append(f"status {status}")

    def text(self):
        return " ".join(self.random.choices(WORDS, k=self.random.randint(1, 60)))

    def body(self, **more):
        body = {"prompt": self.text(), "max_tokens": self.random.randint(1, 40),
                "temperature": self.random.choice([0, 0.7, 1]), "n": self.random.choice([1, 1, 2]),
                "precision": self.random.choice(["auto", "auto", "fp16", "fp8"]), **more}
        if self.random.random() < 0.3:
            body["logprobs"] = 3
        return json.dumps(body).encode()

    def post(self, body, path="/v1/completions", **headers):
        status, answer = self.server.ask("POST", path, body, headers)
        self.note(status)
        return answer

    def whole(self):
        self.post(self.body())

    def stream(self):
        answer = self.post(self.body(stream=True))
        if not answer.endswith(b"data: [DONE]\n\n"):
            self.failures.append("a stream without its end")

    def chat(self):
        messages = [{"role": "user", "content": self.text()}]
        self.post(json.dumps({"messages": messages, "max_tokens": 20}).encode(),
                  "/v1/chat/completions")

    def tokenize(self):
        self.post(json.dumps({"prompt": self.text() * 50}).encode(), "/tokenize")

    def compressed(self):
        self.post(gzip.compress(self.body()), **{"Content-Encoding": "gzip"})

    def chunked(self):
        body = self.body()
        self.post(iter([body[:7], body[7:]]))

    def raw(self, data):
        connection = socket.create_connection(("127.0.0.1", self.server.port), timeout=60)
        connection.sendall(data)
        return connection

    def head(self, length):
        return (b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                b"application/json\r\nContent-Length: %d\r\n\r\n" % length)

    def vanish(self):
        """In the middle of its own body, or of the answer; in order, or by a reset."""
        body = self.body(max_tokens=400, stream=self.random.random() < 0.5, ignore_eos=True)
        sent = self.random.choice([len(body), len(body), self.random.randint(0, len(body))])
        with self.raw(self.head(len(body)) + body[:sent]) as connection:
            if sent == len(body) and self.random.random() < 0.5:
                connection.settimeout(self.random.random() * 0.3)
                try:
                    connection.recv(1)
                except TimeoutError:
                    pass
            if self.random.random() < 0.5:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def half_closed(self):
        body = self.body()
        with self.raw(self.head(len(body)) + body) as connection:
            connection.shutdown(socket.SHUT_WR)
            answer = b""
            while piece := connection.recv(65536):
                answer += piece
        final = [part for part in answer.split(b"HTTP/1.1 ")[1:] if not part.startswith(b"1")]
        self.note(int(final[0][:3]))

    def nonsense(self):
        with self.raw(self.random.choice([
                b"\x16\x03\x01\x02\x00", b"GET / HTTP/9.9\r\n\r\n", b"\r\n" * 9, b"x" * 40000,
                self.head(5) + b"{{{{{", b"GET http://a.example/ HTTP/1.1\r\nHost: b\r\n\r\n",
                b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n"])) as connection:
            connection.settimeout(0.2)
            try:
                connection.recv(65536)
            except (TimeoutError, ConnectionError):
                pass

    def bad_fields(self):
        self.post(self.random.choice([
            b"{}", b"[" * 9999, self.body(max_tokens=-1), self.body(logit_bias={"x": 1}),
            self.body(prompt=[10 ** 9]), self.body(tools=[1], grammar="x"),
            self.body(prompt="a" * 200_000)]))


def switch_precisions(server, stop, failures):
    generator = random.Random(0)
    while not stop.wait(0.25):
        setting = generator.choice([{"mode": "fp16"}, {"mode": "fp8"}, {"mode": "auto"},
                                    {"mode": "fp8", "layers": [0, 1]}])
        status, _ = server.ask("PUT", "/v1/precision", json.dumps(setting))
        if status != 200:
            failures.append(f"switching the precision: status {status}")


def main():
    arguments = parse_arguments()
    # A cache so small that all of it has been touched before growth counts.
    server = Server([arguments.dualfp, "serve", arguments.model, "--kv-cache-memory", "0.05"])
    failures = []
    try:
        idle = server.metrics()
        begin = time.monotonic()
        seconds = arguments.minutes * 60
        workers = [Worker(server, seed, begin + seconds) for seed in range(arguments.workers)]
        stop = threading.Event()
        switcher = threading.Thread(target=switch_precisions, args=(server, stop, failures))
        for thread in [*workers, switcher]:
            thread.start()
        quarter = None
        while any(worker.is_alive() for worker in workers):
            time.sleep(min(5.0, seconds / 20))
            now = server.metrics()
            passed = time.monotonic() - begin
            if quarter is None and passed >= seconds / 4:
                quarter = now["process_resident_memory_bytes"]
            print(f"{passed:6.0f} s  {now['process_resident_memory_bytes'] / 1e6:8.2f} MB  "
                  f"{now['process_open_fds']:4.0f} descriptors  "
                  f"{now['num_requests_running']:3.0f} running  "
                  f"{now['generation_tokens_total']:9.0f} tokens", flush=True)
        stop.set()
        switcher.join()
        for _ in range(100):
            end = server.metrics()
            if end["num_requests_running"] + end["num_requests_waiting"] == 0:
                break
            time.sleep(0.1)
        time.sleep(1.0)
        end = server.metrics()
        statuses = sum((worker.statuses for worker in workers), collections.Counter())
        failures += [failure for worker in workers for failure in worker.failures]
        growth = (end["process_resident_memory_bytes"] - quarter) / 1e6
        print(f"answers: {dict(sorted(statuses.items()))}; "
              f"{end['precision_switches_total']:.0f} switches; "
              f"growth after the first quarter {growth:.2f} MB; descriptors "
              f"{idle['process_open_fds']:.0f} at the start, {end['process_open_fds']:.0f} at the end")
        if growth >= arguments.max_growth_mb:
            failures.append(f"memory grew by {growth:.2f} MB")
        for name in ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc"]:
            if end[name] != 0:
                failures.append(f"{name} is {end[name]} at the end")
        if end["process_open_fds"] > idle["process_open_fds"]:
            failures.append("descriptors are left open")
        server.process.send_signal(signal.SIGTERM)
        if server.process.wait(60) != 0:
            failures.append(f"the server ended with {server.process.returncode}")
    finally:
        if server.process.poll() is None:
            server.process.kill()
    for failure in failures:
        print(f"serve_soak: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
