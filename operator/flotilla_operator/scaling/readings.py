"""What is read of a whole fleet: each reading once, as a PromQL query and as a sum over scraped samples. PURE.

A pod may be scraped by several jobs, and by several Prometheus servers that one query sees: so of the series of one pod
that differ only in labels that are not its own, the largest counts, and only then pods are added up.
"""

from __future__ import annotations

import math
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from flotilla_api import metrics as m

from .signals import Unknown

HOUR_SECONDS = 3600.0
EXPERT_OF_POD = r"(.+)-expert-[a-z0-9]*-?[a-z0-9]+"
"""The Expert whose Deployment a pod's name is of; long names lose some of the middle part, the ReplicaSet's hash."""
_LABELS_OF_THE_POD = ("namespace", "pod")
_POD_OF_EXPERT = re.compile(EXPERT_OF_POD)

Labels = tuple[str, ...]
"""Values of a reading's `by`, in its order."""
Rows = Mapping[Labels, float]
Answer = Rows | Unknown
"""What a reading found, or why nothing is known of it."""
Series = tuple[Mapping[str, str], float]
"""The labels of one series, namespace and pod among them, and its value or rate."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One number for each combination of the labels in `by`."""

    name: str
    metrics: tuple[str, ...]
    """The metric, and names that it had."""
    by: tuple[str, ...]
    kind: Literal["gauge", "rate", "age", "count"] = "gauge"
    """gauge: the newest value. rate: growth a second. age: seconds since the newest sample. count: samples in the
    window of rates."""
    own: tuple[str, ...] = ()
    """Labels, beside the pod's, that tell one pod's series apart."""
    where: tuple[tuple[str, str], ...] = ()
    """Labels and the values that they must have."""
    across: Literal["sum", "max", "min"] = "sum"
    quantile: float | None = None
    """Of a histogram's buckets; `by` does not name `le`."""
    window_seconds: float | None = None
    """Of a rate; None: the usual one."""
    most: float = 1e6
    """More is no measurement."""


def _of_engines(name: str, *names: str, kind: Literal["gauge", "rate"] = "gauge", most: float = 1e6) -> Reading:
    return Reading(name, names, _LABELS_OF_THE_POD, kind, own=("model_name", "engine"), most=most)


def _of_routers(name: str, metric: str, *by: str, own: tuple[str, ...] = ()) -> Reading:
    return Reading(name, (metric,), ("namespace", *by), "rate", own=("policy", *by, *own))


def _of_targets(name: str, metric: str, where: tuple[tuple[str, str], ...] = ()) -> Reading:
    return Reading(
        name,
        (metric,),
        ("namespace", "target"),
        "rate",
        own=("policy", "target", *(label for label, _ in where)),
        where=where,
        window_seconds=HOUR_SECONDS,
    )


ROUTERS = Reading("routers", (m.ROUTER_IN_FLIGHT,), ("namespace", "policy", "pod"), "age", across="min", most=1e9)
ENGINES = Reading("engines", (m.VLLM_RUNNING,), ("namespace", "pod", "model_name"), "age", across="min", most=1e9)
"""Who is scraped, and how long ago: without this, a metric that is not there says nothing."""
SCRAPES = Reading("scrapes", (m.ROUTER_IN_FLIGHT,), ("namespace", "policy", "pod"), "count", own=("policy",))
"""How often in the window of rates: a rate takes two samples."""

