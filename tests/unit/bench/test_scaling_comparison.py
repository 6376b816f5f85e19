"""From replays to figures: what is chosen where, and what a ratio is."""

from __future__ import annotations

from pathlib import Path

import pytest

from scaling_bench.comparison import best_hpa, geometric_mean, hindsight, ratio, tune
from scaling_bench.contenders import Baseline, Contender, Ours
from scaling_bench.measure import Result
from scaling_bench.scenarios import (
    BOUNDS,
    MEAN_REPLICAS,
    PRICES,
    REPORT_CLIENTS,
    REPORT_DAYS,
    TUNE_CLIENTS,
    TUNE_DAYS,
    Trace,
    mixed,
    report_set,
    scenario,
    tune_set,
)
from slice_bench.markdown import write_tables

ONE, OTHER = Trace("one", 1), Trace("other", 1)
LOW, HIGH = Baseline("keda", 1.0), Baseline("keda", 2.0)


def a_result(gpu_hours: float, lost: int = 0) -> Result:
    """At a dollar an hour, with a share of a dollar."""
    return Result(gpu_hours, 100, lost, 0, 0, 0, 0.5, hourly_usd=1.0, share_usd=1.0)


def test_no_client_and_no_day_is_in_both_sets() -> None:
    """What is reported was not chosen on."""
    assert not set(TUNE_CLIENTS) & set(REPORT_CLIENTS)
    assert not set(TUNE_DAYS) & set(REPORT_DAYS)
    assert {trace.client for trace in tune_set()} == set(TUNE_CLIENTS)
    assert {trace.client for trace in report_set(1)} == set(REPORT_CLIENTS)


def test_dollars_are_gpus_and_lost_and_late_requests() -> None:
    """Each once, at the price's shares."""
    result = Result(10.0, 100, 3, 2, 0, 0, 0.5, hourly_usd=0.8, share_usd=0.01)

    assert result.dollars(60) == pytest.approx(10 * 0.8 + 60 * 0.01 * 5)
    assert result.attainment == pytest.approx(0.95)


def test_tuning_takes_the_number_with_the_lowest_geometric_mean_by_price() -> None:
    """At a high price fewer losses win, at a low one fewer GPUs."""
    results: dict[tuple[Trace, Contender], Result] = {
        (trace, contender): found
        for trace in (ONE, OTHER)
        for contender, found in ((LOW, a_result(100.0)), (HIGH, a_result(60.0, lost=4)))
    }
    chosen = tune(results, [ONE, OTHER], [LOW, HIGH])

    assert chosen == {("keda", 2): HIGH, ("keda", 10): LOW, ("keda", 60): LOW}


def test_best_hpa_is_the_better_of_its_two_metrics() -> None:
    """On the tuning set, for each price."""
    waiting, concurrency = Baseline("hpa-waiting", 1), Baseline("hpa-concurrency", 10)
    results: dict[tuple[Trace, Contender], Result] = {
        (ONE, waiting): a_result(50.0),
        (ONE, concurrency): a_result(40.0, lost=2),
    }
    chosen: dict[tuple[str, float], Baseline] = {
        (each.kind, price): each for each in (waiting, concurrency) for price in PRICES
    }

    assert best_hpa(results, [ONE], chosen) == {2: concurrency, 10: waiting, 60: waiting}


def test_ratio_is_a_geometric_mean_over_traces_and_prices() -> None:
    """Twice on one trace and half on the other is the same."""
    results: dict[tuple[Trace, Contender], Result] = {(ONE, LOW): a_result(50.0), (OTHER, LOW): a_result(50.0)}
    for price in PRICES:
        results[ONE, Ours(price)], results[OTHER, Ours(price)] = a_result(100.0), a_result(25.0)

    assert ratio(results, [ONE, OTHER], Ours, lambda _: LOW) == pytest.approx(1.0)
    assert geometric_mean([2.0, 8.0]) == pytest.approx(4.0)


def test_hindsight_takes_the_best_baseline_of_each_trace() -> None:
    """Another one for each trace and price."""
    results: dict[tuple[Trace, Contender], Result] = {(ONE, LOW): a_result(100.0), (ONE, HIGH): a_result(60.0, lost=4)}
    for price in PRICES:
        results[ONE, Ours(price)] = a_result(80.0)
    found = hindsight(results, [ONE], Ours, [LOW, HIGH])

    assert found[ONE, 2] == pytest.approx(80 / 68)
    assert found[ONE, 60] == pytest.approx(80 / 100)


def test_lengths_differ_from_client_to_client_and_the_work_stays() -> None:
    """x0.4 to x2 on tokens, and rates divided by as much."""
    plain = Trace(REPORT_CLIENTS[0], 8)
    factors = {trace.factor for trace in mixed(report_set(0))}
    long = scenario(Trace(plain.client, plain.day, factor=2.0))
    short = scenario(plain)

    assert factors == {0.4, 0.7, 1.2, 2.0}
    assert long.share_usd == pytest.approx(2 * short.share_usd, rel=0.05)
    assert len(long.workload) == pytest.approx(len(short.workload) / 2, rel=0.1)
    assert short.bounds == BOUNDS
    assert set(MEAN_REPLICAS) == {*TUNE_CLIENTS, *REPORT_CLIENTS}


def test_tables_are_written_between_their_markers(tmp_path: Path) -> None:
    """What stood there goes, what is around stays; a document without the marker is an error."""
    document = tmp_path / "doc.md"
    document.write_text("a\n<!-- x: written by make bench-scaling -->\nold\n<!-- /x -->\nb\n")
    write_tables(document, {"x": "| new |"}, "bench-scaling")

    assert document.read_text() == "a\n<!-- x: written by make bench-scaling -->\n\n| new |\n\n<!-- /x -->\nb\n"
    with pytest.raises(ValueError, match="not enough values"):
        write_tables(document, {"y": "| new |"}, "bench-scaling")
