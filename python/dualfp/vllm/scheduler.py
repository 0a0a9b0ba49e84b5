"""vLLM's schedulers, which choose each step's precision and keep exact requests' cache exact."""

from __future__ import annotations

import functools
import time
from collections import deque
from collections.abc import Iterator
from typing import Any

from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.engine.core import EngineCore

from dualfp.vllm import options, policy
from dualfp.vllm.kv_tags import KvTags
from dualfp.vllm.metrics import encode_step
from dualfp.vllm.options import EXACT, FP8
from dualfp.vllm.worker import STEP_ATTRIBUTE

RPC_PREFIX = "dualfp_scheduler_"


def pin_of(request: Any) -> str | None:
    """The precision that a request asks for: SamplingParams(extra_args={"precision": "exact"}),
    over HTTP "vllm_xargs": {"precision": "exact"}."""
    extra = getattr(request.sampling_params, "extra_args", None) or {}
    value = extra.get("precision")
    return None if value in (None, "auto") else options.precision_named(value, "precision")


class _DualPrecision:
    """Mixed into a scheduler of vLLM's. A step has one precision: exact where a request of it is
    pinned to exact, else FP8 where one is pinned to that, else what the policy says."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._dualfp_options = options.of(self.vllm_config)
        self._dualfp_policy = policy.make(self._dualfp_options)
        self._dualfp_name = (
            self._dualfp_options.precision if self._dualfp_options.policy == "fixed" else "auto"
        )
        self._dualfp_tokens = {name: 0 for name in options.PRECISIONS}
        self._dualfp_tags = KvTags()
        # Steps that are under way: (precision, tokens). Results come in the same order.
        self._dualfp_launched: deque[tuple[str, int]] = deque()
        self._dualfp_last_result = 0.0
        self._dualfp_last_precision = EXACT
        self._dualfp_wrap_prefix_lookup()

    def schedule(self, *args: Any, **kwargs: Any) -> Any:
        output = super().schedule(*args, **kwargs)
        tokens = output.total_num_scheduled_tokens
        precision = self._dualfp_choose(output, tokens)
        setattr(output, STEP_ATTRIBUTE, precision)
        if tokens:
            self._dualfp_tokens[precision] += tokens
            self._dualfp_tag_blocks(output, precision)
            if not self._dualfp_launched:
                self._dualfp_last_result = time.monotonic()
        self._dualfp_launched.append((precision, tokens))
        return output

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        now = time.monotonic()
        precision, tokens = (
            self._dualfp_launched.popleft() if self._dualfp_launched else (EXACT, 0)
        )
        if tokens:
            self._dualfp_policy.observe(precision, tokens, now - self._dualfp_last_result)
            self._dualfp_last_precision = precision
        self._dualfp_last_result = now
        finished = getattr(self, "finished_req_ids", ())
        result = super().update_from_output(scheduler_output, model_runner_output)
        self._dualfp_tags.finish(set(finished))
        return result

    def make_stats(self, *args: Any, **kwargs: Any) -> Any:
        stats = super().make_stats(*args, **kwargs)
        if stats is not None and stats.cudagraph_stats is None:
            stats.cudagraph_stats = encode_step(self._dualfp_tokens, self._dualfp_last_precision)
        return stats

    def _dualfp_scheduled(self, output: Any) -> Iterator[tuple[Any, int]]:
        for request_id, count in output.num_scheduled_tokens.items():
            request = self.requests.get(request_id)
            if request is not None:
                yield request, count

    def _dualfp_choose(self, output: Any, tokens: int) -> str:
        pins = {pin_of(request) for request, _ in self._dualfp_scheduled(output)}
        if EXACT in pins:
            return EXACT
        if FP8 in pins:
            return FP8
        now = time.monotonic()
        deadlines = ()
        if self._dualfp_policy.name == "slo":
            deadlines = tuple(
                self._dualfp_deadline(request, now) for request, _ in self._dualfp_scheduled(output)
            )
        return self._dualfp_policy.choose(
            policy.Step(
                now=now,
                tokens=tokens,
                running=len(self.running),
                waiting=len(self.waiting),
                max_running=self.max_num_running_reqs,
                deadlines=deadlines,
            )
        )

    def _dualfp_deadline(self, request: Any, now: float) -> policy.Deadline:
        # Requests carry their arrival in wall-clock time; what passed since then is all that counts.
        waited = time.time() - request.arrival_time
        chosen = self._dualfp_options
        written = request.num_output_tokens
        due = chosen.ttft_ms / 1e3 + written * chosen.tpot_ms / 1e3
        left = max(0, request.num_prompt_tokens - request.num_computed_tokens)
        budget = max(1, self.max_num_scheduled_tokens)
        return policy.Deadline(slack=due - waited, steps=1 + left // budget)

    # The prefix cache.

    def _dualfp_wrap_prefix_lookup(self) -> None:
        manager = self.kv_cache_manager
        for name in ("get_computed_blocks", "get_computed_blocks_for_connector"):
            original = getattr(manager, name, None)
            if original is not None:
                setattr(manager, name, functools.partial(self._dualfp_lookup, original))

    def _dualfp_lookup(self, original: Any, request: Any, *args: Any, **kwargs: Any) -> Any:
        found = original(request, *args, **kwargs)
        blocks, tokens, *rest = found
        ids = blocks.get_block_ids()
        if not tokens or not any(ids):
            self._dualfp_tags.reuse(request.request_id, ())
            return found
        if pin_of(request) == EXACT:
            clean = min(self._dualfp_tags.clean_prefix(group) for group in ids)
            if any(clean < len(group) for group in ids):
                # Groups of one model may differ in their blocks' sizes: then all is computed anew.
                if len(ids) == 1 and clean > 0:
                    size = tokens // len(ids[0])
                    kept = (list(blocks.blocks[0][:clean]),)
                    blocks, tokens = self.kv_cache_manager.create_kv_cache_blocks(kept), clean * size
                else:
                    blocks, tokens = self.kv_cache_manager.empty_kv_cache_blocks, 0
                rest = [0 if isinstance(part, int) and part else part for part in rest]
        self._dualfp_tags.reuse(
            request.request_id, (block for group in blocks.get_block_ids() for block in group)
        )
        return (blocks, tokens, *rest)

    def _dualfp_tag_blocks(self, output: Any, precision: str) -> None:
        if not self.kv_cache_manager.enable_caching:
            return
        size = self.block_size
        for request, count in self._dualfp_scheduled(output):
            end = request.num_computed_tokens
            start = max(0, end - count)
            first, last = -(-start // size), -(-end // size)
            for group in self.kv_cache_manager.get_block_ids(request.request_id):
                self._dualfp_tags.write(
                    request.request_id,
                    precision == FP8,
                    begun=group[first:last],
                    continued=group[start // size : first],
                )

    # What RPCs reach (RPC_PREFIX + name).

    def dualfp_scheduler_set(self, name: str) -> dict[str, Any]:
        """exact, fp8, or auto: the policy of the options. From the next step on."""
        self._dualfp_policy = policy.named(name, self._dualfp_options)
        self._dualfp_name = (
            name if name == "auto" else options.precision_named(name, "precision")
        )
        return self.dualfp_scheduler_get()

    def dualfp_scheduler_get(self) -> dict[str, Any]:
        return {
            "precision": self._dualfp_name,
            "policy": self._dualfp_policy.name,
            "last_step": self._dualfp_last_precision,
            "tokens": dict(self._dualfp_tokens),
        }


class DualFPAsyncScheduler(_DualPrecision, AsyncScheduler):
    pass


class DualFPScheduler(_DualPrecision, Scheduler):
    pass


def _route_rpc() -> None:
    original = EngineCore.collective_rpc
    if getattr(original, "_dualfp_routed", False):
        return

    @functools.wraps(original)
    def collective_rpc(self: Any, method: Any, timeout: Any = None, args: Any = (), kwargs: Any = None) -> Any:
        if isinstance(method, str) and method.startswith(RPC_PREFIX):
            if not isinstance(self.scheduler, _DualPrecision):
                raise ValueError('dualfp: this engine runs without quantization="dualfp"')
            return [getattr(self.scheduler, method)(*args, **(kwargs or {}))]
        return original(self, method, timeout, args, kwargs)

    collective_rpc._dualfp_routed = True
    EngineCore.collective_rpc = collective_rpc


# This module is imported where the engine's core runs, which resolves the scheduler's name.
_route_rpc()