DEMAND = _of_routers("demand", m.ROUTER_DEMAND, "expert")
LOSSES = _of_routers("losses", m.ROUTER_ESCALATIONS, "expert", "group", "cause")
TTFT = _of_routers("time to first token", f"{m.ROUTER_TTFT_SECONDS}_bucket", "model", "le")
TPOT_P95 = Reading(
    "time per token",
    (f"{m.ROUTER_TPOT_SECONDS}_bucket",),
    ("namespace", "model"),
    "rate",
    own=("policy", "model"),
    quantile=0.95,
)
QUEUE_P95 = Reading(
    "queue time",
    (f"{m.VLLM_QUEUE_SECONDS}_bucket",),
    ("namespace", "expert"),
    "rate",
    own=("model_name", "engine"),
    quantile=0.95,
)
RUNNING = _of_engines("running", m.VLLM_RUNNING)
WAITING = _of_engines("waiting", m.VLLM_WAITING)
KV_USAGE = Reading(
    "KV-cache usage", m.VLLM_KV_USAGE, _LABELS_OF_THE_POD, own=("model_name", "engine"), across="max", most=1.01
)
PREEMPTIONS = _of_engines("preemptions", m.VLLM_PREEMPTIONS, kind="rate")
SLOT_SECONDS = _of_engines("slot-seconds", f"{m.VLLM_INFERENCE_SECONDS}_sum", kind="rate")
FINISHED = _of_engines("finished requests", f"{m.VLLM_INFERENCE_SECONDS}_count", kind="rate")
PROMPT_TOKENS = _of_engines("prompt tokens", f"{m.VLLM_PROMPT_TOKENS}_sum", kind="rate", most=1e9)
GENERATION_TOKENS = _of_engines("generation tokens", f"{m.VLLM_GENERATION_TOKENS}_sum", kind="rate", most=1e9)
CACHE_LABELS = ("engine", "kv_cache_size_tokens", "num_gpu_blocks", "block_size")
CACHE = Reading("KV cache", (m.VLLM_CACHE_CONFIG,), (*_LABELS_OF_THE_POD, *CACHE_LABELS), own=CACHE_LABELS)
SLEEP = Reading(
    "sleep state",
    (m.VLLM_SLEEP_STATE,),
    (*_LABELS_OF_THE_POD, "sleep_state"),
    own=("engine", "sleep_state"),
    across="max",
)
USD = _of_targets("dollars", m.ROUTER_COST_USD)
ANSWERED = _of_targets("answered attempts", m.ROUTER_ATTEMPTS, (("result", "ok"),))
UNPRICED = _of_targets("unpriced attempts", m.ROUTER_UNPRICED)

READINGS: tuple[Reading, ...] = (
    ROUTERS,
    ENGINES,
    SCRAPES,
    DEMAND,
    LOSSES,
    TTFT,
    TPOT_P95,
    QUEUE_P95,
    RUNNING,
    WAITING,
    KV_USAGE,
    PREEMPTIONS,
    SLOT_SECONDS,
    FINISHED,
    PROMPT_TOKENS,
    GENERATION_TOKENS,
    CACHE,
    SLEEP,
    USD,
    ANSWERED,
    UNPRICED,
)
"""What one tick reads."""


def past_demand(step_seconds: float) -> Reading:
    """Demand over each step of a range."""
    return Reading("past demand", DEMAND.metrics, DEMAND.by, "rate", own=DEMAND.own, window_seconds=step_seconds)


def past_scrapes(step_seconds: float) -> Reading:
    """How often the most scraped router of each policy was scraped in each step of a range: a rate takes two."""
    by = ("namespace", "policy")
    return Reading(
        "past scrapes", SCRAPES.metrics, by, "count", own=SCRAPES.own, across="max", window_seconds=step_seconds
    )


def past_work(seconds: float) -> tuple[Reading, Reading]:
    """Slot-seconds and finished requests of each Expert over the last `seconds`, pods that are gone included."""
    slot_seconds, finished = (
        Reading(
            f"past {each.name}",
            each.metrics,
            ("namespace", "expert"),
            "rate",
            own=each.own,
            window_seconds=seconds,
        )
        for each in (SLOT_SECONDS, FINISHED)
    )
    return slot_seconds, finished


@dataclass(frozen=True, slots=True)
class Scope:
    """Which series a fleet's are, and how far apart their samples."""

    scrape_seconds: float = 15.0
    labels: tuple[tuple[str, str], ...] = ()
    """That every series has, such as the cluster's name in a Prometheus of several clusters."""
    namespaces: tuple[str, ...] = ()
    """None: all."""
    tick_seconds: float = 0.0
    """Between two readings; 0: no longer than between two scrapes."""

    @property
    def window_seconds(self) -> float:
        """Of rates: three scrapes, so that one may be missed, and all that there were since the reading before."""
        return max(3 * self.scrape_seconds, self.tick_seconds + self.scrape_seconds)


