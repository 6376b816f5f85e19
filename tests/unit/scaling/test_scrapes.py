"""What follows from scraped samples: rates, and an hour of them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_api import metrics as m
from flotilla_operator.scaling import readings as r
from flotilla_operator.scaling.exposition import Exposition, parse_series
from flotilla_operator.scaling.readings import Scope
from flotilla_operator.scaling.scrapes import SERIES_MAX, PodScrapes, Track, growth, summed_growth, summed_values

SCOPE = Scope()
DEMAND = f'{m.ROUTER_DEMAND}{{policy="router",expert="invoice"}}'


@pytest.mark.parametrize(
    ("counts", "grown"),
    [
        pytest.param([3.0, 5.0, 9.0], 6.0, id="grows"),
        pytest.param([9.0, 2.0, 3.0], 3.0, id="a reset begins at zero"),
        pytest.param([None, 4.0], 4.0, id="a series that comes later began at zero"),
        pytest.param([4.0, None, 1.0], 1.0, id="one that went and came has begun again"),
        pytest.param([7.0], 0.0, id="one sample says nothing"),
        pytest.param([], 0.0, id="none"),
    ],
)
def test_growth_of_a_counter(counts: list[float | None], grown: float) -> None:
    """As PromQL's increase has it, without guessing beyond the samples."""
    assert growth(counts) == grown


def test_growth_of_no_number_is_none() -> None:
    """It is no amount, and above all no zero."""
    assert math.isnan(growth([1.0, math.nan]))
    assert math.isnan(growth([0.0, math.inf]))


@given(st.lists(st.floats(0, 1e6), min_size=1, max_size=20))
def test_counters_never_shrink(counts: list[float]) -> None:
    """Whatever is answered, growth is an amount."""
    assert growth(counts) >= 0


@given(st.text())
def test_any_text_is_read(text: str) -> None:
    """A page that is no exposition holds no samples, and ends nothing."""
    assert Exposition(["flotilla"]).samples(text) == {} or "flotilla" in text


@pytest.mark.parametrize(
    ("line", "found"),
    [
        pytest.param("up 1", {"up": 1.0}, id="no labels"),
        pytest.param('up{a="b"} 1.5e3', {'up{a="b"}': 1500.0}, id="labels"),
        pytest.param('up{a="b"} 2 1700000000000', {'up{a="b"}': 2.0}, id="a moment behind it"),
        pytest.param('up{a="} 9"} 3', {'up{a="} 9"}': 3.0}, id="a brace in a label"),
        pytest.param("upper 1", {}, id="a longer name"),
        pytest.param("# HELP up is up 1", {}, id="a comment"),
        pytest.param("up", {}, id="no value"),
        pytest.param("up one", {}, id="no number"),
    ],
)
def test_lines_of_wanted_metrics_are_found(line: str, found: dict[str, float]) -> None:
    """And no others."""
    assert Exposition(["up"]).samples(f"down 1\n{line}\n") == found


def test_labels_are_unescaped() -> None:
    """As the exposition format escapes them."""
    series = parse_series(r'up{a="x\"y\\z\n",le="+Inf"}')

    assert (series.metric, series.labels) == ("up", {"a": 'x"y\\z\n', "le": "+Inf"})


def a_pod(*counts: tuple[float, float], series: str = DEMAND) -> PodScrapes:
    """(when, count) of one series."""
    pod = PodScrapes("team", "router-gateway-1-a")
    for at, count in counts:
        pod.add(at, {series: count})
    return pod


def test_rates_are_over_the_window_alone() -> None:
    """Older samples say nothing of now."""
    pod = a_pod((0, 0), (100, 900), (115, 930), (130, 960))

    assert summed_values(r.DEMAND, [pod], 131, SCOPE) == {("team", "invoice"): 2.0}


def test_rates_take_two_samples_in_the_window() -> None:
    """One that is left of an earlier life is none."""
    assert summed_values(r.DEMAND, [a_pod((0, 0), (100, 900))], 101, SCOPE) == {}
    assert summed_values(r.DEMAND, [a_pod((0, 0), (15, 900))], 101, SCOPE) == {}


