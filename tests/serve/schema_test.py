"""/openapi.json against the server: what it promises holds, for requests that schemathesis makes up."""

import json
import os
import re
import sys
import urllib.parse

import hypothesis
import pytest
import schemathesis
from schemathesis import checks
from schemathesis.specs.openapi import checks as openapi_checks

sys.path.insert(0, os.path.dirname(__file__))
from running import serve, serve_toy  # noqa: E402

METHODS = ["get", "head", "post", "put", "delete", "patch", "options"]

hypothesis.settings.register_profile(
    "bounded", max_examples=60, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(hypothesis.HealthCheck))
hypothesis.settings.load_profile("bounded")


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve_toy(tmp_path_factory.mktemp("serve")) as running:
        yield running


@pytest.fixture(scope="module")
def schema(server):
    return schemathesis.openapi.from_dict(json.loads(server.get("/openapi.json")))


def operations(schema):
    return [result.ok() for result in schema.get_all_operations()]


def test_lists_every_route_and_no_other(server):
    document = json.loads(server.get("/openapi.json"))
    assert document["info"]["version"] == json.loads(server.get("/version"))["version"]
    for path, described in document["paths"].items():
        allowed = set()
        for method in METHODS:
            status, _ = server.request(method.upper(), path.replace("{model}", "toy"),
                                       None if method in ("get", "head", "options") else {},
                                       parse=False)
            if status not in (404, 405):
                allowed.add(method)
        assert allowed - {"head", "options"} == set(described), path
    # What the page, and clients that know no schema, ask for.
    for path in ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/precision"]:
        assert path in document["paths"]


def test_docs_load_nothing_from_elsewhere(server):
    page = server.get("/docs")
    assert "<title>" in page
    assert not re.search(r"(src|href)\s*=|url\(|@import|https?://", page)


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_answers_as_described(server, schema, mode):
    """Requests that keep to the schema, and some that do not: every answer is one it lists."""
    asked = 0
    for operation in operations(schema):
        @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
        def ask(case):
            nonlocal asked
            asked += 1
            if isinstance(case.body, dict) and isinstance(case.body.get("max_tokens"), int):
                case.body["max_tokens"] = min(case.body["max_tokens"], 16)
            response = case.call(base_url=server.url, timeout=60)
            case.validate_response(response, checks=[
                checks.not_a_server_error, openapi_checks.status_code_conformance,
                openapi_checks.content_type_conformance,
                openapi_checks.response_schema_conformance])

        try:
            ask()
        except hypothesis.errors.Unsatisfiable:
            pass  # nothing can be wrong about a request without parameters
    assert asked >= 300
    server.wait_until_idle()
    assert server.request("POST", "/v1/completions", {"prompt": "a", "max_tokens": 1})[0] == 200


def test_answers_of_a_real_model(tmp_path):
    """A real tokenizer and template: what the schema says of success is what comes."""
    with serve(tmp_path) as server:
        schema = schemathesis.openapi.from_dict(json.loads(server.get("/openapi.json")))
        bodies = {
            "/v1/completions": {"prompt": ["a", "b"], "n": 2, "max_tokens": 3, "logprobs": 2},
            "/v1/chat/completions": {"messages": [{"role": "user", "content": "a"}],
                                     "max_tokens": 3, "logprobs": True},
            "/tokenize": {"prompt": "a", "return_token_strs": True},
            "/detokenize": {"tokens": [1, 2]},
            "/v1/precision": {"mode": "fp8", "layers": [1]},
        }
        for operation in operations(schema):
            name = urllib.parse.quote("reference")
            case = operation.Case(
                body=bodies.get(operation.path, schemathesis.core.NOT_SET)
                if operation.method in ("post", "put") else schemathesis.core.NOT_SET,
                path_parameters={"model": name} if "{model}" in operation.path else {},
                media_type="application/json" if operation.method in ("post", "put") else None)
            response = case.call(base_url=server.url, timeout=60)
            assert response.status_code == 200, (operation.path, response.text)
            case.validate_response(response, checks=[
                openapi_checks.status_code_conformance, openapi_checks.content_type_conformance,
                openapi_checks.response_schema_conformance])
