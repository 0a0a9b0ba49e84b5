"""Flags that people know from other servers, and what model directories say about sampling."""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

sys.path.insert(0, os.path.dirname(__file__))
from running import DUALFP, MODEL, serve  # noqa: E402


def variant(directory, **files):
    """The reference model with some of its JSON files changed; None drops a field."""
    model = directory / "model"
    model.mkdir()
    for file in pathlib.Path(MODEL).iterdir():
        if file.suffix == ".safetensors" or file.name == "tokenizer.json":
            (model / file.name).symlink_to(file)
        elif file.is_file():
            shutil.copy(file, model)
    for name, changes in files.items():
        path = model / f"{name}.json"
        content = json.loads(path.read_text()) if path.exists() else {}
        content.update(changes)
        path.write_text(json.dumps({k: v for k, v in content.items() if v is not None}))
    return str(model)


def last_line(*arguments, model=MODEL, environment=None):
    done = subprocess.run([DUALFP, "serve", model, "--port", "0", *map(str, arguments)],
                          capture_output=True, text=True, timeout=120,
                          env={**os.environ, **(environment or {})})
    return done.returncode, done.stderr.splitlines()[-1]


def generate(server, **more):
    status, answer = server.request("POST", "/v1/completions", {
        "prompt": "a", "max_tokens": 3, "temperature": 0, **more})
    assert status == 200, answer
    return answer["choices"][0]


def test_ends_at_every_end_token(tmp_path):
    tokenizer = json.loads((pathlib.Path(MODEL) / "tokenizer.json").read_text())
    special = {token["content"]: token["id"] for token in tokenizer["added_tokens"]}
    own, tokenizers, listed = "<|end_of_text|>", "<|eot_id|>", "<|end_header_id|>"
    model = variant(tmp_path, config={"eos_token_id": special[own]},
                    tokenizer_config={"eos_token": tokenizers},
                    generation_config={"eos_token_id": [special[own], special[listed]]})
    with serve(tmp_path, model=model) as server:
        for token in [own, tokenizers, listed]:
            bias = {str(special[token]): 100}
            assert generate(server, logit_bias=bias)["finish_reason"] == "stop", token
            assert generate(server, logit_bias=bias, ignore_eos=True)["finish_reason"] == "length"


def test_ids_that_the_model_does_not_have(tmp_path):
    """A tokenizer with an id more: such a prompt is an error, anything else is answered."""
    model = variant(tmp_path)
    path = pathlib.Path(model) / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    beyond = json.loads((pathlib.Path(MODEL) / "config.json").read_text())["vocab_size"]
    tokenizer["added_tokens"].append({
        "id": beyond, "content": "<pad>", "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": False, "special": True})
    path.unlink()
    path.write_text(json.dumps(tokenizer))
    with serve(tmp_path, model=model) as server:
        assert "cannot have those beyond" in server.log()
        assert generate(server)["text"]
        status, answer = server.request("POST", "/tokenize", {"prompt": "a<pad>"})
        assert status == 200 and answer["tokens"][-1] == beyond
        for prompt in ["a<pad>", [1, beyond]]:
            status, answer = server.request("POST", "/v1/completions", {"prompt": prompt})
            message = answer["error"]["message"]
            assert status == 400 and "token id" in message and str(beyond) in message, answer


@pytest.mark.parametrize("defaults,field", [
    ({"top_p": 0}, "top_p"), ({"temperature": -1}, "temperature"), ({"top_k": -5}, "top_k"),
    ({"min_p": 2}, "min_p"), ({"repetition_penalty": 0}, "repetition_penalty"),
])
def test_defaults_that_no_request_could_have(tmp_path, defaults, field):
    model = variant(tmp_path, generation_config={"do_sample": True, **defaults})
    status, line = last_line(model=model)
    assert status == 1
    assert "generation_config.json" in line and field in line
    with serve(tmp_path, "--generation-config", "vllm", model=model) as server:
        generate(server)


def test_flags_of_other_servers(tmp_path):
    """Accepted, and what has no effect says so in a line."""
    with serve(tmp_path, "--trust-remote-code", "--enforce-eager", "-tp", "1", "--dtype",
               "bfloat16", "--uvicorn-log-level", "info", "--generation-config", "auto",
               "--tokenizer", MODEL) as server:
        assert generate(server)["text"]
        log = server.log()
    for said in ["--trust-remote-code has no effect: no code of a checkpoint",
                 "--enforce-eager has no effect", "--dtype bfloat16 has no effect on the CPU"]:
        assert sum(said in line for line in log.splitlines()) == 1, said
    assert last_line("--dtype", "int3")[0] == 1
    assert last_line("--generation-config", tmp_path)[0] == 1


@pytest.mark.parametrize("order", ["model first", "model last", "model between"])
def test_several_names(tmp_path, order):
    names = ["--served-model-name", "one", "two"]
    command = {"model first": [MODEL, *names], "model last": [*names, MODEL],
               "model between": [*names, MODEL, "--seed", "1"]}[order]
    with serve(tmp_path, command=["serve", *command]) as server:
        listed = server.request("GET", "/v1/models")[1]["data"]
        assert [model["id"] for model in listed] == ["one", "two"]
        for name in ["one", "two"]:
            assert generate(server, model=name)


def test_hub_ids(tmp_path):
    snapshot = tmp_path / "cache/models--an--example/snapshots/abc"
    snapshot.parent.mkdir(parents=True)
    snapshot.symlink_to(MODEL)
    (tmp_path / "cache/models--an--example/refs").mkdir()
    (tmp_path / "cache/models--an--example/refs/main").write_text("abc")
    environment = {"HF_HUB_CACHE": str(tmp_path / "cache")}
    with serve(tmp_path, command=["serve", "an/example"], environment=environment) as server:
        assert server.request("GET", "/v1/models")[1]["data"][0]["id"] == "an/example"
        assert generate(server, model="an/example")
    status, line = last_line(model="an/other", environment=environment)
    assert status == 1
    assert "hf download an/other" in line and str(tmp_path / "cache") in line


def test_help_fits_a_screen():
    def lines(flag):
        return subprocess.run([DUALFP, "serve", flag], capture_output=True, text=True,
                              check=True).stdout.splitlines()

    def flags(text):
        return set(re.findall(r"^  (?:-h,)?(--[\w-]+)", "\n".join(text), re.MULTILINE))

    short, full = lines("--help"), lines("--help-all")
    assert len(short) <= 40 and max(map(len, short + full)) <= 100
    assert {"--help-all", "--port", "--api-key", "--precision", "--max-model-len"} < flags(short)
    assert flags(short) < flags(full)
    assert {"--uds", "--ssl-keyfile", "--max-body-size", "--fp8-layers", "--seed"} <= flags(full)


def test_without_a_model():
    done = subprocess.run([DUALFP, "serve", "--port", "0"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "MODEL" in done.stderr
