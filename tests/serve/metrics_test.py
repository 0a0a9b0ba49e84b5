"""/metrics through Prometheus' own parser, and its figures against what was sent."""

import os
import sys

from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, os.path.dirname(__file__))
from running import serve  # noqa: E402


def families(server):
    return {family.name: family for family in text_string_to_metric_families(
        server.get("/metrics"))}


def value(family, suffix="", **labels):
    for sample in family.samples:
        if sample.name == family.name + suffix and labels.items() <= sample.labels.items():
            return sample.value
    raise KeyError(family.name + suffix)


def test_metrics(tmp_path):
    with serve(tmp_path, "--precision", "fp16") as server:
        for i in range(5):
            status, _ = server.request("POST", "/v1/completions", {
                "prompt": [100 + i, 101, 102], "max_tokens": 4, "ignore_eos": True,
                "precision": "fp8" if i == 0 else "auto"})
            assert status == 200
        found = families(server)

        expected = {
            "gauge": ["num_requests_running", "num_requests_waiting", "kv_cache_usage_perc",
                      "precision_mode"],
            # The parser drops _total from a counter's name.
            "counter": ["prompt_tokens", "generation_tokens", "request_success",
                        "num_preemptions", "prefix_cache_queries", "prefix_cache_hits",
                        "precision_tokens", "precision_switches"],
            "histogram": ["time_to_first_token_seconds", "inter_token_latency_seconds",
                          "request_time_per_output_token_seconds", "e2e_request_latency_seconds",
                          "request_queue_time_seconds", "request_prompt_tokens",
                          "request_generation_tokens", "iteration_tokens_total",
                          "step_duration_seconds"],
        }
        for kind, names in expected.items():
            for name in names:
                family = found["dualfp:" + name]
                assert family.type == kind, name
                assert family.documentation
                assert all(s.labels["model_name"] == "reference" for s in family.samples)

        assert value(found["dualfp:prompt_tokens"], "_total") == 15
        assert value(found["dualfp:generation_tokens"], "_total") == 20
        assert value(found["dualfp:request_success"], "_total", finished_reason="length") == 5
        assert value(found["dualfp:time_to_first_token_seconds"], "_count") == 5
        assert value(found["dualfp:inter_token_latency_seconds"], "_count") == 15
        assert value(found["dualfp:request_generation_tokens"], "_sum") == 20
        assert value(found["dualfp:precision_tokens"], "_total", precision="fp8") == 6
        assert value(found["dualfp:precision_tokens"], "_total", precision="exact") == 24
        for family in found.values():
            if family.type == "histogram":
                check_histogram(family)


def check_histogram(family):
    series = {}
    for sample in family.samples:
        if sample.name.endswith("_bucket"):
            key = tuple(sorted((k, v) for k, v in sample.labels.items() if k != "le"))
            series.setdefault(key, []).append((float(sample.labels["le"]), sample.value))
    for key, buckets in series.items():
        bounds = [bound for bound, _ in buckets]
        counts = [count for _, count in buckets]
        assert bounds == sorted(bounds) and bounds[-1] == float("inf")
        assert counts == sorted(counts), "buckets are cumulative"
        assert counts[-1] == value(family, "_count", **dict(key))
