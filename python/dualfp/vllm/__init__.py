"""The vLLM plugin: `LLM(model, quantization="dualfp")`, `vllm serve --quantization dualfp`.

One copy of the weights computes exactly or in FP8, chosen for each step. Everything is installed by
register(), which vLLM calls in each of its processes (entry point group vllm.general_plugins);
importing this package imports neither vllm nor torch. docs/vllm.md is the manual, and
tests/vllm_surface/ records every name of vLLM that is touched here.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dualfp.vllm.method import DUALFPConfig, DUALFPLinearMethod

NAME = "dualfp"
__all__ = ["DUALFPConfig", "DUALFPLinearMethod", "NAME", "register"]

_WORKER = "dualfp.vllm.worker.DualFPWorker"
_SCHEDULERS = {
    True: "dualfp.vllm.scheduler.DualFPAsyncScheduler",
    False: "dualfp.vllm.scheduler.DualFPScheduler",
}
# What vLLM chooses where the user named none.
_OWN_WORKERS = ("auto", "vllm.v1.worker.gpu_worker.Worker", _WORKER)


def __getattr__(name: str) -> Any:
    if name in ("DUALFPConfig", "DUALFPLinearMethod"):
        from dualfp.vllm import method

        return getattr(method, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@functools.cache
def register() -> None:
    """Makes quantization="dualfp" known. Changes nothing for engines that do not ask for it."""
    from dualfp.vllm import surface

    surface.warn_of_differences()
    from dualfp.vllm import control, method  # noqa: F401  the config registers itself

    _wrap_engine_args()
    control.install()


def _wrap_engine_args() -> None:
    from vllm.engine.arg_utils import EngineArgs

    create = EngineArgs.create_engine_config

    @functools.wraps(create)
    def create_engine_config(self: Any, *args: Any, **kwargs: Any) -> Any:
        config = create(self, *args, **kwargs)
        if config.model_config.quantization == NAME:
            _install_into(config)
        return config

    EngineArgs.create_engine_config = create_engine_config


def _install_into(config: Any) -> None:
    """Our worker and scheduler, in an engine's configuration; refuses what they cannot serve."""
    from dualfp.vllm import metrics, options

    options.of(config)  # says what is wrong with them before anything is loaded
    parallel = config.parallel_config
    if getattr(parallel, "enable_dbo", False):
        raise ValueError("dualfp: dual batch overlap keeps CUDA graphs without a precision; leave it off")
    if getattr(config.cache_config, "cpu_offload_gb", 0):
        raise ValueError("dualfp: weights cannot be offloaded to the CPU; leave cpu_offload_gb at 0")
    if parallel.worker_cls not in _OWN_WORKERS:
        raise ValueError(
            f"dualfp: worker_cls is {parallel.worker_cls!r}; derive it from {_WORKER} or leave it out"
        )
    parallel.worker_cls = _WORKER
    scheduler = config.scheduler_config
    own = (None, *_SCHEDULERS.values())
    named = scheduler.scheduler_cls
    if not (named in own or getattr(named, "__module__", "").startswith("vllm.")):
        raise ValueError(
            f"dualfp: scheduler_cls is {named!r}; derive it from {_SCHEDULERS[True]} or leave it out"
        )
    scheduler.scheduler_cls = _SCHEDULERS[bool(scheduler.async_scheduling)]
    metrics.install()
