"""The README's commands for serving, run as they stand; only the port is another."""

import json
import os
import pathlib
import re
import shlex
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from running import serve  # noqa: E402

ROOT = pathlib.Path(os.environ["DUALFP_SOURCE_DIR"])


def code_blocks():
    section = (ROOT / "README.md").read_text().split("\n## Serve it\n")[1].split("\n## ")[0]
    return re.findall(r"```sh\n(.*?)```", section, re.DOTALL)


def curl_commands():
    """Each comment and the command after it."""
    return [part.split("\n", 1) for part in ("\n" + code_blocks()[1]).split("\n# ")[1:]]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    command, program, model, *flags = shlex.split(code_blocks()[0])
    assert (command, program) == ("build/dualfp", "serve")
    assert flags == ["--port", "8000"]
    with serve(tmp_path_factory.mktemp("serve"), model=str(ROOT / model)) as running:
        yield running


@pytest.fixture(scope="module")
def answers(server):
    """What each of the commands prints, by the first word of its comment."""
    found = {}
    for comment, command in curl_commands():
        assert "127.0.0.1:8000" in command
        done = subprocess.run(["bash", "-c", command.replace(":8000", f":{server.port}")],
                              capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        found[re.match(r"\w+( \w+)?", comment)[0]] = done.stdout
    return found


def test_every_command_is_checked_below(answers):
    assert set(answers) == {"Chat", "A completion", "Everything in", "One request", "Counters and"}


def test_chat(answers):
    answer = json.loads(answers["Chat"])
    assert answer["object"] == "chat.completion"
    assert answer["choices"][0]["message"]["role"] == "assistant"
    assert len(answer["choices"][0]["message"]["content"]) > 10
    assert answer["usage"]["completion_tokens"] <= 60


def test_stream(answers):
    events = [line.removeprefix("data: ") for line in answers["A completion"].splitlines() if line]
    assert events[-1] == "[DONE]"
    chunks = [json.loads(event) for event in events[:-1]]
    assert len(chunks) == 21
    assert chunks[-1]["choices"] == []
    computed = chunks[-1]["usage"]["tokens_by_precision"]["completion"]
    assert sum(computed.values()) == 20


def test_switch(answers):
    answer = json.loads(answers["Everything in"])
    assert answer["mode"] == "fp8"
    assert "fp8" in answer["supported"] and "exact" in answer["supported"]


def test_pin(answers):
    # After the switch of the server to FP8.
    usage = json.loads(answers["One request"])["usage"]
    assert usage["tokens_by_precision"]["completion"] == {"exact": 20}


def test_metrics(answers):
    assert re.search(r'^dualfp:generation_tokens_total\{model_name="[^"]+"\} [1-9]',
                     answers["Counters and"], re.MULTILINE)


def test_page(server):
    assert "<title>" in server.get("/")
