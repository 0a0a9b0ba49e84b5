"""The vLLM plugin without vLLM: its policies, cache tags and options, the scheduler's mixin over a
stand-in, and the names that it touches against those of recorded releases."""

from __future__ import annotations

import importlib
import json
import pathlib
import sys
import types

import pytest

from dualfp import precision, set_precision
from dualfp.vllm import graphs, metrics, options, policy, surface
from dualfp.vllm.kv_tags import KvTags

RECORDED = pathlib.Path(__file__).resolve().parent.parent / "vllm_surface"


def step(tokens=8, now=0.0, deadlines=(), running=1, waiting=0):
    return policy.Step(now, tokens, running, waiting, 256, tuple(deadlines))


# Names of vLLM.


@pytest.mark.parametrize("version", surface.TESTED)
def test_touched_names_exist_in_recorded_releases(version):
    record = json.loads((RECORDED / f"{version}.json").read_text())
    wanted = [t for t in surface.TOUCHED if surface._release(t.since) <= surface._release(version)]
    assert len(wanted) > 30
    for touched in wanted:
        declared = record[f"{touched.module}.{touched.name}"]
        assert declared is not None, f"{touched.name} is not in vLLM {version}"
        if declared != ["(imported)"]:
            assert set(touched.parameters) <= set(declared), touched.name


def test_releases_compare_by_number():
    assert surface._release("0.21.0+cu130") == (0, 21, 0)
    assert surface._release("0.9.1rc2") < surface._release("0.21.0") < surface._release("0.33.0")


# Options.


def test_options_are_read():
    config = types.SimpleNamespace(
        additional_config={"dualfp": {"precision": "fp16", "policy": "slo", "ignore": ["o_proj"]}}
    )
    chosen = options.of(config)
    assert (chosen.precision, chosen.policy, chosen.ignore) == ("exact", "slo", ("o_proj",))
    assert options.of(types.SimpleNamespace(additional_config={})) == options.Options()


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ({"precision": "fp4"}, "fp4"),
        ({"precison": "fp8"}, "precison"),
        ({"policy": "fast"}, "fast"),
        ({"ignore": "o_proj"}, "o_proj"),
        ({"tpot_ms": 0}, "tpot_ms"),
        ({"max_exact_tokens": True}, "max_exact_tokens"),
    ],
)
def test_wrong_options_are_named(values, named):
    with pytest.raises(ValueError, match=named):
        options.Options.parse(values)


# Policies.


def test_threshold():
    chosen = policy.make(options.Options(policy="threshold", max_exact_tokens=64))
    assert [chosen.choose(step(tokens)) for tokens in (1, 64, 65)] == ["exact", "exact", "fp8"]


def test_step_time_fits_a_line():
    times = policy.StepTime()
    for _ in range(3):
        for tokens in (1, 16, 64, 256):
            times.observe(tokens, 0.004 + 2e-5 * tokens)
    assert times.predict(128) == pytest.approx(0.004 + 2e-5 * 128, rel=1e-6)


def test_slo_attacks_at_once_and_releases_slowly():
    slo = policy.Slo(release_seconds=1.0)
    for tokens in (1, 64):
        slo.observe("exact", tokens, 0.010)
        slo.observe("fp8", tokens, 0.006)
    late, early = [policy.Deadline(0.0105)], [policy.Deadline(0.1)]
    assert slo.choose(step(now=0.0, deadlines=early)) == "exact"
    assert slo.choose(step(now=1.0, deadlines=late)) == "fp8"
    assert slo.choose(step(now=1.9, deadlines=early)) == "fp8"
    assert slo.choose(step(now=2.1, deadlines=early)) == "exact"
    # A prompt of several steps has to fit all of them.
    assert slo.choose(step(now=9.0, deadlines=[policy.Deadline(0.021, steps=2)])) == "fp8"


def test_slo_stays_exact_where_fp8_is_no_faster():
    slo = policy.Slo()
    slo.observe("exact", 1, 0.010)
    slo.observe("fp8", 1, 0.012)
    assert slo.choose(step(deadlines=[policy.Deadline(0.001)])) == "exact"


