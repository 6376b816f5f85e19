"""The metrics of vLLM 0.32: names, types, labels and bucket bounds as a running server exposes them."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from prometheus_client import (
    CollectorRegistry,
    Counter,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from fakes.engine.model import Emission, Scheduler, Work
from fakes.engine.settings import EngineSettings
from fakes.engine.tokens import TOKENS_PER_BLOCK

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

FINISHED_REASONS = ("stop", "length", "abort", "error", "repetition")

_LATENCY = (0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 50, 60, 120, 240, 480, 960, 1920, 7680)
_PER_TOKEN = (0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 20, 40, 80)
_FIRST_TOKEN = (
    0.001,
    0.005,
    0.01,
    0.02,
    0.04,
    0.06,
    0.08,
    0.1,
    0.25,
    0.5,
    0.75,
    1,
    2.5,
    5,
    7.5,
    10,
    20,
    40,
    80,
    160,
    640,
    2560,
)
_PER_STEP = (1, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384)

_HISTOGRAMS: Mapping[str, tuple[float, ...]] = {
    "request_queue_time_seconds": _LATENCY,
    "request_inference_time_seconds": _LATENCY,
    "request_prefill_time_seconds": _LATENCY,
    "request_decode_time_seconds": _LATENCY,
    "e2e_request_latency_seconds": _LATENCY,
    "time_to_first_token_seconds": _FIRST_TOKEN,
    "inter_token_latency_seconds": _PER_TOKEN,
    "request_time_per_output_token_seconds": _PER_TOKEN,
    "iteration_tokens_total": _PER_STEP,
    "request_num_preemptions": (1, 2, 3, 4, 5, 10, 20),
    "request_params_n": (1, 2, 5, 10, 20),
}
_TOKEN_HISTOGRAMS = (
    "request_prompt_tokens",
    "request_generation_tokens",
    "request_max_num_generation_tokens",
    "request_params_max_tokens",
    "request_prefill_kv_computed_tokens",
)
_UNUSED_COUNTERS = (
    "estimated_flops_per_gpu",
    "estimated_read_bytes_per_gpu",
    "estimated_write_bytes_per_gpu",
    "external_prefix_cache_queries",
    "external_prefix_cache_hits",
    "mm_cache_queries",
    "mm_cache_hits",
)
"""What a single engine without images or cache transfer exposes as zero."""


class EngineState(Protocol):
    """What the metrics read at scrape time."""

    @property
    def scheduler(self) -> Scheduler: ...
    @property
    def sleep_level(self) -> int: ...


@dataclass(slots=True)
class Totals:
    """Counters that the engine keeps for the next scrape."""

    prompt_tokens: int = 0
    cached_tokens: int = 0
    generation_tokens: int = 0
    finished: dict[str, int] = field(default_factory=lambda: dict.fromkeys(FINISHED_REASONS, 0))
    rejected: dict[str, int] = field(default_factory=lambda: {"max_num_queued_reqs": 0, "max_num_queued_tokens": 0})


class EngineMetrics:
    """Everything behind /metrics."""

    def __init__(self, settings: EngineSettings, state: EngineState) -> None:
        self.totals = Totals()
        self._state = state
        self._registry = CollectorRegistry()
        names = ["model_name", "engine"]
        labels = {"model_name": settings.served_names[0], "engine": "0"}
        bounds = {**_HISTOGRAMS, **dict.fromkeys(_TOKEN_HISTOGRAMS, _token_bounds(settings.max_model_len))}
        self._histograms = {
            name: Histogram(f"vllm:{name}", _help(name), names, buckets=buckets, registry=self._registry).labels(
                **labels
            )
            for name, buckets in bounds.items()
        }
        self._http = Counter(
            "http_requests",
            "Total number of requests by method, status and handler.",
            ["handler", "method", "status"],
            registry=self._registry,
        )
        self._http_seconds = Histogram(
            "http_request_duration_seconds",
            "Latency by handler.",
            ["handler", "method"],
            buckets=(0.1, 0.5, 1),
            registry=self._registry,
        )
        self._tool_parser = Counter(
            "vllm:tool_call_parser_invocations",
            _help("tool_call_parser_invocations"),
            ["model_name", "mode", "outcome", "request_type"],
            registry=self._registry,
        )
        self._registry.register(_Collector(settings, state, self.totals))
        for collector in (GCCollector, PlatformCollector, ProcessCollector):
            collector(registry=self._registry)
        self._model_name = settings.served_names[0]

    def render(self) -> bytes:
        """Return the exposition text."""
        steps = self._state.scheduler.step_tokens
        for tokens in steps:
            self._histograms["iteration_tokens_total"].observe(tokens)
        steps.clear()
        return generate_latest(_WithoutCreated(self._registry))

    def received(self, n: int, limit: int) -> None:
        """Count the parameters of a request, once for all of its `n` choices."""
        self._histograms["request_params_n"].observe(n)
        self._histograms["request_max_num_generation_tokens"].observe(limit)

    def rejected(self, reason: str = "max_num_queued_reqs") -> None:
        """Count a request that a limit of the queue turned away."""
        self.totals.rejected[reason] += 1

    def produced(self, emission: Emission) -> None:
        """Count one token."""
        work = emission.work
        self.totals.generation_tokens += 1
        if emission.gap_seconds is not None:
            self._histograms["inter_token_latency_seconds"].observe(emission.gap_seconds)
            return
        self._histograms["time_to_first_token_seconds"].observe(emission.at - work.arrived_at)
        self.totals.prompt_tokens += work.prompt_tokens
        self.totals.cached_tokens += work.cached_tokens

    def finished(self, work: Work, reason: str, limit: int) -> None:
        """Count a finished sequence; an aborted or failed one only by its reason."""
        self.totals.finished[reason] += 1
        arrived, admitted, first, last = work.arrived_at, work.admitted_at, work.first_token_at, work.last_token_at
        if reason in {"abort", "error"} or admitted is None or first is None or last is None:
            return
        values = {
            "e2e_request_latency_seconds": last - arrived,
            "request_queue_time_seconds": admitted - arrived,
            "request_inference_time_seconds": last - admitted,
            "request_prefill_time_seconds": first - admitted,
            "request_decode_time_seconds": last - first,
            "request_time_per_output_token_seconds": (last - first) / max(1, work.produced - 1),
            "request_prompt_tokens": work.prompt_tokens,
            "request_generation_tokens": work.produced,
            "request_params_max_tokens": limit,
            "request_num_preemptions": work.preemptions,
            "request_prefill_kv_computed_tokens": work.prompt_tokens - work.cached_tokens,
        }
        for name, value in values.items():
            self._histograms[name].observe(value)

    def parsed_tools(self, *, streaming: bool, found: bool) -> None:
        """Count one run of the tool-call parser on a chat answer."""
        mode = "streaming" if streaming else "non_streaming"
        outcome = "tool_call" if found else "no_tool_call"
        self._tool_parser.labels(self._model_name, mode, outcome, "chat_completions").inc()

    def answered(self, handler: str, method: str, status: int, seconds: float) -> None:
        """Count one HTTP request."""
        self._http.labels(handler, method, f"{status // 100}xx").inc()
        self._http_seconds.labels(handler, method).observe(seconds)


class _Collector(Collector):
    """The gauges, and the counters that the scheduler or the engine keeps."""

    def __init__(self, settings: EngineSettings, state: EngineState, totals: Totals) -> None:
        self._settings, self._state, self._totals = settings, state, totals
        self._labels = {"model_name": settings.served_names[0], "engine": "0"}

    def collect(self) -> Iterator[Metric]:
        yield from self._gauges()
        yield from self._counters()
        yield _cache_config(self._settings)
        if self._settings.enable_lora:
            yield self._loras()

    def _gauges(self) -> Iterator[Metric]:
        scheduler, level = self._state.scheduler, self._state.sleep_level
        yield self._gauge("num_requests_running", len(scheduler.running))
        yield self._gauge("num_requests_waiting", len(scheduler.waiting))
        yield self._gauge("num_requests_waiting_by_reason", scheduler.waiting_by_reason(), "reason")
        yield self._gauge("kv_cache_usage_perc", scheduler.kv_usage_ratio)
        states = {"awake": level == 0, "weights_offloaded": level == 1, "discard_all": level == 2}
        yield self._gauge("engine_sleep_state", states, "sleep_state")

    def _counters(self) -> Iterator[Metric]:
        totals, counters = self._totals, self._state.scheduler.counters
        cached, computed = totals.cached_tokens, totals.prompt_tokens - totals.cached_tokens
        for name in _UNUSED_COUNTERS:
            yield self._counter(name, 0)
        yield self._counter("num_preemptions", counters.preemptions)
        yield self._counter("prefix_cache_queries", counters.prefix_cache_queries)
        yield self._counter("prefix_cache_hits", counters.prefix_cache_hits)
        yield self._counter("prompt_tokens", totals.prompt_tokens)
        yield self._counter("prompt_tokens_cached", cached)
        yield self._counter("generation_tokens", totals.generation_tokens)
        yield self._counter("request_success", totals.finished, "finished_reason")
        sources = {"local_compute": computed, "local_cache_hit": cached, "external_kv_transfer": 0}
        yield self._counter("prompt_tokens_by_source", sources, "source")
        tiers = {"device": cached, "host": 0, "p2p": 0, "disk": 0, "external_unspecified": 0}
        yield self._counter("prompt_tokens_cached_by_source", tiers, "source")
        rejected = CounterMetricFamily(
            "vllm:admission_rejections", _help("admission_rejections"), labels=["model_name", "reason"]
        )
        for reason, value in totals.rejected.items():
            rejected.add_metric([self._labels["model_name"], reason], value)
        yield rejected

    def _loras(self) -> Metric:
        scheduler = self._state.scheduler
        labels = ["max_lora", "waiting_lora_adapters", "running_lora_adapters"]
        gauge = GaugeMetricFamily("vllm:lora_requests_info", _help("lora_requests_info"), labels=labels)
        values = [str(self._settings.max_loras), _adapters(scheduler.waiting), _adapters(scheduler.running)]
        gauge.add_metric(values, time.time())
        return gauge

    def _gauge(self, name: str, value: float | Mapping[str, float], label: str | None = None) -> Metric:
        labels = [*self._labels, *([label] if label else [])]
        return self._filled(GaugeMetricFamily(f"vllm:{name}", _help(name), labels=labels), value)

    def _counter(self, name: str, value: float | Mapping[str, float], label: str | None = None) -> Metric:
        labels = [*self._labels, *([label] if label else [])]
        return self._filled(CounterMetricFamily(f"vllm:{name}", _help(name), labels=labels), value)

    def _filled(self, family: GaugeMetricFamily | CounterMetricFamily, value: float | Mapping[str, float]) -> Metric:
        own = list(self._labels.values())
        if isinstance(value, Mapping):
            for label, one in value.items():
                family.add_metric([*own, label], one)
        else:
            family.add_metric(own, value)
        return family


class _WithoutCreated:
    """A registry as vLLM's server shows it: without the `_created` series."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if not sample.name.endswith("_created")]
            yield metric


