"""Answers -> signals: what is known, what is a confirmed zero, and what is unknown, and why."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_operator.scaling import readings as r
from flotilla_operator.scaling.evidence import GRACE_SCRAPES
from flotilla_operator.scaling.fleet import (
    ExpertSignals,
    Fleet,
    FleetSignals,
    MeasuredPod,
    NamespacedName,
    Routers,
    ServedExpert,
)
from flotilla_operator.scaling.readings import Answer, Reading, Rows, Scope
from flotilla_operator.scaling.reduce import reduce_signals
from flotilla_operator.scaling.signals import Known, Signal, Unknown

NOW = 1_000_000.0
SCOPE = Scope()
YOUNG = NOW - GRACE_SCRAPES * SCOPE.scrape_seconds + 1
INVOICE, ROUTER = NamespacedName("team", "invoice"), NamespacedName("team", "router")
ENGINES = ("invoice-expert-1-a", "invoice-expert-1-b")


def a_pod(name: str, ready_at: float = 0.0) -> MeasuredPod:
    return MeasuredPod(name, "10.0.0.1:8000", ready_at)


def a_fleet(
    *engines: MeasuredPod,
    policies: tuple[str, ...] = ("router",),
    gateways: tuple[MeasuredPod, ...] = (a_pod("gateway"),),
    sidecars: tuple[MeasuredPod, ...] = (),
) -> Fleet:
    routers = {NamespacedName("team", policy): Routers(gateways, sidecars) for policy in policies}
    return Fleet({INVOICE: ServedExpert(engines, frozenset(policies))}, routers)


def answers(**rows: Answer) -> dict[Reading, Answer]:
    """Every reading is answered, healthy and idle but for `rows`, by the name of the reading's constant."""
    healthy: dict[Reading, Answer] = {reading: {} for reading in r.READINGS}
    healthy[r.ROUTERS] = {("team", "router", "gateway"): 5.0}
    healthy[r.SCRAPES] = {("team", "router", "gateway"): 3.0}
    healthy[r.ENGINES] = {("team", pod, "invoice"): 3.0 for pod in ENGINES}
    for reading in (r.RUNNING, r.WAITING, r.KV_USAGE, r.PREEMPTIONS, r.SLOT_SECONDS, r.FINISHED):
        healthy[reading] = {("team", pod): 0.0 for pod in ENGINES}
    return healthy | {getattr(r, name): found for name, found in rows.items()}


def reduced(fleet: Fleet, **rows: Answer) -> FleetSignals:
    return reduce_signals(fleet, answers(**rows), NOW, SCOPE)


def invoice(fleet: Fleet, **rows: Answer) -> ExpertSignals:
    return reduced(fleet, **rows).experts[INVOICE]


def why(signal: Signal) -> str:
    assert isinstance(signal, Unknown), signal
    return signal.why


def of(*pods: str, value: float = 3.0) -> Rows:
    """A row for each gateway or sidecar of the policy."""
    return {("team", "router", pod): value for pod in pods}


