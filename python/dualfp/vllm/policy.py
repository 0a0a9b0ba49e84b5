"""Which precision a step runs at, as the engine's policies of the command choose it
(dualfp/engine/precision): asked once a step, after vLLM's scheduler has formed it."""

from __future__ import annotations

import dataclasses
import importlib
import math
from collections.abc import Sequence
from typing import Any, Protocol

from dualfp.vllm.options import EXACT, FP8, PRECISIONS, Options, precision_named


@dataclasses.dataclass(frozen=True)
class Deadline:
    """A request's next token: seconds left (negative when late), and the steps it takes, this one
    included (more than one while its prompt is computed)."""

    slack: float
    steps: int = 1


@dataclasses.dataclass(frozen=True)
class Step:
    now: float  # seconds, monotonic
    tokens: int  # of the step
    running: int  # requests
    waiting: int
    max_running: int
    deadlines: Sequence[Deadline] = ()


class Policy(Protocol):
    name: str

    def choose(self, step: Step) -> str: ...

    def observe(self, precision: str, tokens: int, seconds: float) -> None:
        """A step of `tokens` at `precision` took so long."""


class Fixed:
    name = "fixed"

    def __init__(self, precision: str):
        self.precision = precision

    def choose(self, step: Step) -> str:
        return self.precision

    def observe(self, precision: str, tokens: int, seconds: float) -> None:
        pass


class Threshold:
    """FP8 for large steps, which arithmetic bounds (NestedFP's serving rule)."""

    name = "threshold"

    def __init__(self, max_exact_tokens: int):
        self.max_exact_tokens = max_exact_tokens

    def choose(self, step: Step) -> str:
        return FP8 if step.tokens > self.max_exact_tokens else EXACT

    def observe(self, precision: str, tokens: int, seconds: float) -> None:
        pass


class StepTime:
    """seconds = a + b * tokens, by least squares over steps that fade with time."""

    _FADING = 0.98

    def __init__(self) -> None:
        self._n = self._x = self._y = self._xx = self._xy = 0.0

    @property
    def known(self) -> bool:
        return self._n > 0

    def observe(self, tokens: int, seconds: float) -> None:
        for name, value in (
            ("_n", 1.0),
            ("_x", tokens),
            ("_y", seconds),
            ("_xx", tokens * tokens),
            ("_xy", tokens * seconds),
        ):
            setattr(self, name, self._FADING * getattr(self, name) + value)

    def predict(self, tokens: int) -> float:
        spread = self._n * self._xx - self._x * self._x
        slope = 0.0
        if spread > 1e-9 * self._n * self._xx:
            slope = max(0.0, (self._n * self._xy - self._x * self._y) / spread)
        return max(0.0, (self._y - slope * self._x) / self._n + slope * tokens)


class Slo:
    """Exact while every deadline is met by the prediction, FP8 at once where one is not, and back
    only after `release_seconds` without need, so that a queue that oscillates does not make the
    precision oscillate."""

    name = "slo"
    _SAFETY = 1.1
    # Of an exact step's time, until FP8 steps have been seen.
    _FP8_SHARE = 0.6

    def __init__(self, release_seconds: float = 1.0):
        self._release = release_seconds
        self._times = {name: StepTime() for name in PRECISIONS}
        self._needed_at = -math.inf

    def predict(self, precision: str, tokens: int) -> float:
        own = self._times[precision]
        if own.known:
            return own.predict(tokens)
        other = self._times[FP8 if precision == EXACT else EXACT]
        if not other.known:
            return 0.0
        share = 1 / self._FP8_SHARE if precision == EXACT else self._FP8_SHARE
        return share * other.predict(tokens)

    def choose(self, step: Step) -> str:
        exact = self._SAFETY * self.predict(EXACT, step.tokens)
        late = any(exact * deadline.steps > deadline.slack for deadline in step.deadlines)
        if late and self.predict(FP8, step.tokens) * self._SAFETY < exact:
            self._needed_at = step.now
        return FP8 if step.now - self._needed_at < self._release else EXACT

    def observe(self, precision: str, tokens: int, seconds: float) -> None:
        self._times[precision].observe(tokens, seconds)


class Hook:
    """A user's object: adjust_precision(load_factor, latency_requirement).

    load_factor: running and waiting requests for each that may run at a time (above 1: a queue).
    latency_requirement: seconds a token (option tpot_ms)."""

    def __init__(self, target: str, latency_requirement: float):
        self.name = target
        module, _, attribute = target.partition(":")
        try:
            made = getattr(importlib.import_module(module), attribute)()
        except Exception as error:
            raise ValueError(f"dualfp: policy {target!r} cannot be made: {error}") from error
        if not callable(getattr(made, "adjust_precision", None)):
            raise ValueError(f"dualfp: policy {target!r} has no adjust_precision()")
        self._object = made
        self._latency = latency_requirement

    def choose(self, step: Step) -> str:
        load = (step.running + step.waiting) / max(1, step.max_running)
        answer = self._object.adjust_precision(load, self._latency)
        return precision_named(answer, f"what {self.name} answered")

    def observe(self, precision: str, tokens: int, seconds: float) -> None:
        pass


def make(options: Options) -> Policy:
    if options.policy == "fixed":
        return Fixed(options.precision)
    if options.policy == "threshold":
        return Threshold(options.max_exact_tokens)
    if options.policy == "slo":
        return Slo()
    return Hook(options.policy, options.tpot_ms / 1e3)


def named(name: Any, options: Options) -> Policy:
    """What a user switches to while serving: a precision, or "auto" for the policy of the options."""
    if name == "auto":
        return make(options)
    return Fixed(precision_named(name, "precision"))
