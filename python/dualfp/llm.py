"""The engine in Python: vLLM's LLM, with a precision that switches."""

from __future__ import annotations

import json
import pathlib
from collections.abc import Generator, Iterator, Sequence
from typing import Any

from dualfp._engine import Engine
from dualfp.outputs import CompletionOutput, RequestOutput, extend
from dualfp.sampling import SamplingParams

Prompt = str | Sequence[int] | dict[str, Any]
Message = dict[str, Any]


class QuantizationMethod:
    """`llm.quantization_method.fp8 = True`: the switch by its published name."""

    def __init__(self, engine: Engine, fp8_unsupported: str) -> None:
        self._engine = engine
        self._fp8_unsupported = fp8_unsupported

    @property
    def is_dualfp_enabled(self) -> bool:
        """Whether some layers of the model compute at FP8."""
        return not self._fp8_unsupported

    @property
    def fp8(self) -> bool:
        return self._engine.get_precision()["precision"] == "fp8"

    @fp8.setter
    def fp8(self, on: bool) -> None:
        if not isinstance(on, bool):
            raise TypeError(f"fp8 is True or False, not {on!r}")
        self._engine.set_precision("fp8" if on else "exact")


def _quantization(name: str | None, model: str) -> str:
    """"dualfp" is the form that is exact in the checkpoint's own type."""
    if name is None:
        return "auto"
    if name != "dualfp":
        return name
    try:
        config = json.loads((pathlib.Path(model) / "config.json").read_text())
    except (OSError, ValueError):
        return "nested"  # the engine says what is wrong with the folder
    dtype = config.get("dtype") or config.get("torch_dtype")
    return "nested12" if dtype == "bfloat16" else "nested"


