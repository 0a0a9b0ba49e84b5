"""Our chat templates against Jinja2 in the environment that transformers gives it."""

import datetime
import functools
import json
import os
import pathlib
import re
import subprocess

import jinja2
import jinja2.ext
import jinja2.sandbox
import pytest
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).resolve().parent
TOOL = os.path.join(os.environ["DUALFP_BUILD_DIR"], "layers", "text", "text_golden_tool")
NOW = 1_753_000_000  # strftime_now() tells this time

VARIABLES = {
    "big": 18446744073709551615,
    "huge": -10**30,
    "d": {"a": 1, "b": None, "c": "x"},
    "ms": [{"role": "system", "content": "sys"}, {"role": "user", "content": " hi "},
           {"role": "assistant", "content": "yo"}],
}


class Generation(jinja2.ext.Extension):
    """{% generation %}: its body, as when transformers tracks nothing."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_body"), [], [], body).set_lineno(line)

    def _body(self, caller):
        return caller()


def environment():
    """As transformers.utils.chat_template_utils makes it."""
    def raise_exception(message):
        raise jinja2.exceptions.TemplateError(message)

    def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators,
                          sort_keys=sort_keys)

    result = jinja2.sandbox.ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])
    result.filters["tojson"] = tojson
    result.globals["raise_exception"] = raise_exception
    result.globals["strftime_now"] = (
        lambda format: datetime.datetime.fromtimestamp(NOW).strftime(format))
    return result


@functools.lru_cache
def compile_template(source):
    return environment().from_string(source)


def run_tool(cases):
    lines = "".join(json.dumps(dict(case, now=NOW)) + "\n" for case in cases)
    result = subprocess.run([TOOL, "template"], input=lines.encode(), check=True,
                            stdout=subprocess.PIPE)
    return [json.loads(line) for line in result.stdout.decode().split("\n")[:-1]]


def check(cases):
    """Both render the same, or both fail; raise_exception fails with the same message."""
    for case, result in zip(cases, run_tool(cases)):
        try:
            expected = compile_template(case["template"]).render(**case["variables"])
        except Exception as error:
            assert "error" in result, (case, error, result)
            if type(error) is jinja2.exceptions.TemplateError:
                assert str(error) in result["error"]
            continue
        assert result.get("text") == expected, (case["template"], result, expected)


def test_expressions():
    lines = (HERE / "expressions.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert len(lines) > 140
    check([{"template": line, "variables": VARIABLES} for line in lines])


WHITESPACE = [
    "a\n  {% if true %}\n  b\n  {% endif %}\nc\n",
    "a\n  {%+ if true %}\n  b\n  {%+ endif +%}\nc\n\n",
    "  {% if true -%}  \n  x  \n  {%- endif %}  \n",
    "{# c #}\nx\n  {# c #}\n  y {#- c -#} \n z{#+ c +#}\n",
    "  {{ 1 }}\n  {{- 2 }}\n{{ 3 -}}  \n4",
    "\r\na\r\n{% if true %}\r\nb{% endif %}\r\n",
    "{% raw %}\n{{ x }} {% if %}\n{% endraw %}\nz",
    "  {% raw -%}  \n a \n {%- endraw %}\nz",
    "a{% raw %}  {% endraw %}b",
    "{% for i in [1, 2] %}\n  {{ i }}\n{% endfor %}\n",
    "{%- for i in [1, 2] -%}\n  {{ i }}\n{%- endfor -%}\n",
    "{%- macro m() %}\n  x\n{% endmacro %}\n[{{ m() }}]",
    "{% set x %}\n  a\n  {% endset %}\n[{{ x }}]",
    "x {% if true %} y {% endif %} z",
    "\t{% if true %}\tx\u3000{%- endif %}\u3000{% if true -%}\u2003y{% endif %}",
    "{{ {'a': 1}['a'] }}}}",
    "{{ '}}' }}{{ \"{%\" }}{% if '%}' %}{% endif %}",
    "{ {{ 1 }} } {%",
    "{{",
    "a {# unfinished",
    "{% raw %} unfinished",
    "\n",
    "",
    "a\n\n",
]


def test_whitespace():
    check([{"template": template, "variables": {}} for template in WHITESPACE])


TOOLS = [
    {"type": "function", "function": {
        "name": "get_weather", "description": "The weather\nat a place, \"now\" & <here>",
        "parameters": {"type": "object", "required": ["place"], "properties": {
            "place": {"type": "string", "description": "Città, 市"},
            "unit": {"enum": ["celsius", "kelvin"], "type": "string"},
            "days": {"type": "array", "items": {"type": "integer"}},
            "nested": {"type": "object", "properties": {"x": {"type": "number"}}}}}}},
    {"type": "function", "function": {"name": "now", "parameters": {"type": "object",
                                                                    "properties": {}},
                                      "return": {"type": "string"}}},
]

TOOL_CALL = {"id": "abcdefghi", "type": "function", "function": {
    "name": "get_weather", "arguments": {"place": "Zürich \"x\"", "days": [1, 2.5, None, True]}}}

CONVERSATIONS = {
    "user": [{"role": "user", "content": "  Hello there! \n"}],
    "system": [{"role": "system", "content": " Be brief.\n"}, {"role": "user", "content": "Hi"}],
    "turns": [{"role": "system", "content": "S"}, {"role": "user", "content": "1 < 2 & 'q'"},
              {"role": "assistant", "content": "<think>\nhm\n</think>\n\nyes"},
              {"role": "user", "content": "再见 👋🏽"}],
    "no system": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"},
                  {"role": "user", "content": "c"}, {"role": "assistant", "content": "d"}],
    "tools": [{"role": "user", "content": "Weather?"},
              {"role": "assistant", "content": "", "tool_calls": [TOOL_CALL]},
              {"role": "tool", "content": "{\"t\": 21}", "tool_call_id": "abcdefghi"},
              {"role": "tool", "content": "sunny", "tool_call_id": "abcdefghi"},
              {"role": "assistant", "content": "21 degrees", "reasoning_content": "\nlooked up\n"},
              {"role": "user", "content": "Thanks"}],
    "pending tools": [{"role": "user", "content": "Weather?"},
                      {"role": "assistant", "content": "x", "tool_calls": [TOOL_CALL, TOOL_CALL]},
                      {"role": "tool", "content": "21", "tool_call_id": "short"}],
    "wrong order": [{"role": "assistant", "content": "a"}, {"role": "assistant", "content": "b"}],
    "unknown role": [{"role": "user", "content": "a"}, {"role": "judge", "content": "b"}],
    "blocks": [{"role": "user", "content": [{"type": "text", "text": "What is"},
                                            {"type": "image", "url": "x"},
                                            {"type": "text", "text": "this?"}]}],
    "two texts": [{"role": "system", "content": [{"type": "text", "text": "S"}]},
                  {"role": "user", "content": [{"type": "text", "text": "a "},
                                               {"type": "text", "text": "b"}]},
                  {"role": "assistant", "content": [{"type": "text", "text": " c\n"}]}],
    "reasoning": [{"role": "user", "content": "a"},
                  {"role": "assistant", "content": " the answer is  ", "reasoning": "because"}],
    "calls without content": [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": None, "tool_calls": [TOOL_CALL]},
        {"role": "tool", "content": "21", "tool_call_id": "abcdefghi", "name": None},
        {"role": "assistant", "content": "It is", "tool_calls": None}],
    "null content": [{"role": "user", "content": "a"}, {"role": "assistant", "content": None}],
    "empty": [],
}

EXTRAS = [
    {},
    {"enable_thinking": False},
    {"builtin_tools": ["interpreter", "get_weather"], "date_string": "3 Mar 2023"},
    {"tools_in_user_message": False},
    {"custom_tools": TOOLS[:1]},
    {"enable_thinking": True, "controls": {"length": "long"}},
]


@pytest.mark.parametrize("path", sorted((HERE / "templates").glob("*.jinja")),
                         ids=lambda path: path.stem)
def test_templates(path):
    source = path.read_text(encoding="utf-8")
    cases = []
    for messages in CONVERSATIONS.values():
        for tools in (None, TOOLS):
            for add_generation_prompt in (True, False):
                for extra in EXTRAS:
                    cases.append({"template": source, "variables": {
                        "messages": messages, "tools": tools, "documents": None,
                        "add_generation_prompt": add_generation_prompt, "bos_token": "<s>",
                        "eos_token": "</s>", **extra}})
    check(cases)


def test_apply_chat_template(tmp_path):
    """Through the files of a model directory, in both places where a template may be."""
    source = (HERE / "templates" / "qwen25.jinja").read_text(encoding="utf-8")
    reference = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1, "a": 2}, merges=[])),
        bos_token="<s>", eos_token="</s>", chat_template=source)
    named = [{"name": "default", "template": source},
             {"name": "tool_use", "template": "{{ bos_token }}tools:{{ tools | length }}"}]
    as_file, as_list = tmp_path / "file", tmp_path / "list"
    for directory in (as_file, as_list):
        reference.save_pretrained(directory)
        (directory / "chat_template.jinja").unlink(missing_ok=True)
    (as_file / "chat_template.jinja").write_text(source, encoding="utf-8")
    config = json.loads((as_list / "tokenizer_config.json").read_text(encoding="utf-8"))
    config["chat_template"] = named
    (as_list / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")

    cases, expected = [], []
    for directory in (as_file, as_list):
        loaded = PreTrainedTokenizerFast.from_pretrained(directory)
        for tools in (None, TOOLS):
            messages = CONVERSATIONS["turns"]
            expected.append(loaded.apply_chat_template(messages, tools=tools, tokenize=False,
                                                       add_generation_prompt=True))
            cases.append({"directory": str(directory),
                          "request": {"messages": messages, "tools": tools}})
    assert [result.get("text") for result in run_tool(cases)] == expected
    assert expected[3] == "<s>tools:2"


def reference_tokenizer(source):
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.BPE(vocab={"<s>": 0, "</s>": 1, "a": 2}, merges=[])),
        bos_token="<s>", eos_token="</s>", chat_template=source)


def as_sent(messages):
    """With the arguments of tool calls as clients send them: JSON text."""
    messages = json.loads(json.dumps(messages))
    for message in messages:
        for call in message.get("tool_calls") or []:
            call["function"]["arguments"] = json.dumps(call["function"]["arguments"])
    return messages


def joined(messages):
    return [dict(m, content=" ".join(part.get("text", "") for part in m["content"]))
            if isinstance(m.get("content"), list) else m for m in messages]


def rendered(reference, messages, **options):
    """What transformers makes of it: a list of parts as it is where the template reads it, which
    shows in a prompt without Python's notation of the list, else as one text."""
    results = []
    for form in (messages, joined(messages)):
        try:
            prompt = reference.apply_chat_template(form, tokenize=False, **options)
        except Exception:
            prompt = None
        if prompt is not None and "{'type'" not in prompt and all(
                text in prompt for text in options_texts(messages)):
            return prompt
        results.append(prompt)
    return results[-1]