def test_nothing_counted_by_those_who_are_asked_is_a_zero() -> None:
    """Demand, losses, late answers and dollars; quantiles of nothing are unknown."""
    found = invoice(a_fleet(*map(a_pod, ENGINES)))

    assert found.arrivals == Known(0.0, 5.0)
    assert found.lost("capacity") == Known(0.0, 5.0)
    assert found.late(1.0) == Known(0.0, 5.0)
    assert found.running == Known(0.0, 3.0)
    assert isinstance(found.ttft_quantile(0.95), Unknown)
    assert isinstance(found.tpot_p95, Unknown)
    assert isinstance(found.queue_p95, Unknown)
    assert isinstance(found.prompt_tokens, Unknown)


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        pytest.param({"ROUTERS": {}}, "no router of RoutingPolicy router is scraped", id="nobody is scraped"),
        pytest.param({"ROUTERS": of("gateway", value=91.0)}, "the newest sample is 91 s old", id="stale"),
        pytest.param({"ROUTERS": of("gateway", value=math.nan)}, "no router", id="an age that is none"),
        pytest.param({"SCRAPES": of("gateway", value=1.0)}, "scraped twice in 45 s", id="scraped once in a window"),
        pytest.param({"ROUTERS": Unknown("down")}, "down", id="the question who is scraped failed"),
        pytest.param({"SCRAPES": Unknown("down")}, "down", id="the question how often failed"),
        pytest.param({"DEMAND": Unknown("down")}, "down", id="the question itself failed"),
        pytest.param({"DEMAND": {("team", "invoice"): math.nan}}, "no amount", id="not a number"),
        pytest.param({"ROUTERS": of("other")}, "router gateway of RoutingPolicy router", id="one gateway is missing"),
    ],
)
def test_demand_is_unknown_unless_all_who_count_are_asked(rows: Mapping[str, Answer], reason: str) -> None:
    """Whatever else is known."""
    healthy = {"SCRAPES": of("gateway", "other")}

    found = invoice(a_fleet(*map(a_pod, ENGINES)), **{**healthy, **rows})

    assert reason in why(found.arrivals)
    assert found.running == Known(0.0, 3.0)


def test_every_policy_that_names_an_expert_is_asked() -> None:
    """Demand through one of two is not the demand."""
    found = invoice(a_fleet(policies=("router", "other")), DEMAND={("team", "invoice"): 5.0})

    assert "RoutingPolicy other" in why(found.arrivals)


def test_demand_that_is_seen_in_part_is_at_least_that() -> None:
    """One gateway of two cannot be scraped: what the other counts is certain."""
    fleet = a_fleet(gateways=(a_pod("gateway"), a_pod("dark")))

    found = invoice(fleet, DEMAND={("team", "invoice"): 5.0})

    assert found.arrivals == Unknown("router dark of RoutingPolicy router is not scraped", at_least=5.0)


def test_a_policy_without_a_router_has_counted_nothing() -> None:
    """One whose gateway does not come up stops nobody's scaling; one whose gateway still counts is missed."""
    fleet = a_fleet(policies=("router", "staging"))
    fleet = Fleet(fleet.experts, {**fleet.routers, NamespacedName("team", "staging"): Routers()})
    demand = {("team", "invoice"): 5.0}
    ending = {**of("gateway"), ("team", "staging", "ending"): 3.0}

    assert invoice(fleet, DEMAND=demand).arrivals == Known(5.0, 5.0)
    assert isinstance(invoice(fleet, DEMAND=demand, ROUTERS=ending).arrivals, Unknown)


def test_routers_that_just_started_are_not_missed() -> None:
    """Nobody can have scraped them twice."""
    fleet = a_fleet(gateways=(a_pod("gateway"), a_pod("young", YOUNG)))

    assert invoice(fleet).arrivals == Known(0.0, 5.0)


def test_routers_that_seem_to_start_tomorrow_are_missed() -> None:
    """The operator's clock was set back: what nobody scrapes is no zero."""
    fleet = a_fleet(gateways=(a_pod("gateway"), a_pod("other", NOW + 86400.0)))

    assert "router other" in why(invoice(fleet).arrivals)


@pytest.mark.parametrize(("scraped", "is_known"), [(10, True), (9, True), (8, False), (0, False)])
def test_nine_of_ten_sidecars_are_enough(scraped: int, is_known: bool) -> None:
    """One agent's pod that nobody can scrape stops nothing; a tenth of the demand that is not seen does."""
    names = [f"agent-{number}" for number in range(10)]
    seen = of("gateway", *names[:scraped])

    found = invoice(a_fleet(sidecars=tuple(map(a_pod, names))), ROUTERS=seen, SCRAPES=seen)

    assert isinstance(found.arrivals, Known) is is_known
    if not is_known:
        assert f"{10 - scraped} of 10 sidecars" in why(found.arrivals)


