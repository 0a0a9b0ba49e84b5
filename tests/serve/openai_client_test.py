"""The official OpenAI client against `dualfp serve`, with transformers as the oracle."""

import asyncio
import math
import os
import sys

import openai
import pytest
import torch
import transformers

sys.path.insert(0, os.path.dirname(__file__))
from running import MODEL, serve  # noqa: E402

PROMPT = "In the beginning God created"
MESSAGES = [{"role": "user", "content": "What is a dictionary?"}]


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serve(tmp_path_factory.mktemp("serve"), "--precision", "fp16") as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    return openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)


@pytest.fixture(scope="module")
def oracle():
    tokenizer = transformers.AutoTokenizer.from_pretrained(MODEL)
    model = transformers.AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    return tokenizer, model.eval()


def oracle_logprobs(oracle, ids):
    """Log-probabilities of each token of `ids` after the first, and all of them."""
    with torch.no_grad():
        logits = oracle[1](torch.tensor([ids])).logits[0].float()
    logprobs = torch.log_softmax(logits, -1)
    return [logprobs[i, token].item() for i, token in enumerate(ids[1:])], logprobs


def test_models(client):
    models = client.models.list().data
    assert [model.id for model in models] == ["reference"]
    assert models[0].max_model_len == 1024
    assert client.models.retrieve("reference").object == "model"


def test_greedy_completion_is_the_models(client, oracle):
    tokenizer, model = oracle
    ids = tokenizer(PROMPT).input_ids
    answer = client.completions.create(
        model="reference", prompt=PROMPT, max_tokens=24, temperature=0, logprobs=1)
    logprobs = answer.choices[0].logprobs
    assert "".join(logprobs.tokens) == answer.choices[0].text
    assert answer.usage.prompt_tokens == len(ids)
    assert answer.usage.completion_tokens == len(logprobs.tokens)

    # Follow the server's tokens through the oracle: each must be (all but) the likeliest there.
    # Activations and KV are FP32 on both sides, weights exact in FP16: what differs is the order
    # of sums.
    generated = []
    for token, top in zip(logprobs.tokens, logprobs.top_logprobs):
        _, table = oracle_logprobs(oracle, ids + generated)
        best = int(table[-1].argmax())
        assert tokenizer.decode([best]) == token
        assert math.isclose(table[-1, best].item(), top[token], abs_tol=2e-3)
        generated.append(best)


def test_echo_scores_the_prompt(client, oracle):
    tokenizer, _ = oracle
    ids = tokenizer(PROMPT).input_ids
    answer = client.completions.create(
        model="reference", prompt=PROMPT, max_tokens=0, echo=True, logprobs=0)
    assert answer.choices[0].text == PROMPT
    got = answer.choices[0].logprobs.token_logprobs
    wanted, _ = oracle_logprobs(oracle, ids)
    assert got[0] is None
    assert got[1:] == pytest.approx(wanted, abs=2e-3)
    assert answer.usage.completion_tokens == 0