def promql(reading: Reading, scope: Scope) -> str:
    """The query that answers `reading` for the whole fleet."""
    grouped = reading.by if reading.quantile is None else (*reading.by, "le")
    own = reading.own if reading.quantile is None else (*reading.own, "le")
    if reading.kind == "age":
        return f"min by ({', '.join(grouped)}) (time() - timestamp({_selector(reading, scope, pods=False)}))"
    series = _series(reading, scope)
    text = f"max by ({', '.join(dict.fromkeys((*_LABELS_OF_THE_POD, *own)))}) ({series})"
    if "expert" in reading.by and "expert" not in reading.own:
        text = f'label_replace({text}, "expert", "$1", "pod", "{EXPERT_OF_POD}")'
    text = f"{reading.across} by ({', '.join(grouped)}) ({text})"
    return text if reading.quantile is None else f"histogram_quantile({reading.quantile}, {text})"


def _rate(reading: Reading, scope: Scope) -> str:
    """Between the last two samples of the window, so that a burst is seen at once; quantiles are over all of it.

    A mean over three scrapes costs 1.5 % more dollars on the traces of the benchmark. But where there are several
    scrapes in a tick, two of them would hide what came between the others.
    """
    of_all = reading.quantile is not None or reading.window_seconds is not None
    return "rate" if of_all or scope.scrape_seconds < scope.tick_seconds else "irate"


def _series(reading: Reading, scope: Scope) -> str:
    selector = _selector(reading, scope, pods=True)
    if reading.kind == "gauge":
        return selector
    function = _rate(reading, scope) if reading.kind == "rate" else "count_over_time"
    return f"{function}({selector}[{_duration(reading.window_seconds or scope.window_seconds)}])"


def _duration(seconds: float) -> str:
    """As PromQL writes a duration."""
    return f"{round(seconds)}s" if seconds == round(seconds) else f"{round(seconds * 1000)}ms"


def _selector(reading: Reading, scope: Scope, *, pods: bool) -> str:
    matchers = [f"{label}={_quoted(value)}" for label, value in (*scope.labels, *reading.where)]
    if scope.namespaces:
        matchers.append(f"namespace=~{_quoted('|'.join(scope.namespaces))}")
    elif pods:
        matchers.append('namespace!=""')
    matchers += ['pod!=""'] if pods else []
    if len(reading.metrics) == 1:
        return f"{reading.metrics[0]}{{{','.join(matchers)}}}"
    named = f"__name__=~{_quoted('|'.join(reading.metrics))}"
    return f"{{{','.join([named, *matchers])}}}"


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def believable(reading: Reading, value: float) -> float:
    """`value`, or NaN where it is no measurement."""
    return value if 0 <= value <= reading.most else math.nan


def summed(reading: Reading, series: Iterable[Series]) -> Rows:
    """What `promql(reading)` would answer, from the series of its metrics; those of each pod come once."""
    if reading.quantile is None:
        return _grouped(reading, reading.by, series)
    buckets: defaultdict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, rate in _grouped(reading, (*reading.by, "le"), series).items():
        buckets[labels[:-1]].append((float(labels[-1]), rate))
    return {labels: bucket_quantile(reading.quantile, sorted(found)) for labels, found in buckets.items()}


_COMBINE: Mapping[str, Callable[[float, float], float]] = {"sum": operator.add, "max": max, "min": min}


def _grouped(reading: Reading, by: tuple[str, ...], series: Iterable[Series]) -> dict[Labels, float]:
    combine = _COMBINE[reading.across]
    rows: dict[Labels, float] = {}
    for labels, value in series:
        key = tuple(_label(labels, name) for name in by)
        known = rows.get(key)
        rows[key] = value if known is None else combine(known, value)
    return rows


def _label(labels: Mapping[str, str], name: str) -> str:
    if name == "expert" and name not in labels:
        match = _POD_OF_EXPERT.fullmatch(labels.get("pod", ""))
        return match[1] if match else ""
    return labels.get(name, "")


def bucket_quantile(ratio: float, buckets: Sequence[tuple[float, float]]) -> float:
    """PromQL's histogram_quantile over (upper bound, requests up to it), sorted; NaN without requests."""
    if len(buckets) < 2 or not math.isinf(buckets[-1][0]) or buckets[-1][1] <= 0:
        return math.nan
    rank = ratio * buckets[-1][1]
    index = next(index for index, (_, below) in enumerate(buckets) if below >= rank)
    if index == len(buckets) - 1:
        return buckets[-2][0]
    lower, before = buckets[index - 1] if index else (0.0, 0.0)
    upper, below = buckets[index]
    return lower + (upper - lower) * (rank - before) / (below - before) if below > before else upper