class LLM:
    """A model ready to use, from a folder with config.json and safetensors, or a Hub id that is in the
    Hub's cache. Options are `dualfp serve`'s, by the same names. Thread-safe; requests that are there
    at one time share steps."""

    def __init__(
        self,
        model: str,
        *,
        tokenizer: str | None = None,
        quantization: str | None = None,
        dtype: str = "auto",
        seed: int | None = None,
        max_model_len: int | None = None,
        precision: str = "auto",
        progress: Any = None,
        **options: Any,
    ) -> None:
        wanted = {
            "model": str(model),
            "tokenizer": tokenizer,
            "quantization": _quantization(quantization, str(model)),
            "dtype": dtype,
            "seed": seed,
            "max_model_len": max_model_len,
            "precision": precision,
            **options,
        }
        self._engine = Engine({k: v for k, v in wanted.items() if v is not None}, progress)
        self._info = self._engine.info()
        self.quantization_method = QuantizationMethod(self._engine, self._info["fp8_unsupported"])

    @property
    def info(self) -> dict[str, Any]:
        """num_layers, max_model_len, vocab_size, description, ..."""
        return dict(self._info)

    def get_default_sampling_params(self) -> SamplingParams:
        """What the model's generation_config.json says."""
        return SamplingParams(**self._info["default_sampling"])

    def set_precision(self, precision: str | Sequence[str]) -> None:
        """From the next step on: "exact", "fp8", "auto" (the policy), or one for each layer."""
        self._engine.set_precision(precision if isinstance(precision, str) else list(precision))

    def get_precision(self) -> str | list[str]:
        return self._engine.get_precision()["precision"]

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        request = {"text": text, "add_special_tokens": add_special_tokens}
        return self._engine.ask("encode", request)

    def decode(self, token_ids: Sequence[int], skip_special_tokens: bool = True) -> str:
        request = {"token_ids": list(token_ids), "skip_special_tokens": skip_special_tokens}
        return self._engine.ask("decode", request)

    def generate(
        self,
        prompts: Prompt | Sequence[Prompt],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
    ) -> list[RequestOutput]:
        """Prompts are texts, lists of token ids, or {"prompt": ...} or {"prompt_token_ids": ...}, one or
        several; one SamplingParams for all or one for each. Results are in their order."""
        several = _as_list(prompts)
        params = self._params(sampling_params, len(several))
        return self._run([self._prompt(prompt) for prompt in several], params)

    def chat(
        self,
        messages: Sequence[Message] | Sequence[Sequence[Message]],
        sampling_params: SamplingParams | Sequence[SamplingParams] | None = None,
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        chat_template_kwargs: dict[str, Any] | None = None,
    ) -> list[RequestOutput]:
        """The same for one conversation or several, by the model's chat template."""
        if not isinstance(messages, Sequence) or isinstance(messages, str) or len(messages) == 0:
            raise ValueError("chat: expected a list of messages, or of conversations")
        conversations: list[Any] = [messages] if isinstance(messages[0], dict) else list(messages)
        params = self._params(sampling_params, len(conversations))
        prompts = []
        for conversation in conversations:
            request: dict[str, Any] = {
                "messages": list(conversation),
                "add_generation_prompt": add_generation_prompt and not continue_final_message,
                "continue_final_message": continue_final_message,
            }
            if chat_template_kwargs is not None:
                request["chat_template_kwargs"] = chat_template_kwargs
            text = self._engine.ask("render_chat", request)
            # The template writes the special tokens itself.
            prompts.append((text, self.encode(text, add_special_tokens=False)))
        return self._run(prompts, params)

    def stream(
        self, prompt: Prompt, sampling_params: SamplingParams | None = None
    ) -> Iterator[RequestOutput]:
        """One request as it grows: everything so far, after each step. Leaving the loop cancels it."""
        text, token_ids = self._prompt(prompt)
        (params,) = self._params(sampling_params, 1)
        number, output = self._submit(text, token_ids, params)
        return self._follow(number, output, params)

    def close(self) -> None:
        """Ends the engine; requests that run are aborted."""
        self._engine.close()

    def __enter__(self) -> LLM:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _params(
        self, given: SamplingParams | Sequence[SamplingParams] | None, count: int
    ) -> list[SamplingParams]:
        if given is None:
            return [self.get_default_sampling_params()] * count
        if isinstance(given, SamplingParams):
            return [given] * count
        if len(given) != count:
            raise ValueError(f"{len(given)} sampling_params for {count} prompts")
        return list(given)

    def _prompt(self, prompt: Prompt) -> tuple[str | None, list[int]]:
        given: Any = prompt
        if isinstance(prompt, dict):
            token_ids = prompt.get("prompt_token_ids")
            given = prompt.get("prompt") if token_ids is None else token_ids
        if isinstance(given, str):
            return given, self.encode(given)
        try:
            return None, [int(token) for token in given]
        except (TypeError, ValueError):
            raise ValueError(f"a prompt is a text or a list of token ids, not {given!r}") from None

    def _submit(
        self, text: str | None, token_ids: list[int], params: SamplingParams
    ) -> tuple[int, RequestOutput]:
        number = self._engine.submit({"prompt_token_ids": token_ids, **params.request()})
        outputs = [CompletionOutput(index) for index in range(params.n)]
        return number, RequestOutput(str(number), text, token_ids, outputs)

    def _follow(
        self, number: int, output: RequestOutput, params: SamplingParams
    ) -> Generator[RequestOutput, None, None]:
        try:
            while not output.finished:
                news = self._engine.next(number)
                extend(output, news, params.logprobs is not None)
                if "error" in news:
                    raise RuntimeError(news["error"])
                yield output
        finally:
            if not output.finished:
                self._engine.cancel(number)

    def _run(
        self, prompts: list[tuple[str | None, list[int]]], params: list[SamplingParams]
    ) -> list[RequestOutput]:
        """As many at a time as the engine's queue takes."""
        waiting = int(self._info["max_waiting"])
        running: list[Generator[RequestOutput, None, None]] = []
        results: list[RequestOutput] = []
        try:
            for (text, token_ids), one in zip(prompts, params):
                while len(running) - len(results) >= waiting:
                    results.append(_last(running[len(results)]))
                running.append(self._follow(*self._submit(text, token_ids, one), one))
            results += [_last(follower) for follower in running[len(results) :]]
        finally:
            for follower in running:
                follower.close()
        return results


def _last(outputs: Iterator[RequestOutput]) -> RequestOutput:
    for output in outputs:
        last = output
    return last


def _as_list(prompts: Prompt | Sequence[Prompt]) -> list[Prompt]:
    if isinstance(prompts, (str, dict)):
        return [prompts]
    several: list[Any] = list(prompts)
    return [several] if several and isinstance(several[0], int) else several