def test_stream_is_the_same_answer(client):
    whole = client.completions.create(
        model="reference", prompt=PROMPT, max_tokens=40, temperature=0)
    chunks = list(client.completions.create(
        model="reference", prompt=PROMPT, max_tokens=40, temperature=0, stream=True,
        stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert len(chunks) == whole.usage.completion_tokens + 1
    assert chunks[-1].choices == []
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    assert all(chunk.usage is None for chunk in chunks[:-1])
    assert [c.choices[0].finish_reason for c in chunks[:-1]] == (
        [None] * (len(chunks) - 2) + [whole.choices[0].finish_reason])


def test_chat_uses_the_models_template(client, server, oracle):
    tokenizer, _ = oracle
    ids = tokenizer.apply_chat_template(MESSAGES, add_generation_prompt=True, return_dict=True)
    ids = ids["input_ids"]
    status, answer = server.request("POST", "/tokenize", {"messages": MESSAGES})
    assert (status, answer["tokens"]) == (200, ids)
    chat = client.chat.completions.create(
        model="reference", messages=MESSAGES, max_tokens=20, temperature=0)
    assert chat.usage.prompt_tokens == len(ids)
    completion = client.completions.create(
        model="reference", prompt=ids, max_tokens=20, temperature=0)
    assert chat.choices[0].message.content == completion.choices[0].text
    assert chat.choices[0].message.role == "assistant"


def test_chat_stream_with_logprobs(client):
    chunks = list(client.chat.completions.create(
        model="reference", messages=MESSAGES, max_tokens=12, temperature=0, stream=True,
        logprobs=True, top_logprobs=3))
    assert chunks[0].choices[0].delta.role == "assistant"
    text = "".join(chunk.choices[0].delta.content for chunk in chunks)
    entries = [e for chunk in chunks for e in chunk.choices[0].logprobs.content]
    assert b"".join(bytes(e.bytes) for e in entries).decode() == text
    for entry in entries:
        assert len(entry.top_logprobs) == 3
        assert entry.top_logprobs[0].token == entry.token
        assert sorted((t.logprob for t in entry.top_logprobs), reverse=True) == [
            t.logprob for t in entry.top_logprobs]


def test_seed_repeats_and_n_differs(client):
    def ask(**more):
        answer = client.completions.create(
            model="reference", prompt=PROMPT, max_tokens=16, temperature=1, **more)
        return [choice.text for choice in answer.choices]

    assert ask(seed=7, n=4) == ask(seed=7, n=4)
    assert len(set(ask(seed=7, n=4))) > 1
    assert ask(seed=7) != ask(seed=8)


def test_lists_of_prompts(client):
    prompts = ["The cat", "A king said", "In the"]
    answer = client.completions.create(
        model="reference", prompt=prompts, max_tokens=8, temperature=0)
    alone = [client.completions.create(model="reference", prompt=prompt, max_tokens=8,
                                       temperature=0).choices[0].text for prompt in prompts]
    assert [choice.index for choice in answer.choices] == [0, 1, 2]
    assert [choice.text for choice in answer.choices] == alone


def test_stop(client):
    free = client.completions.create(
        model="reference", prompt=PROMPT, max_tokens=40, temperature=0).choices[0].text
    stop = free[10:13]
    answer = client.completions.create(
        model="reference", prompt=PROMPT, max_tokens=40, temperature=0, stop=stop).choices[0]
    assert answer.text == free[:free.index(stop)]
    assert (answer.finish_reason, answer.stop_reason) == ("stop", stop)
    kept = client.completions.create(
        model="reference", prompt=PROMPT, max_tokens=40, temperature=0, stop=stop,
        extra_body={"include_stop_str_in_output": True}).choices[0]
    assert kept.text == free[:free.index(stop)] + stop


def test_tokenize_agrees_with_transformers(server, oracle):
    tokenizer, _ = oracle
    for text in [PROMPT, "naïve café 日本語 🙂", " two  spaces\n\n", "<|end_of_text|>"]:
        _, answer = server.request(
            "POST", "/tokenize", {"prompt": text, "return_token_strs": True})
        assert answer["tokens"] == tokenizer(text).input_ids
        _, back = server.request("POST", "/detokenize", {"tokens": answer["tokens"]})
        assert back["prompt"] == tokenizer.decode(answer["tokens"])
        assert answer["count"] == len(answer["token_strs"])


def test_returns_token_ids(client, oracle):
    tokenizer, _ = oracle
    prompts = [PROMPT, "Two"]
    more = {"extra_body": {"return_token_ids": True}, "temperature": 0, "max_tokens": 6}
    answer = client.completions.create(model="reference", prompt=prompts, echo=True, **more)
    streamed = [choice for chunk in client.completions.create(
        model="reference", prompt=prompts, stream=True, **more) for choice in chunk.choices]
    for i, prompt in enumerate(prompts):
        choice = answer.choices[i]
        assert choice.prompt_token_ids == tokenizer(prompt).input_ids
        assert prompt + tokenizer.decode(choice.token_ids, skip_special_tokens=True) == choice.text
        chunks = [chunk for chunk in streamed if chunk.index == i]
        assert chunks[0].prompt_token_ids == choice.prompt_token_ids
        assert not any(hasattr(chunk, "prompt_token_ids") for chunk in chunks[1:])
        assert sum((chunk.token_ids for chunk in chunks), []) == choice.token_ids
    assert not hasattr(client.completions.create(
        model="reference", prompt="a", max_tokens=1).choices[0], "token_ids")


def test_returns_token_ids_of_chats(client, oracle):
    tokenizer, _ = oracle
    more = {"extra_body": {"return_token_ids": True}, "temperature": 0, "max_tokens": 6}
    answer = client.chat.completions.create(model="reference", messages=MESSAGES, **more)
    assert answer.prompt_token_ids == tokenizer.apply_chat_template(
        MESSAGES, add_generation_prompt=True, return_dict=False)
    choice = answer.choices[0]
    assert tokenizer.decode(choice.token_ids, skip_special_tokens=True) == choice.message.content
    chunks = list(client.chat.completions.create(
        model="reference", messages=MESSAGES, stream=True, **more))
    assert chunks[0].prompt_token_ids == answer.prompt_token_ids
    assert sum((chunk.choices[0].token_ids for chunk in chunks), []) == choice.token_ids


def test_truncation_keeps_the_end(client, server, oracle):
    tokenizer, _ = oracle
    text = "word " * 2000
    answer = client.completions.create(
        model="reference", prompt=text, max_tokens=4, temperature=0,
        extra_body={"truncate_prompt_tokens": 50})
    assert answer.usage.prompt_tokens == 50
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="reference", prompt=text, max_tokens=4)
    assert error.value.code == "context_length_exceeded"


@pytest.mark.parametrize("fields,param", [
    ({"max_tokens": -1}, "max_tokens"),
    ({"n": 10000}, "n"),
    ({"temperature": 1e30}, "temperature"),
    ({"top_p": 0}, "top_p"),
    ({"stop": [1]}, "stop"),
    ({"logprobs": 1000}, "logprobs"),
    ({"logit_bias": {"99999999": 1}}, "logit_bias"),
])
def test_bad_requests(client, fields, param):
    with pytest.raises(openai.BadRequestError) as error:
        client.completions.create(model="reference", prompt="a", extra_body=fields)
    assert error.value.param == param
    assert error.value.type == "invalid_request_error"


def test_other_errors(client):
    with pytest.raises(openai.NotFoundError) as error:
        client.completions.create(model="gpt-7", prompt="a")
    assert error.value.code == "model_not_found"
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="reference", messages=[])
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model="reference", messages=[
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])