def _adapters(works: Iterable[Work]) -> str:
    return ",".join(sorted({work.lora for work in works if work.lora}))


def _help(name: str) -> str:
    return name.replace("_", " ") + " (simulated)"


def _token_bounds(max_model_len: int) -> tuple[float, ...]:
    """1, 2, 5, 10, 20, 50 ... up to the context length, as vLLM builds them."""
    bounds: list[float] = []
    scale = 1
    while True:
        for step in (1, 2, 5):
            if step * scale > max_model_len:
                return tuple(bounds)
            bounds.append(step * scale)
        scale *= 10


def _cache_config(settings: EngineSettings) -> Metric:
    sim = settings.behaviour
    labels = {
        **_CACHE_CONFIG,
        "block_size": str(TOKENS_PER_BLOCK),
        "effective_attention_block_size": str(TOKENS_PER_BLOCK),
        "enable_prefix_caching": str(settings.enable_prefix_caching),
        "gpu_memory_utilization": str(settings.gpu_memory_utilization),
        "kv_cache_max_concurrency": str(sim.kv_tokens / settings.max_model_len),
        "kv_cache_size_tokens": str(sim.kv_tokens),
        "num_gpu_blocks": str(sim.kv_tokens // TOKENS_PER_BLOCK),
    }
    gauge = GaugeMetricFamily("vllm:cache_config_info", _help("cache_config_info"), labels=list(labels))
    gauge.add_metric(list(labels.values()), 1)
    return gauge


_CACHE_CONFIG = {
    "_block_size_resolved": "True",
    "cache_dtype": "auto",
    "cache_hit_alignment_tokens": "None",
    "enable_mamba_shared_prefix_checkpoint": "False",
    "engine": "0",
    "hash_block_size": "None",
    "is_attention_free": "False",
    "kv_cache_dtype_skip_layers": "[]",
    "kv_cache_layout": "None",
    "kv_cache_memory_bytes": "None",
    "kv_offloading_backend": "native",
    "kv_offloading_size": "None",
    "kv_sharing_fast_prefill": "False",
    "mamba_block_size": "None",
    "mamba_cache_dtype": "auto",
    "mamba_cache_mode": "none",
    "mamba_page_size_padded": "None",
    "mamba_ssm_cache_dtype": "float32",
    "num_cpu_blocks": "None",
    "num_gpu_blocks_override": "None",
    "prefix_cache_retention_interval": "0",
    "prefix_caching_hash_algo": "sha256",
    "prefix_match_unit": "None",
    "replayssm_buffer_len": "16",
    "skip_page_size_padded": "None",
    "sliding_window": "None",
    "swa_bounded_replay": "True",
    "use_kda_recoverssm": "False",
    "use_replayssm": "False",
    "user_specified_block_size": "False",
}