def test_hook(monkeypatch):
    seen = []

    class Theirs:
        def adjust_precision(self, load_factor, latency_requirement):
            seen.append((load_factor, latency_requirement))
            return "fp8" if load_factor > 1 else "fp16"

    module = types.ModuleType("theirs")
    module.Make, module.Wrong, module.No = Theirs, object, lambda: types.SimpleNamespace(
        adjust_precision=lambda load, latency: "int4"
    )
    monkeypatch.setitem(sys.modules, "theirs", module)
    chosen = policy.make(options.Options(policy="theirs:Make", tpot_ms=20))
    assert chosen.choose(step(running=256, waiting=1)) == "fp8"
    assert chosen.choose(step(running=128)) == "exact"
    assert seen[1] == (0.5, 0.02)
    with pytest.raises(ValueError, match="adjust_precision"):
        policy.make(options.Options(policy="theirs:Wrong"))
    with pytest.raises(ValueError, match="theirs:Absent"):
        policy.make(options.Options(policy="theirs:Absent"))
    with pytest.raises(ValueError, match="int4"):
        policy.make(options.Options(policy="theirs:No")).choose(step())


# The prefix cache.


def test_blocks_of_fp8_steps_are_no_prefix_for_exact_requests():
    tags = KvTags()
    tags.write("a", True, begun=[1, 2], continued=[])
    tags.write("b", False, begun=[3], continued=[])
    assert tags.clean_prefix([3, 1, 2]) == 1
    assert tags.clean_prefix([1]) == 0
    # What follows keys of FP8 depends on them, whatever it is computed at.
    tags.reuse("c", [3, 1])
    tags.write("c", False, begun=[4], continued=[])
    assert tags.clean_prefix([4]) == 0
    # A block that another request begins anew is as that one is.
    tags.finish(["a", "c"])
    tags.reuse("d", [])
    tags.write("d", False, begun=[1], continued=[])
    assert tags.clean_prefix([1, 2]) == 1
    # One FP8 token in a block that was exact.
    tags.write("d", True, begun=[], continued=[1])
    assert tags.clean_prefix([1]) == 0


# Graphs.


def test_graphs_are_those_of_the_precision_in_force():
    found = graphs.ByPrecision()
    assert found == {}
    found["a"] = 1
    with precision("fp8"):
        assert "a" not in found
        found["a"] = 2
        assert found["a"] == 2
    assert (found["a"], len(found), list(found.items())) == (1, 1, [("a", 1)])
    found.clear()
    assert found.of == {"exact": {}, "fp8": {}}


def test_routing_refuses_what_it_does_not_know():
    class Known:
        def __init__(self):
            self.entries = {}

    class Changed:
        def __init__(self):
            self.entries = [1]

    for cls in (Known, Changed):
        graphs._route(cls, "entries")
        graphs._route(cls, "entries")
    assert isinstance(Known().entries, graphs.ByPrecision)
    with pytest.raises(RuntimeError, match="Changed.entries"):
        Changed()


