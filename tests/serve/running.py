"""A server process for the tests: started on a free port, stopped at the end."""

import contextlib
import json
import os
import pathlib
import re
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request

import httpx2 as httpx

DUALFP = os.environ["DUALFP_BINARY"]
TOY_SERVER = str(pathlib.Path(os.environ["DUALFP_BUILD_DIR"]) / "layers/server/toy_server")
MODEL = str(pathlib.Path(os.environ["DUALFP_SOURCE_DIR"]) / "models/reference")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    def __init__(self, process, port, log_path, scheme="http"):
        self.process = process
        self.port = port
        self.log_path = log_path
        self.url = f"{scheme}://127.0.0.1:{port}"

    def log(self):
        return self.log_path.read_text()

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return response.read().decode()

    def request(self, method, path, body=None, headers=None, parse=True):
        """Status and JSON (or None) of one request; the text where it is not to be parsed."""
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        request = urllib.request.Request(
            self.url + path, data, {"Content-Type": "application/json", **(headers or {})},
            method=method)
        try:
            with urllib.request.urlopen(request, timeout=120) as response:
                status, text = response.status, response.read()
        except urllib.error.HTTPError as error:
            status, text = error.code, error.read()
        return status, (json.loads(text) if text else None) if parse else text

    def metric(self, name, **labels):
        """The sum of a metric's samples that have these labels."""
        total = 0.0
        for line in self.get("/metrics").splitlines():
            match = re.fullmatch(r"dualfp:(\w+)\{(.*)\} (\S+)", line)
            if match and match[1] == name:
                found = dict(re.findall(r'(\w+)="([^"]*)"', match[2]))
                if all(found.get(key) == value for key, value in labels.items()):
                    total += float(match[3])
        return total

    def wait_until_idle(self):
        for _ in range(600):
            if self.metric("num_requests_running") + self.metric("num_requests_waiting") == 0:
                return
            time.sleep(0.05)
        raise AssertionError("the server is still busy")

    def stop(self, number=signal.SIGTERM, timeout=60):
        self.process.send_signal(number)
        return self.process.wait(timeout)


def is_ready(server, uds):
    client = httpx.Client(transport=httpx.HTTPTransport(uds=uds, verify=False))
    try:
        return client.get(server.url + "/health", timeout=30).status_code == 200
    except httpx.TransportError:
        return False


@contextlib.contextmanager
def serve(directory, *arguments, model=MODEL, binary=DUALFP, wait=True, scheme="http", uds=None,
          command=None, environment=None, port=None):
    """`dualfp serve`, ready to answer; killed at the end if the test has not stopped it."""
    port = port or free_port()
    log_path = pathlib.Path(directory) / f"server-{port}.log"
    command = [binary, *(command or ["serve", model, "--served-model-name", "reference"]),
               "--port", str(port), *map(str, arguments)]
    with open(log_path, "w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log,
                                   env={**os.environ, **(environment or {})})
    server = Server(process, port, log_path, scheme)
    try:
        while wait and not is_ready(server, uds):
            assert process.poll() is None, f"the server ended: {server.log()}"
            time.sleep(0.05)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@contextlib.contextmanager
def serve_toy(directory, wait=True, **flags):
    """A server over a model that is a hash, as fast or slow as the test wants it."""
    log_path = pathlib.Path(directory) / "toy.log"
    command = [TOY_SERVER]
    for name, value in flags.items():
        command += ["--" + name.replace("_", "-"), str(value)]
    with open(log_path, "w") as log:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, text=True)
    try:
        server = Server(process, int(process.stdout.readline()), log_path)
        while wait:
            try:
                server.get("/health")
                break
            except OSError:
                time.sleep(0.02)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()
