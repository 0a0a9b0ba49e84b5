"""dualfp.LLM: the same results as the command, and what only a library has."""

import json
import math
import os
import pathlib
import subprocess
import threading
import time

import pytest

import dualfp
from dualfp import LLM, SamplingParams

MODEL = pathlib.Path(os.environ["DUALFP_SOURCE_DIR"]) / "models" / "reference"
PROMPT = "In the beginning"


@pytest.fixture(scope="module")
def llm():
    with LLM(str(MODEL), quantization="dualfp", precision="exact", max_model_len=256, max_num_seqs=16) as model:
        yield model


def command(*arguments):
    done = subprocess.run(
        [os.environ["DUALFP_BINARY"], "generate", MODEL, "--quantization", "nested12", "--json", *arguments],
        check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )
    return json.loads(done.stdout)


@pytest.mark.parametrize("precision", ["exact", "fp8"])
def test_the_command_says_the_same(llm, precision):
    want = command("--prompt", PROMPT, "--max-tokens", "24", "--precision", precision)
    params = SamplingParams(temperature=0, max_tokens=24, precision=precision)
    (result,) = llm.generate(PROMPT, params)
    assert result.prompt == PROMPT and result.prompt_token_ids == want["prompt_token_ids"]
    (choice,) = result.outputs
    assert choice.token_ids == want["token_ids"] and choice.text == want["text"]
    assert choice.finish_reason == want["finish_reason"] == "length"
    assert result.usage["completion_by_precision"][precision] == 24


def test_a_users_message_goes_through_the_chat_template(llm):
    want = command("--prompt", "What is a dictionary?", "--chat", "--max-tokens", "12")
    params = SamplingParams(temperature=0, max_tokens=12)
    message = {"role": "user", "content": "What is a dictionary?"}
    for messages in ([message], [[message]]):
        (result,) = llm.chat(messages, params)
        assert result.prompt_token_ids == want["prompt_token_ids"]
        assert result.outputs[0].text == want["text"]


def test_results_are_in_the_order_of_prompts(llm):
    prompts = [PROMPT, "Once upon a time", llm.encode("The dog"), {"prompt_token_ids": llm.encode("The cat")}]
    params = SamplingParams(temperature=0, max_tokens=8)
    together = llm.generate(prompts, params)
    for prompt, result in zip(prompts, together):
        assert result.outputs[0].token_ids == llm.generate([prompt], params)[0].outputs[0].token_ids
    each = llm.generate(prompts[:2], [params, SamplingParams(temperature=0, max_tokens=3)])
    assert [len(result.outputs[0].token_ids) for result in each] == [8, 3]
    assert llm.generate([], params) == []


def test_more_requests_than_the_queue_takes():
    with LLM(str(MODEL), quantization="dualfp", max_model_len=64, max_num_seqs=2, max_waiting=3) as small:
        results = small.generate([PROMPT] * 12, SamplingParams(temperature=0, max_tokens=4, precision="exact"))
        assert len({tuple(result.outputs[0].token_ids) for result in results}) == 1