def test_an_expert_that_no_policy_names_has_the_demand_that_its_engines_finish() -> None:
    """Whoever calls its Service is not counted by any router."""
    fleet = a_fleet(*map(a_pod, ENGINES), policies=())

    found = invoice(fleet, FINISHED={("team", pod): 2.0 for pod in ENGINES})

    assert found.arrivals == Known(4.0, 3.0)
    assert "no RoutingPolicy names it" in why(found.lost("capacity"))


def test_losses_are_told_by_cause() -> None:
    """Sorted, those that lost nothing left out."""
    rows = {
        ("team", "invoice", "quality", "LowConfidence"): 3.0,
        ("team", "invoice", "capacity", "Overloaded"): 1.0,
        ("team", "invoice", "fault", "Timeout"): 0.0,
        ("team", "other", "capacity", "Overloaded"): 9.0,
    }
    found = invoice(a_fleet(), LOSSES=rows)

    assert found.lost("capacity") == Known(1.0, 5.0)
    assert found.lost("fault") == Known(0.0, 5.0)
    assert not isinstance(found.losses, Unknown)
    assert [loss.cause for loss in found.losses.by_cause] == ["Overloaded", "LowConfidence"]


def test_buckets_are_taken_apart() -> None:
    """A histogram's buckets hold those below them."""
    rows = {("team", "invoice", bound): rate for bound, rate in (("0.5", 3.0), ("+Inf", 5.0), ("1", 4.0))}

    found = invoice(a_fleet(), TTFT=rows).ttft

    assert not isinstance(found, Unknown)
    assert (found.bounds, found.per_second) == ((0.5, 1.0, math.inf), (3.0, 1.0, 1.0))


@pytest.mark.parametrize("bound", ["0.5", "much"])
def test_buckets_that_are_no_histogram_are_unknown(bound: str) -> None:
    """Without the bucket of all requests, or with a bound that is none."""
    assert "no histogram" in why(invoice(a_fleet(), TTFT={("team", "invoice", bound): 1.0}).late(1.0))


def test_engines_are_added_up_and_the_fullest_cache_counts() -> None:
    """As decisions are made by the Expert, and victims chosen by the pod."""
    one, other = ENGINES
    values = {("team", one): 2.0, ("team", other): 3.0}

    found = invoice(
        a_fleet(*map(a_pod, ENGINES)),
        RUNNING=values,
        KV_USAGE={("team", one): 0.25, ("team", other): 0.5},
        FINISHED=values,
        PROMPT_TOKENS={("team", one): 200.0, ("team", other): 300.0},
        CACHE={
            ("team", one, "0", "4096", "None", "None"): 1.0,
            ("team", other, "0", "", "100", "16"): 1.0,
            ("team", other, "1", "", "100", "16"): 1.0,
        },
        SLEEP={("team", one, "awake"): 1.0, ("team", other, "weights_offloaded"): 1.0},
    )

    assert (found.running, found.kv_usage) == (Known(5.0, 3.0), Known(0.5, 3.0))
    assert found.prompt_tokens == Known(100.0, 3.0)
    assert found.kv_tokens == Known(3200.0, 3.0)
    assert [(pod.running, pod.sleep) for pod in found.pods] == [
        (Known(2.0, 3.0), "Awake"),
        (Known(3.0, 3.0), "WeightsOffloaded"),
    ]


def test_no_engine_is_a_confirmed_zero() -> None:
    """Nothing runs where nothing is; also while Prometheus is down."""
    found = invoice(a_fleet(), ENGINES=Unknown("down"), RUNNING=Unknown("down"))

    assert (found.running, found.waiting, found.finished) == (Known(0.0), Known(0.0), Known(0.0))


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        pytest.param({"ENGINES": {}}, "is not scraped", id="nobody is scraped"),
        pytest.param({"ENGINES": Unknown("down")}, "down", id="the question failed"),
        pytest.param(
            {"ENGINES": {("team", pod, "sql"): 3.0 for pod in ENGINES}}, "says that it serves sql", id="a stranger"
        ),
        pytest.param({"RUNNING": {("team", ENGINES[0]): 1.0}}, "does not count running", id="one says nothing"),
        pytest.param({"RUNNING": {("team", pod): math.nan for pod in ENGINES}}, "no amount", id="not a number"),
    ],
)
def test_engines_are_unknown_unless_all_say_something(rows: Mapping[str, Answer], reason: str) -> None:
    """They count zeroes, so what is missing is no zero."""
    found = invoice(a_fleet(*map(a_pod, ENGINES)), **rows)

    assert reason in why(found.running)
    assert isinstance(found.arrivals, Known)


