"""Tokens by precision, from the scheduler's process to /metrics.

vLLM decodes scheduler statistics to their declared fields, so the counts travel in one of those: the
graph statistics, which vLLM leaves empty unless its own graph metrics are on."""

from __future__ import annotations

import functools
import json
import sys
from typing import Any

_PREFIX = "FULL|dualfp:"


def encode_step(tokens: dict[str, int], last: str) -> Any:
    from vllm.compilation.cuda_graph import CUDAGraphStat

    text = json.dumps({"tokens": tokens, "last": last}, separators=(",", ":"))
    return CUDAGraphStat(
        num_unpadded_tokens=0, num_padded_tokens=0, num_paddings=0, runtime_mode=_PREFIX + text
    )


def decode_step(mode: str) -> dict[str, Any] | None:
    """None where vLLM's own statistics are there instead."""
    return json.loads(mode[len(_PREFIX) :]) if mode.startswith(_PREFIX) else None


@functools.cache
def logger_class() -> type:
    """vLLM drops collectors of its own name at start, hence our names."""
    import prometheus_client
    from vllm.v1.metrics.loggers import StatLoggerBase

    tokens = prometheus_client.Counter(
        "dualfp:tokens", "Tokens computed, by precision", ["engine", "precision"]
    )
    fp8 = prometheus_client.Gauge(
        "dualfp:fp8", "1 while steps run in FP8", ["engine"], multiprocess_mode="mostrecent"
    )

    class PrecisionLogger(StatLoggerBase):
        def __init__(self, vllm_config: Any, engine_index: int = 0):
            self._seen: dict[tuple[str, str], int] = {}

        def record(
            self,
            scheduler_stats: Any = None,
            iteration_stats: Any = None,
            mm_cache_stats: Any = None,
            engine_idx: int = 0,
        ) -> None:
            stats = getattr(scheduler_stats, "cudagraph_stats", None)
            step = None if stats is None else decode_step(stats.runtime_mode)
            if step is None:
                return
            engine = str(engine_idx)
            for precision, total in step["tokens"].items():
                more = total - self._seen.get((engine, precision), 0)
                if more > 0:
                    tokens.labels(engine, precision).inc(more)
                    self._seen[engine, precision] = total
            fp8.labels(engine).set(step["last"] == "fp8")

        def log_engine_initialized(self) -> None:
            pass

    return PrecisionLogger


def install() -> None:
    """For servers of this process. No entry point of vllm.stat_logger_plugins: one would turn
    statistics on in every engine, also in those that do not use the plugin."""
    module = sys.modules.get("vllm.v1.engine.async_llm")
    original = getattr(module, "load_stat_logger_plugin_factories", None)
    if original is None or getattr(original, "_dualfp_routed", False):
        return

    def factories() -> list[Any]:
        return [*original(), logger_class()]

    factories._dualfp_routed = True
    module.load_stat_logger_plugin_factories = factories