def test_precision_switches(llm):
    params = SamplingParams(temperature=0, max_tokens=10)
    exact = llm.generate(PROMPT, params)[0]
    assert llm.quantization_method.is_dualfp_enabled and not llm.quantization_method.fp8
    try:
        llm.quantization_method.fp8 = True
        assert llm.get_precision() == "fp8"
        fp8 = llm.generate(PROMPT, params)[0]
        assert fp8.usage["completion_by_precision"]["fp8"] == 10
        pinned = llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=10, precision="exact"))[0]
        assert pinned.outputs[0].token_ids == exact.outputs[0].token_ids
        assert pinned.usage["completion_by_precision"]["exact"] == 10
        by_extra = SamplingParams(temperature=0, max_tokens=10, extra_args={"precision": "fp16"})
        assert llm.generate(PROMPT, by_extra)[0].usage["completion_by_precision"]["exact"] == 10
        layers = ["exact", "fp8"] * (llm.info["num_layers"] // 2)
        llm.set_precision(layers)
        assert llm.get_precision() == layers
        assert llm.generate(PROMPT, params)[0].usage["completion_by_precision"]["mixed"] == 10
        llm.set_precision("auto")
        assert llm.get_precision() == "auto"
    finally:
        llm.quantization_method.fp8 = False
    assert llm.generate(PROMPT, params)[0].outputs[0].token_ids == exact.outputs[0].token_ids


def test_streaming_adds_up_and_ends_when_left(llm):
    params = SamplingParams(temperature=0, max_tokens=12)
    want = llm.generate(PROMPT, params)[0].outputs[0]
    lengths, text = [], None
    for output in llm.stream(PROMPT, params):
        lengths.append(len(output.outputs[0].token_ids))
        text = output.outputs[0].text
    assert text == want.text and lengths == sorted(lengths) and len(lengths) > 4
    for _ in llm.stream(PROMPT, SamplingParams(temperature=0, max_tokens=200, ignore_eos=True)):
        break
    assert llm.generate(PROMPT, params)[0].outputs[0].token_ids == want.token_ids


def test_the_interpreter_runs_on_while_the_engine_works(llm):
    ticks, done = [], threading.Event()

    def tick():
        while not done.is_set():
            ticks.append(1)
            time.sleep(0.0005)

    thread = threading.Thread(target=tick)
    thread.start()
    llm.generate([PROMPT] * 4, SamplingParams(temperature=0, max_tokens=48, ignore_eos=True))
    done.set()
    thread.join()
    assert len(ticks) > 10


def test_threads_share_the_engine(llm):
    params = SamplingParams(temperature=0, max_tokens=8)
    want = llm.generate(PROMPT, params)[0].outputs[0].token_ids
    results = [None] * 4

    def run(place):
        results[place] = llm.generate(PROMPT, params)[0].outputs[0].token_ids

    threads = [threading.Thread(target=run, args=(place,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [want] * 4


def test_choices_seeds_stops_and_logprobs(llm):
    params = SamplingParams(n=3, temperature=1.0, seed=7, max_tokens=6)
    first, again = (llm.generate(PROMPT, params)[0] for _ in range(2))
    assert [c.index for c in first.outputs] == [0, 1, 2]
    assert [c.token_ids for c in first.outputs] == [c.token_ids for c in again.outputs]
    assert len({tuple(c.token_ids) for c in first.outputs}) > 1

    greedy = SamplingParams(temperature=0, max_tokens=6, logprobs=2, prompt_logprobs=1)
    result = llm.generate(PROMPT, greedy)[0]
    choice = result.outputs[0]
    assert len(choice.logprobs) == 6 and result.prompt_logprobs[0] is None
    for token, entry in zip(choice.token_ids, choice.logprobs):
        assert entry[token].rank == 1 and len(entry) == 2
        assert entry[token].logprob == max(other.logprob for other in entry.values())
    assert math.isclose(choice.cumulative_logprob,
                        sum(e[t].logprob for t, e in zip(choice.token_ids, choice.logprobs)))
    text = "".join(e[t].decoded_token for t, e in zip(choice.token_ids, choice.logprobs))
    assert text == choice.text

    stop = choice.text.split()[1]
    stopped = llm.generate(PROMPT, SamplingParams(temperature=0, max_tokens=20, stop=stop))[0].outputs[0]
    assert stopped.finish_reason == "stop" and stopped.stop_reason == stop and stop not in stopped.text
    banned = SamplingParams(temperature=0, max_tokens=1, logit_bias={choice.token_ids[0]: -100.0})
    assert llm.generate(PROMPT, banned)[0].outputs[0].token_ids != choice.token_ids[:1]


def test_text_and_tokens(llm):
    assert llm.decode(llm.encode("A small test, twice.")) == "A small test, twice."
    defaults = json.loads((MODEL / "generation_config.json").read_text())
    assert llm.get_default_sampling_params().temperature == defaults["temperature"]


@pytest.mark.parametrize("options, error, message", [
    ({"model": "/nowhere/at/all"}, LookupError, "/nowhere/at/all"),
    ({"quantization": "int3"}, ValueError, "int3"),
    ({"precision": "fp7"}, ValueError, "fp7"),
    ({"max_model_len": 10**9}, ValueError, "context|max-model-len|max_model_len"),
    ({"max_num_seqs": 0}, ValueError, "max_num_seqs"),
    ({"tensor_parallel_size": 64}, (NotImplementedError, ValueError), "tensor-parallel-size"),
    ({"no_such_option": 1}, ValueError, "no_such_option"),
])
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        LLM(**{"model": str(MODEL), **options})


def test_bad_requests_leave_the_engine_as_it_was(llm):
    for params, message in [
        (SamplingParams(temperature=-1), "temperature"),
        (SamplingParams(top_p=0), "top_p"),
        (SamplingParams(n=0), "n: expected"),
        (SamplingParams(precision="fp7"), "fp7"),
        (SamplingParams(precision="fp8", extra_args={"precision": "exact"}), "at once"),
        (SamplingParams(extra_args={"other": 1}), "other"),
        (SamplingParams(stop=[""]), "stop"),
        (SamplingParams(stop_token_ids=[-1]), "stop_token_ids"),
    ]:
        with pytest.raises(ValueError, match=message):
            llm.generate(PROMPT, params)
    for prompt in ([], [5] * 300, [10**6], [-1], 3.5, [[1.5, "x"]], {"prompt": None}):
        with pytest.raises((ValueError, TypeError)):
            llm.generate([prompt], SamplingParams(max_tokens=1))
    with pytest.raises(ValueError, match="2 sampling_params for 1"):
        llm.generate(PROMPT, [SamplingParams()] * 2)
    with pytest.raises(ValueError, match="expected"):
        llm.chat([])
    with pytest.raises(TypeError, match="True or False"):
        llm.quantization_method.fp8 = "yes"
    with pytest.raises(ValueError, match="layer"):
        llm.set_precision(["fp8"])
    assert llm.get_precision() == "exact"
    assert len(llm.generate(PROMPT, SamplingParams(max_tokens=2))[0].outputs[0].token_ids) == 2


def test_plain_weights_do_not_compute_at_fp8():
    with LLM(str(MODEL), quantization="none", max_model_len=32, max_num_seqs=1) as plain:
        assert not plain.quantization_method.is_dualfp_enabled
        with pytest.raises(NotImplementedError, match="fp8|FP8"):
            plain.quantization_method.fp8 = True
        with pytest.raises(NotImplementedError, match="fp8|FP8"):
            plain.generate(PROMPT, SamplingParams(max_tokens=1, precision="fp8"))
    with pytest.raises(RuntimeError, match="closed"):
        plain.generate(PROMPT)
    assert dualfp.get_precision() == "exact"
