"""/metrics: the engine's counters as they are, and histograms of what clients felt; names are vLLM's after the prefix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from hrun.serve.admission import Admission
    from hrun.serve.engines import Engines

_TTFT = (.001, .005, .01, .02, .04, .06, .08, .1, .25, .5, .75, 1, 2.5, 5, 7.5, 10, 20, 40, 80, 160, 640, 2560)  # fmt: skip
_GAP = (.001, .0025, .005, .01, .025, .05, .075, .1, .15, .2, .3, .4, .5, .75, 1, 2.5, 5, 10, 20, 40, 80)  # fmt: skip
_TOTAL = (.1, .3, .5, .8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920)  # fmt: skip
_TOKENS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 100000)

# The engine's statistics: name here -> (its name in stats(), what it is).
_GAUGES = {
    "num_requests_running": ("n_running", "Sequences that the engine computes."),
    "num_requests_waiting": ("n_waiting", "Sequences that wait in the engine."),
}
_COUNTERS = {
    "num_preemptions": ("n_preemptions", "Sequences whose pages were taken for others."),
    "prefix_cache_queries": ("n_looked_up", "Tokens of prompts looked up in the cache."),
    "prefix_cache_hits": ("n_hits", "Tokens of prompts found in the cache."),
    "engine_steps": ("n_steps", "Steps of the engine."),
    "prompt_rows": ("n_prompt_rows", "Rows of prompts that were computed."),
    "decode_rows": ("n_decode_rows", "Rows of answers that were computed."),
    "tokens_drawn": ("n_generated", "Tokens drawn, end tokens included."),
    "page_evictions": ("n_evictions", "Cached pages whose contents were given up."),
    "busy_seconds": ("busy_seconds", "Time the engine spent in steps."),
    "forward_seconds": ("forward_seconds", "Time the engine spent in the model."),
}


class Metrics:
    """A registry of its own, and what is counted as requests end."""

    def __init__(self, engines: Engines, admission: Admission, prefix: str) -> None:
        self.registry = CollectorRegistry(auto_describe=False)
        self._engines = engines
        self._admission = admission
        self._prefix = prefix
        if not self._prefix.endswith((":", "_")):
            self._prefix += ":"
        self.registry.register(self)
        name = self._prefix

        def histogram(stem: str, what: str, buckets: Iterable[float]) -> Histogram:
            return Histogram(name + stem, what, buckets=tuple(buckets), registry=self.registry)

        def counter(stem: str, what: str, labels: tuple[str, ...] = ()) -> Counter:
            return Counter(name + stem, what, labels, registry=self.registry)

        self.first_token = histogram("time_to_first_token_seconds", "Until the first token.", _TTFT)
        self.per_token = histogram(
            "request_time_per_output_token_seconds", "Between tokens, mean of an answer.", _GAP
        )
        self.total = histogram("e2e_request_latency_seconds", "Of whole requests.", _TOTAL)
        self.prompt = histogram("request_prompt_tokens", "Tokens of prompts.", _TOKENS)
        self.generated = histogram("request_generation_tokens", "Tokens of answers.", _TOKENS)
        self.prompt_tokens = counter("prompt_tokens", "Tokens of prompts.")
        self.cached_tokens = counter("prompt_tokens_cached", "Of them, found in the cache.")
        self.generation_tokens = counter("generation_tokens", "Tokens of answers.")
        self.success = counter(
            "request_success", "Answers, by how they ended.", ("finished_reason",)
        )
        self.http = counter("http_requests", "Requests, by route and status.", ("route", "status"))
        self.disconnects = counter(
            "client_disconnects", "Requests whose client left before the end."
        )
        self.tool_failures = counter(
            "tool_call_parse_failures", "Tool calls that could not be read and became content."
        )

    def text(self) -> bytes:
        """Returns the page of metrics that is scraped."""
        return generate_latest(self.registry)

    def describe(self) -> Iterable[Metric]:
        """Describes nothing, so that registering asks the engine nothing."""
        return []

    def collect(self) -> Iterable[Metric]:
        """The engine's numbers, as they are now."""
        stats: dict[str, Any] = self._engines.stats()
        for stem, (key, what) in _GAUGES.items():
            yield GaugeMetricFamily(self._prefix + stem, what, value=stats[key])
        for stem, (key, what) in _COUNTERS.items():
            yield CounterMetricFamily(self._prefix + stem, what, value=stats[key])
        used = stats["n_pages_used"] / max(stats["n_pages"], 1)
        yield GaugeMetricFamily(
            self._prefix + "kv_cache_usage_perc", "Pages held by sequences, of 1.", value=used
        )
        admission = self._admission
        yield GaugeMetricFamily(
            self._prefix + "num_requests_admitted",
            "Requests from their first byte to their last.",
            value=admission.n_requests,
        )
        yield CounterMetricFamily(
            self._prefix + "admission_rejections",
            "Requests refused by 429.",
            value=admission.n_refused,
        )
