"""How tokens are drawn, by vLLM's names and defaults."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass
class SamplingParams:
    """`precision`, `ttft_target` and `tpot_target` (seconds) are ours; the first may also be given as
    extra_args={"precision": ...}, as vLLM's requests have it. `max_tokens` None: until the context
    is full. Ranges are checked when a request is made."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    ignore_eos: bool = False
    max_tokens: int | None = 16
    min_tokens: int = 0
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: dict[int, float] | None = None
    skip_special_tokens: bool = True
    include_stop_str_in_output: bool = False
    precision: str | None = None
    priority: int = 0
    ttft_target: float | None = None
    tpot_target: float | None = None
    extra_args: dict[str, Any] | None = field(default=None)

    def pinned_precision(self) -> str | None:
        extra = dict(self.extra_args or {})
        pinned = extra.pop("precision", None)
        if extra:
            raise ValueError(f"SamplingParams.extra_args: no argument {sorted(extra)[0]!r}")
        if pinned is not None and self.precision is not None and pinned != self.precision:
            raise ValueError(
                f"SamplingParams: precision {self.precision!r} and extra_args precision {pinned!r} "
                "at once"
            )
        return self.precision if pinned is None else pinned

    def request(self) -> dict[str, Any]:
        """As the engine takes it."""
        request = {
            name: value
            for name, value in vars(self).items()
            if value is not None and name not in ("extra_args", "logit_bias", "stop", "precision")
        }
        if self.stop is not None:
            request["stop"] = [self.stop] if isinstance(self.stop, str) else list(self.stop)
        if self.logit_bias:
            request["logit_bias_tokens"] = [int(token) for token in self.logit_bias]
            request["logit_bias_values"] = [float(bias) for bias in self.logit_bias.values()]
        pinned = self.pinned_precision()
        if pinned is not None:
            request["precision"] = pinned
        return request
