"""The server as a process among real clients: TLS, Unix sockets, browsers, and pages that attack."""

import gzip
import http.client
import json
import os
import pathlib
import signal
import socket
import ssl
import subprocess
import sys
import time

import httpx2 as httpx
import openai
import pytest

sys.path.insert(0, os.path.dirname(__file__))
from running import DUALFP, MODEL, free_port, serve, serve_toy  # noqa: E402

TLS = pathlib.Path(__file__).parent / "tls"  # a key pair for localhost, made for this test
COMPLETION = {"prompt": "The", "max_tokens": 4, "temperature": 0}


def usage_error(*arguments, environment=None):
    """The last line that `dualfp serve` ends with."""
    done = subprocess.run([DUALFP, "serve", MODEL, "--port", "0", *map(str, arguments)],
                          capture_output=True, text=True, timeout=60,
                          env={**os.environ, **(environment or {})})
    assert done.returncode in (1, 2), done.stderr
    return done.stderr.splitlines()[-1]


def test_tls(tmp_path):
    with serve(tmp_path, "--ssl-certfile", TLS / "certificate.pem", "--ssl-keyfile",
               TLS / "key.pem", scheme="https") as server:
        trusting = ssl.create_default_context(cafile=TLS / "certificate.pem")
        client = openai.OpenAI(base_url=f"https://localhost:{server.port}/v1", api_key="none",
                               max_retries=0, http_client=httpx.Client(verify=trusting))
        whole = client.completions.create(model="reference", **COMPLETION)
        chunks = client.completions.create(model="reference", stream=True, **COMPLETION)
        assert "".join(chunk.choices[0].text for chunk in chunks) == whole.choices[0].text
        # Neither those who speak plainly nor those who hang up in the middle do harm.
        for bytes_sent in [b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n", b"\x16\x03\x01", b""]:
            with socket.create_connection(("127.0.0.1", server.port), timeout=30) as plain:
                plain.sendall(bytes_sent)
        # A client that vanishes frees its request here as well.
        raw = trusting.wrap_socket(socket.create_connection(("127.0.0.1", server.port)),
                                   server_hostname="localhost")
        body = json.dumps({**COMPLETION, "max_tokens": 1000, "ignore_eos": True}).encode()
        raw.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
                    b"application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        time.sleep(0.1)
        raw.close()
        deadline = time.monotonic() + 60
        while "finish_reason=abort" not in server.log():
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert client.models.list().data[0].id == "reference"


@pytest.mark.parametrize("arguments,message", [
    (["--ssl-certfile", TLS / "certificate.pem"], "both --ssl-certfile and --ssl-keyfile"),
    (["--ssl-certfile", MODEL + "/config.json", "--ssl-keyfile", TLS / "key.pem"],
     "config.json: not a certificate"),
    (["--ssl-certfile", TLS / "certificate.pem", "--ssl-keyfile", TLS / "certificate.pem"],
     "certificate.pem: not a private key"),
])
def test_bad_certificates(arguments, message):
    assert message in usage_error(*arguments)


def test_unix_socket(tmp_path):
    path = str(tmp_path / "server.socket")
    with serve(tmp_path, "--uds", path, uds=path) as server:
        client = openai.OpenAI(base_url="http://llm/v1", api_key="none", http_client=httpx.Client(
            transport=httpx.HTTPTransport(uds=path)))
        assert client.completions.create(model="reference", **COMPLETION).usage.completion_tokens
        assert "cannot listen" in usage_error("--uds", path)
        # Only this machine reaches it.
        answer = httpx.Client(transport=httpx.HTTPTransport(uds=path)).put(
            "http://llm/v1/precision", json={"mode": "fp16"})
        assert answer.status_code == 200
        assert server.stop() == 0
    assert not os.path.exists(path)
    # What a killed server leaves is in nobody's way; what is no socket is not touched.
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(path)
    with serve(tmp_path, "--uds", path, uds=path):
        pass
    file = tmp_path / "file"
    file.write_text("kept")
    assert "cannot listen" in usage_error("--uds", file)
    assert file.read_text() == "kept"


def test_survives_the_end_of_its_log(tmp_path):
    port = free_port()
    process = subprocess.Popen([DUALFP, "serve", MODEL, "--port", str(port)],
                               stderr=subprocess.PIPE)
    try:
        while b"Serving on" not in process.stderr.readline():
            assert process.poll() is None
        process.stderr.close()
        for _ in range(20):
            assert httpx.get(f"http://127.0.0.1:{port}/v1/models").status_code == 200
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


@pytest.mark.parametrize("arguments,environment,message", [
    (["--api-key", ""], {}, "the key is empty"),
    (["--api-key", "a", "--admin-key", ""], {}, "the key is empty"),
    (["--api-key", "a b"], {}, "blanks"),
    ([], {"DUALFP_API_KEY": ""}, "DUALFP_API_KEY is set to nothing"),
    (["--metrics-prefix", "a-b"], {}, "--metrics-prefix"),
    (["--root-path", "llm"], {}, "--root-path"),
])
def test_refused_at_the_start(arguments, environment, message):
    assert message in usage_error(*arguments, environment=environment)


def test_pages_of_other_sites(tmp_path):
    """What a browser would send for a page that the user merely looks at."""
    with serve_toy(tmp_path) as server:
        def status(method, path, **headers):
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
            connection.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
            body = b'{"prompt": "a"}' if method == "POST" else b""
            headers = {"Host": "127.0.0.1", "Content-Length": len(body), **headers}
            for name, value in headers.items():
                connection.putheader(name.replace("_", "-"), str(value))
            connection.endheaders(body)
            return connection.getresponse().status

        for kind in ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]:
            assert status("POST", "/v1/completions", Content_Type=kind) == 415
        assert status("POST", "/v1/completions") == 415
        # Its own name led here ("DNS rebinding").
        for method, path in [("GET", "/v1/models"), ("GET", "/metrics"),
                             ("POST", "/v1/completions"), ("GET", "/")]:
            assert status(method, path, Host="evil.example",
                          Content_Type="application/json") == 403
        assert status("POST", "/v1/completions", Content_Type="application/json") == 200