def options_texts(messages):
    """The texts of parts in user messages: a template that loses them does not read parts."""
    return [part["text"].strip() for m in messages if isinstance(m.get("content"), list)
            for part in m["content"] if "text" in part and m["role"] == "user"]


@pytest.mark.parametrize("path", sorted((HERE / "templates").glob("*.jinja")),
                         ids=lambda path: path.stem)
def test_formatter(path, tmp_path):
    """Whole requests, as the server gets them, against apply_chat_template."""
    source = path.read_text(encoding="utf-8")
    now = datetime.datetime.fromtimestamp(NOW)
    source = re.sub(r"strftime_now\(([^)]*)\)", lambda m: repr(now.strftime(m[1][1:-1])), source)
    reference = reference_tokenizer(source)
    reference.save_pretrained(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(source, encoding="utf-8")
    cases, expected = [], []
    for name, messages in CONVERSATIONS.items():
        if name in ("empty", "blocks"):
            continue
        for tools in (None, TOOLS):
            for extra in ({}, {"enable_thinking": True}):
                for options in ({"add_generation_prompt": True}, {"add_generation_prompt": False},
                                {"continue_final_message": True}):
                    expected.append(rendered(reference, messages, tools=tools, **options, **extra))
                    cases.append({"directory": str(tmp_path), "request": {
                        "messages": as_sent(messages), "tools": tools, "extra": extra, **options}})
    for case, result, prompt in zip(cases, run_tool(cases), expected):
        assert result.get("text") == prompt, (case["request"], result)