def test_unknown_fields_are_ignored_and_logged(client, server):
    client.completions.create(
        model="reference", prompt="a", max_tokens=1, extra_body={"tempreature": 3})
    assert "tempreature" in server.log()


def test_precision(client, server):
    def by_precision(**more):
        usage = client.completions.create(
            model="reference", prompt=PROMPT, max_tokens=8, temperature=0,
            extra_body={"ignore_eos": True, "cache_salt": str(more), **more}).usage
        return usage.tokens_by_precision["completion"]

    assert by_precision() == {"exact": 8}
    assert by_precision(precision="fp8") == {"fp8": 8}
    assert server.request("PUT", "/v1/precision", {"mode": "fp8"})[1]["mode"] == "fp8"
    try:
        assert by_precision() == {"fp8": 8}
        assert by_precision(precision="fp16") == {"exact": 8}
        server.request("PUT", "/v1/precision", {"mode": "fp8", "layers": [0, 1]})
        assert by_precision(again=1) == {"mixed": 8}
        assert server.request("GET", "/v1/precision")[1]["layers"] == ["fp8"] * 2 + ["exact"] * 6
    finally:
        server.request("PUT", "/v1/precision", {"mode": "fp16"})


def test_cancellation_frees_the_request(client, server):
    aborted = server.metric("request_success_total", finished_reason="abort")
    stream = client.completions.create(
        model="reference", prompt=PROMPT, max_tokens=900, stream=True,
        extra_body={"ignore_eos": True})
    next(iter(stream))
    stream.close()
    server.wait_until_idle()
    assert server.metric("request_success_total", finished_reason="abort") == aborted + 1


def test_a_crowd(server):
    """64 streams at a time, each the same as when it is alone."""
    async def run():
        client = openai.AsyncOpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)

        async def ask(i):
            stream = await client.completions.create(
                model="reference", prompt=f"Number {i % 4} is", max_tokens=24, temperature=0,
                stream=True)
            return "".join([chunk.choices[0].text async for chunk in stream])

        crowd = await asyncio.gather(*[ask(i) for i in range(64)])
        alone = [await ask(i) for i in range(4)]
        await client.close()
        return crowd, alone

    crowd, alone = asyncio.run(run())
    assert crowd == [alone[i % 4] for i in range(64)]


def test_api_key(tmp_path):
    with serve(tmp_path, "--api-key", "secret", "--api-key", "other") as server:
        for key in ["secret", "other"]:
            client = openai.OpenAI(base_url=server.url + "/v1", api_key=key, max_retries=0)
            client.models.list()
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="wrong", max_retries=0)
        with pytest.raises(openai.AuthenticationError):
            client.completions.create(model="reference", prompt="a")
        assert server.request("PUT", "/v1/precision", {"mode": "fp8"})[0] == 401
        assert server.request("GET", "/v1/precision",
                              headers={"Authorization": "Bearer other"})[0] == 200
        server.get("/metrics")
