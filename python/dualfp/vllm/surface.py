"""Every name of vLLM that the plugin touches, with the parameters it counts on.

tests/vllm_surface/ has what releases declare, recorded by tools/record_vllm_surface.py from their
wheels; a test compares. In a process with another release the same is looked up by inspection, and
one warning names what differs."""

from __future__ import annotations

import dataclasses
import importlib
import inspect
import logging

TESTED = ("0.21.0", "0.33.0")


@dataclasses.dataclass(frozen=True)
class Name:
    """A function, a method ("Class.method"), or an attribute that __init__ sets ("Class#name")."""

    module: str  # below vllm
    name: str
    parameters: tuple[str, ...] = ()
    since: str = "0.21.0"


TOUCHED = (
    Name("compilation.cuda_graph", "CUDAGraphWrapper.__init__", ("runnable",)),
    Name("compilation.cuda_graph", "CUDAGraphWrapper#concrete_cudagraph_entries"),
    Name(
        "compilation.cuda_graph",
        "CUDAGraphStat",
        ("num_unpadded_tokens", "num_padded_tokens", "num_paddings", "runtime_mode"),
    ),
    Name("compilation.breakable_cudagraph", "BreakableCUDAGraphWrapper#entries", since="0.33.0"),
    Name("v1.worker.gpu.cudagraph_utils", "CudaGraphManager#graphs"),
    Name("config", "get_current_vllm_config"),
    Name("engine.arg_utils", "EngineArgs.create_engine_config", ("usage_context",)),
    Name("model_executor.layers.linear", "LinearBase.__init__", ("input_size", "output_size")),
    Name(
        "model_executor.layers.linear",
        "LinearMethodBase.create_weights",
        (
            "layer",
            "input_size_per_partition",
            "output_partition_sizes",
            "input_size",
            "output_size",
            "params_dtype",
        ),
    ),
    Name("model_executor.layers.linear", "LinearMethodBase.apply", ("layer", "x", "bias")),
    Name("model_executor.layers.linear", "register_weight_loader_v2_supported_method", ("cls",)),
    Name("model_executor.layers.quantization", "register_quantization_config", ("quantization",)),
    Name("model_executor.layers.quantization.base_config", "QuantizationConfig.get_quant_method", ("layer", "prefix")),
    Name("model_executor.utils", "set_weight_attrs", ("weight", "weight_attrs")),
    Name("v1.worker.gpu_worker", "Worker.init_device"),
    Name("v1.worker.gpu_worker", "Worker.load_model"),
    Name("v1.worker.gpu_worker", "Worker.compile_or_warm_up_model"),
    Name("v1.worker.gpu_worker", "Worker.determine_available_memory"),
    Name("v1.worker.gpu_model_runner", "GPUModelRunner.capture_model"),
    Name("v1.worker.gpu_model_runner", "GPUModelRunner.execute_model", ("scheduler_output",)),
    Name("v1.worker.gpu_model_runner", "GPUModelRunner.profile_cudagraph_memory"),
    Name("v1.worker.gpu.model_runner", "GPUModelRunner.capture_model"),
    Name("v1.worker.gpu.model_runner", "GPUModelRunner.execute_model", ("scheduler_output",)),
    Name("v1.core.sched.scheduler", "Scheduler.schedule"),
    Name("v1.core.sched.scheduler", "Scheduler.update_from_output", ("scheduler_output", "model_runner_output")),
    Name("v1.core.sched.scheduler", "Scheduler.make_stats", ("cudagraph_stats",)),
    Name("v1.core.sched.scheduler", "Scheduler#block_size"),
    Name("v1.core.sched.scheduler", "Scheduler#max_num_running_reqs"),
    Name("v1.core.sched.scheduler", "Scheduler#max_num_scheduled_tokens"),
    Name("v1.core.sched.scheduler", "Scheduler#finished_req_ids"),
    Name("v1.core.sched.async_scheduler", "AsyncScheduler.__init__"),
    Name("v1.core.kv_cache_manager", "KVCacheManager.get_computed_blocks", ("request",)),
    Name("v1.core.kv_cache_manager", "KVCacheManager.get_block_ids", ("request_id",)),
    Name("v1.core.kv_cache_manager", "KVCacheManager.create_kv_cache_blocks", ("blocks",)),
    Name("v1.core.kv_cache_manager", "KVCacheManager#empty_kv_cache_blocks"),
    Name("v1.engine.async_llm", "load_stat_logger_plugin_factories"),
    Name("v1.engine.core", "EngineCore.collective_rpc", ("method", "timeout", "args", "kwargs")),
    Name("v1.engine.input_processor", "InputProcessor.process_inputs", ("params",)),
    Name("v1.metrics.loggers", "StatLoggerBase.record", ("scheduler_stats", "iteration_stats")),
    Name("plugins.endpoint_plugins.interface", "EndpointPlugin.init_state", ("engine_client", "state", "args"), "0.33.0"),
)


def _release(version: str) -> tuple[int, ...]:
    numbers = []
    for part in version.split("+")[0].split("."):
        digits = "".join(c for c in part if c.isdigit())
        if not digits:
            break
        numbers.append(int(digits))
    return tuple(numbers)


def differences() -> list[str]:
    """What the installed vLLM lacks of TOUCHED, by inspection."""
    found = []
    for touched in TOUCHED:
        if touched.since != TESTED[0]:
            continue  # sought where it is used, absent without harm
        name = f"{touched.module}.{touched.name}"
        try:
            thing = importlib.import_module("vllm." + touched.module)
        except ImportError as error:
            found.append(f"{name}: {error}")
            continue
        attribute = "#" in touched.name
        for part in touched.name.split("#")[0].split("."):
            thing = getattr(thing, part, None)
        if thing is None:
            found.append(f"{name} is gone")
        elif not attribute:
            missing = set(touched.parameters) - set(inspect.signature(thing).parameters)
            if missing:
                found.append(f"{name} takes no {', '.join(sorted(missing))}")
    return found


def warn_of_differences() -> None:
    import vllm

    version = getattr(vllm, "__version__", "0")
    if _release(TESTED[0]) <= _release(version) <= _release(TESTED[-1]):
        return
    found = differences()
    logging.getLogger("vllm.dualfp").warning(
        "dualfp: tested with vLLM %s to %s, this is %s; %s",
        *(TESTED[0], TESTED[-1], version),
        "what the plugin touches differs: " + "; ".join(found) if found else "no difference found",
    )