def test_pods_are_added_up_and_a_clock_that_goes_back_forgets_the_future() -> None:
    """Samples stay in order."""
    one, other = a_pod((0, 0), (15, 30)), a_pod((0, 0), (60, 500), (15, 15))

    assert summed_values(r.DEMAND, [one, other], 16, SCOPE) == {("team", "invoice"): 3.0}


def test_grown_is_since_the_scrape_before() -> None:
    """What an hour is summed up from."""
    assert summed_growth(r.DEMAND, [a_pod((0, 0), (15, 30), (30, 34))]) == {("team", "invoice"): 4.0}


def test_negative_and_absurd_rates_are_no_measurement() -> None:
    """As in Prometheus' answers."""
    rates = summed_values(r.DEMAND, [a_pod((0, 0), (15, 1e12))], 16, SCOPE)

    assert math.isnan(rates["team", "invoice"])


def test_one_pod_keeps_so_many_series() -> None:
    """A page of a million lines costs no more."""
    pod = PodScrapes("team", "pod")
    pod.add(0, {f'{m.ROUTER_DEMAND}{{policy="p",expert="e{n}"}}': 1.0 for n in range(SERIES_MAX + 10)})
    pod.add(15, {f'{m.ROUTER_DEMAND}{{policy="p",expert="e{n}"}}': 2.0 for n in range(SERIES_MAX + 10)})

    assert len(summed_values(r.DEMAND, [pod], 16, SCOPE)) == SERIES_MAX


def test_experts_of_engines_are_told_by_their_pods() -> None:
    """The ReplicaSet's hash may be cut off where the name is long; another kind's pod is no Expert's."""
    finished = f'{m.VLLM_INFERENCE_SECONDS}_count{{model_name="x",engine="0"}}'
    names = ("invoice-expert-5b6c7d-abcde", "x-expert-y-expert-5b6c7d-abcde", "long-expert-abcde", "a-fallback-1-b")
    pods: list[PodScrapes] = []
    for name in names:
        pods.append(PodScrapes("team", name))
        pods[-1].add(0, {finished: 0.0})
        pods[-1].add(15, {finished: 15.0})
    _, by_expert = r.past_work(45.0)

    assert set(summed_values(by_expert, pods, 16, SCOPE)) == {
        ("team", "invoice"),
        ("team", "x-expert-y"),
        ("team", "long"),
        ("team", ""),
    }


def test_track_is_a_ring() -> None:
    """The oldest tick is forgotten; rows that were not there were zero."""
    track = Track(3)
    for at, rows in enumerate(({("a",): 1.0}, {("a",): 2.0}, {("b",): 7.0}, {("a",): 4.0})):
        track.put(float(at), rows, [("a",), ("b",)])

    assert track.points(("a",)) == [(1.0, 2.0), (2.0, 0.0), (3.0, 4.0)]
    assert track.points(("b",)) == [(1.0, 0.0), (2.0, 7.0), (3.0, 0.0)]
    assert track.points(("c",)) == []
    assert track.sums(since=1.5) == {("a",): 4.0, ("b",): 7.0}


def test_track_forgets_rows_that_nobody_wants() -> None:
    """Those of Experts that are gone, and whatever a pod makes up."""
    track = Track(3)
    track.put(0.0, {("a",): 1.0, ("b",): 1.0}, [("a",), ("b",)])

    track.put(1.0, {("b",): 2.0, **{(str(number),): 1.0 for number in range(30_000)}}, [("b",)])

    assert track.points(("a",)) == []
    assert track.sums(since=-1.0) == {("b",): 3.0}


@given(
    st.lists(st.floats(0, 1e4), min_size=2, max_size=8),
    st.floats(0.01, 0.99),
)
def test_quantiles_lie_within_the_buckets_and_grow(rates: list[float], ratio: float) -> None:
    """Of any histogram with requests."""
    bounds = [*map(float, range(1, len(rates))), math.inf]
    below = [sum(rates[: index + 1]) for index in range(len(rates))]
    buckets = list(zip(bounds, below, strict=True))

    one, other = r.bucket_quantile(ratio / 2, buckets), r.bucket_quantile(ratio, buckets)

    assert (math.isnan(one) and below[-1] <= 0) or 0 <= one <= other <= max(1.0, bounds[-2])
