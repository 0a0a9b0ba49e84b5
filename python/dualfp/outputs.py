"""What generating gives back, by vLLM's names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class Logprob:
    logprob: float
    rank: int
    decoded_token: str


@dataclass
class CompletionOutput:
    index: int
    text: str = ""
    token_ids: list[int] = field(default_factory=list)
    cumulative_logprob: float | None = None
    logprobs: list[dict[int, Logprob]] | None = None
    finish_reason: str | None = None
    stop_reason: int | str | None = None

    def finished(self) -> bool:
        return self.finish_reason is not None


@dataclass
class RequestOutput:
    """`usage` counts tokens: prompt_tokens, cached_tokens, completion_tokens, and both by the precision
    that they were computed at."""

    request_id: str
    prompt: str | None
    prompt_token_ids: list[int]
    outputs: list[CompletionOutput]
    finished: bool = False
    prompt_logprobs: list[dict[int, Logprob] | None] | None = None
    usage: dict[str, Any] = field(default_factory=dict)


def read_logprobs(entry: list[dict[str, Any]] | None) -> dict[int, Logprob] | None:
    if entry is None:
        return None
    return {
        token["token_id"]: Logprob(
            # The least likely tokens have -infinity, which JSON does not.
            float("-inf") if token["logprob"] is None else token["logprob"],
            token["rank"],
            bytes(token["bytes"]).decode(errors="replace"),
        )
        for token in entry
    }


def extend(output: RequestOutput, news: dict[str, Any], logprobs: bool) -> None:
    """Adds one output of the engine to what there is."""
    output.finished = news["finished"]
    output.usage = news["usage"]
    if news["prompt_logprobs"]:
        output.prompt_logprobs = [read_logprobs(entry) for entry in news["prompt_logprobs"]]
    for choice in news["choices"]:
        completion = output.outputs[choice["index"]]
        completion.text += choice["text"]
        completion.token_ids.extend(choice["token_ids"])
        if logprobs:
            entries = [read_logprobs(entry) or {} for entry in choice["logprobs"]]
            completion.logprobs = (completion.logprobs or []) + entries
            total = completion.cumulative_logprob or 0.0
            for token, entry in zip(choice["token_ids"], entries):
                total += entry[token].logprob
            completion.cumulative_logprob = total
        if choice["finish_reason"]:
            completion.finish_reason = choice["finish_reason"]
            completion.stop_reason = choice["stop_reason"]