def test_a_proxy_before_it(tmp_path):
    with serve(tmp_path, "--root-path", "/llm", "--metrics-prefix", "vllm",
               "--allowed-hosts", "llm.example.org,127.0.0.1") as server:
        for path in ["/llm/v1/models", "/v1/models"]:
            answer = httpx.get(server.url + path, headers={"Host": "llm.example.org"})
            assert answer.status_code == 200
        assert httpx.get(server.url + "/llmv1/models").status_code == 404
        assert httpx.get(server.url + "/health", headers={"Host": "a.example"}).status_code == 403
        metrics = httpx.get(server.url + "/metrics").text
        assert "vllm:num_requests_running{" in metrics and "dualfp:" not in metrics
        packed = gzip.compress(json.dumps(COMPLETION).encode())
        answer = httpx.post(server.url + "/v1/completions", content=packed, headers={
            "Content-Type": "application/json", "Content-Encoding": "gzip"})
        assert answer.json()["usage"]["completion_tokens"] == 4


def test_process_metrics(tmp_path):
    with serve_toy(tmp_path) as server:
        values = dict(line.split() for line in server.get("/metrics").splitlines()
                      if line.startswith("process_"))
        fields = pathlib.Path(f"/proc/{server.process.pid}/stat").read_text().rpartition(")")[2]
        boot = next(int(line.split()[1]) for line in open("/proc/stat") if "btime" in line)
        start = boot + int(fields.split()[19]) / os.sysconf("SC_CLK_TCK")
    assert abs(float(values["process_start_time_seconds"]) - start) < 1
    assert 0 <= float(values["process_cpu_seconds_total"]) < 60
    assert 1e6 < float(values["process_resident_memory_bytes"]) < float(
        values["process_virtual_memory_bytes"])
    assert 3 < float(values["process_open_fds"]) < float(values["process_max_fds"])
