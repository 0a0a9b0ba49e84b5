"""vLLM's GPU worker, which sets each step's precision and captures graphs for all of them."""

from __future__ import annotations

import functools
from typing import Any

from vllm.v1.worker.gpu_worker import Worker

from dualfp import get_precision, set_precision
from dualfp.vllm import graphs, options

# On SchedulerOutput, which travels whole to every rank. vLLM's own warm-up steps have none.
STEP_ATTRIBUTE = "dualfp_precision"


class DualFPWorker(Worker):
    def init_device(self) -> None:
        graphs.route_all()
        chosen = options.of(self.vllm_config)
        self._start = chosen.precision
        set_precision(self._start)
        super().init_device()

    def load_model(self, *args: Any, **kwargs: Any) -> None:
        super().load_model(*args, **kwargs)
        execute = self.model_runner.execute_model

        # Here and not in this class's execute_model(), which one of vLLM's executors goes past.
        @functools.wraps(execute)
        def execute_model(scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
            set_precision(getattr(scheduler_output, STEP_ATTRIBUTE, self._start))
            return execute(scheduler_output, *args, **kwargs)

        self.model_runner.execute_model = execute_model

    def _for_each_precision(self, method: str) -> Any:
        """The runner's method, run once at each precision; what it returns (bytes) is summed."""
        original = getattr(self.model_runner, method)

        @functools.wraps(original)
        def each(*args: Any, **kwargs: Any) -> int:
            before, total = get_precision(), 0
            try:
                for name in reversed(options.PRECISIONS):
                    set_precision(name)
                    total += original(*args, **kwargs) or 0
            finally:
                set_precision(before)
            return total

        return each

    def compile_or_warm_up_model(self) -> Any:
        self.model_runner.capture_model = self._for_each_precision("capture_model")
        try:
            return super().compile_or_warm_up_model()
        finally:
            del self.model_runner.capture_model

    def determine_available_memory(self) -> int:
        # vLLM estimates the memory of one set of graphs; there is one for each precision.
        runner = self.model_runner
        if not hasattr(runner, "profile_cudagraph_memory"):
            return super().determine_available_memory()
        runner.profile_cudagraph_memory = self._for_each_precision("profile_cudagraph_memory")
        try:
            return super().determine_available_memory()
        finally:
            del runner.profile_cudagraph_memory

    def dualfp_stats(self) -> dict[str, Any]:
        """Graphs by kind and precision; plain types, since it answers an RPC."""
        from vllm.compilation.cuda_graph import CUDAGraphWrapper

        counts: dict[str, int] = {}
        kinds = [(w.runtime_mode.name, w.concrete_cudagraph_entries) for w in CUDAGraphWrapper._all_instances]
        manager = getattr(self.model_runner, "cudagraph_manager", None)
        if manager is not None:
            kinds.append(("FULL", manager.graphs))
        for kind, entries in kinds:
            for precision, found in getattr(entries, "of", {}).items():
                key = f"{kind} {precision}"
                counts[key] = counts.get(key, 0) + len(found)
        return {"graphs": counts, "precision": str(get_precision())}