def test_one_bad_pod_leaves_the_others_known_by_themselves() -> None:
    """A victim is chosen among those of which something is known."""
    found = invoice(a_fleet(*map(a_pod, ENGINES)), ENGINES={("team", ENGINES[0], "invoice"): 3.0})

    assert isinstance(found.running, Unknown)
    assert [isinstance(pod.running, Known) for pod in found.pods] == [True, False]


def test_engines_that_just_started_are_not_missed() -> None:
    """What the others say counts; where there are no others, nothing is known yet."""
    one, other = ENGINES
    scraped = {("team", one, "invoice"): 3.0}
    values = {("team", one): 2.0}

    both = invoice(a_fleet(a_pod(one), a_pod(other, YOUNG)), ENGINES=scraped, RUNNING=values)
    alone = invoice(a_fleet(a_pod(other, YOUNG)), ENGINES=scraped, RUNNING=values)

    assert both.running == Known(2.0, 3.0)
    assert "is not scraped yet" in why(alone.running)


def test_dollars_of_a_request_are_those_of_priced_ones() -> None:
    """A target whose price is unknown has none, and neither has one that costs nothing."""
    found = reduced(
        a_fleet(),
        USD={("team", "big"): 0.09, ("team", "free"): 0.0},
        ANSWERED={("team", "big"): 30.0, ("team", "free"): 5.0, ("team", "unpriced"): 5.0},
        UNPRICED={("team", "big"): 10.0, ("team", "unpriced"): 5.0},
    )

    assert found.request_usd == {NamespacedName("team", "big"): Known(pytest.approx(0.0045))}  # pyright: ignore[reportArgumentType]


def test_what_is_scraped_wrongly_is_told() -> None:
    """Series without the labels that pods are told by, and engines of another model."""
    found = reduced(
        a_fleet(*map(a_pod, ENGINES)),
        ROUTERS={("", "router", "gateway"): 1.0, ("team", "router", ""): 1.0},
        ENGINES={("team", pod, "sql"): 1.0 for pod in ENGINES},
    )

    assert found.problems == (
        "2 scraped pods have no label namespace, pod, policy or model_name",
        "engines serve another model than their Expert's: team/invoice-expert-1-a says sql, "
        "team/invoice-expert-1-b says sql",
    )


_VALUES = st.sampled_from([0.0, 1.0, math.nan])


@given(
    st.dictionaries(st.sampled_from(ENGINES), _VALUES),
    st.dictionaries(st.sampled_from(ENGINES), st.sampled_from([1.0, 91.0, math.nan])),
    st.booleans(),
)
def test_unknown_is_never_a_number(values: dict[str, float], ages: dict[str, float], reverse: bool) -> None:
    """Running is known exactly where every engine is fresh and says an amount; the order of rows is irrelevant."""
    pods = list(map(a_pod, ENGINES))
    rows = {("team", pod): value for pod, value in (reversed(values.items()) if reverse else values.items())}

    found = invoice(a_fleet(*pods), RUNNING=rows, ENGINES={("team", pod, "invoice"): age for pod, age in ages.items()})

    complete = all(ages.get(pod) == 1.0 and math.isfinite(values.get(pod, math.nan)) for pod in ENGINES)
    assert isinstance(found.running, Known) is complete
    assert not isinstance(found.running, Known) or found.running == Known(sum(values.values()), 1.0)