def test_metrics_travel_in_one_field(monkeypatch):
    stat = types.ModuleType("vllm.compilation.cuda_graph")
    stat.CUDAGraphStat = lambda **fields: types.SimpleNamespace(**fields)
    for name in ("vllm", "vllm.compilation"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    monkeypatch.setitem(sys.modules, stat.__name__, stat)
    encoded = metrics.encode_step({"exact": 3, "fp8": 9}, "fp8")
    assert metrics.decode_step(encoded.runtime_mode) == {"tokens": {"exact": 3, "fp8": 9}, "last": "fp8"}
    assert metrics.decode_step("FULL") is None


# The scheduler's mixin.


class Blocks:
    def __init__(self, blocks):
        self.blocks = blocks

    def get_block_ids(self):
        return tuple(list(group) for group in self.blocks)


class Cache:
    """One group of blocks of 16 keys; the prefix lookup answers with `cached`."""

    enable_caching = True
    empty_kv_cache_blocks = Blocks(())

    def __init__(self):
        self.cached, self.tables = [], {}

    def get_computed_blocks(self, request):
        return Blocks((self.cached,)), 16 * len(self.cached)

    def create_kv_cache_blocks(self, blocks):
        return Blocks(blocks)

    def get_block_ids(self, request_id):
        return (self.tables[request_id],)


def request_of(name, pin=None, **more):
    extra = None if pin is None else {"precision": pin}
    fields = dict(num_computed_tokens=0, arrival_time=0.0, num_output_tokens=0, num_prompt_tokens=0)
    return types.SimpleNamespace(
        request_id=name, sampling_params=types.SimpleNamespace(extra_args=extra), **{**fields, **more}
    )


@pytest.fixture
def scheduler(monkeypatch):
    """The mixin over a scheduler that schedules what `plan` says."""

    class Base:
        def __init__(self, additional):
            self.vllm_config = types.SimpleNamespace(additional_config={"dualfp": additional})
            self.kv_cache_manager, self.block_size = Cache(), 16
            self.requests, self.running, self.waiting = {}, [], []
            self.max_num_running_reqs, self.max_num_scheduled_tokens = 8, 64
            self.finished_req_ids, self.plan = set(), {}

        def schedule(self):
            for name, count in self.plan.items():
                self.requests[name].num_computed_tokens += count
            return types.SimpleNamespace(
                num_scheduled_tokens=dict(self.plan), total_num_scheduled_tokens=sum(self.plan.values())
            )

        def update_from_output(self, scheduler_output, model_runner_output):
            return {}

        def make_stats(self):
            return None

    class Core:
        scheduler = None

        def collective_rpc(self, method, timeout=None, args=(), kwargs=None):
            return ["worker", method]

    for name, attributes in {
        "vllm.v1.core.sched.async_scheduler": {"AsyncScheduler": type("A", (Base,), {})},
        "vllm.v1.core.sched.scheduler": {"Scheduler": Base},
        "vllm.v1.engine.core": {"EngineCore": Core},
        "vllm.v1.worker.gpu_worker": {"Worker": object},
    }.items():
        parts = name.split(".")
        for depth in range(1, len(parts)):
            parent = ".".join(parts[:depth])
            monkeypatch.setitem(sys.modules, parent, types.ModuleType(parent))
        module = types.ModuleType(name)
        vars(module).update(attributes)
        monkeypatch.setitem(sys.modules, name, module)
    for name in ("scheduler", "worker"):
        monkeypatch.delitem(sys.modules, f"dualfp.vllm.{name}", raising=False)
    module = importlib.import_module("dualfp.vllm.scheduler")

    yield types.SimpleNamespace(make=module.DualFPScheduler, core=Core)
    for name in ("scheduler", "worker"):
        sys.modules.pop(f"dualfp.vllm.{name}", None)


def scheduled(made, plan):
    made.plan = plan
    return made.schedule().dualfp_precision


def test_pins_decide_a_step(scheduler):
    made = scheduler.make({"precision": "fp8"})
    made.requests = {"a": request_of("a"), "b": request_of("b", "exact"), "c": request_of("c", "fp8")}
    made.kv_cache_manager.tables = {"a": [0, 1], "b": [2, 3], "c": [4, 5]}
    assert scheduled(made, {"a": 4}) == "fp8"
    assert scheduled(made, {"a": 1, "b": 4}) == "exact"
    assert scheduled(made, {"a": 1, "b": 1, "c": 4}) == "exact"
    made.dualfp_scheduler_set("fp16")
    assert scheduled(made, {"a": 1}) == "exact"
    assert scheduled(made, {"a": 1, "c": 1}) == "fp8"
    for _ in range(5):
        made.update_from_output(None, None)
    state = made.dualfp_scheduler_get()
    assert state["tokens"] == {"exact": 5 + 6 + 1, "fp8": 4 + 2}
    assert (state["precision"], state["last_step"]) == ("exact", "fp8")


def test_an_exact_request_reuses_only_exact_blocks(scheduler):
    made = scheduler.make({"precision": "fp8"})
    cache = made.kv_cache_manager
    made.requests = {"a": request_of("a", "exact"), "b": request_of("b")}
    cache.tables = {"a": [7], "b": [7, 8, 9]}
    scheduled(made, {"a": 16})
    made.requests["b"].num_computed_tokens = 16
    scheduled(made, {"b": 32})
    cache.cached = [7, 8, 9]
    free, pinned = request_of("c"), request_of("d", "exact")
    blocks, tokens = cache.get_computed_blocks(free)
    assert (blocks.get_block_ids(), tokens) == (([7, 8, 9],), 48)
    blocks, tokens = cache.get_computed_blocks(pinned)
    assert (blocks.get_block_ids(), tokens) == (([7],), 16)
    cache.cached = [8, 9]
    blocks, tokens = cache.get_computed_blocks(pinned)
    assert (blocks.get_block_ids(), tokens) == ((), 0)


def test_rpcs_for_the_scheduler_reach_it(scheduler):
    core = scheduler.core()
    assert core.collective_rpc("other") == ["worker", "other"]
    with pytest.raises(ValueError, match="quantization"):
        core.collective_rpc("dualfp_scheduler_get")
    core.scheduler = scheduler.make({})
    assert core.collective_rpc("dualfp_scheduler_set", args=("fp8",))[0]["precision"] == "fp8"
    with pytest.raises(ValueError, match="int8"):
        core.collective_rpc("dualfp_scheduler_set", args=("int8",))
    assert core.collective_rpc("dualfp_scheduler_get")[0]["precision"] == "fp8"


def teardown_module():
    set_precision("exact")
