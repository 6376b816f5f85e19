"""What the cost of reading is measured on: a fleet of which everything is known."""

from __future__ import annotations

from flotilla_operator.scaling.signals import Known
from scaling_bench.reading import a_fleet, answers_about, measure_prometheus, measure_scraping, signals_from


def test_the_fleet_that_is_measured_is_known_throughout() -> None:
    """A cost of answers that nobody could use would be none."""
    fleet = a_fleet(20)

    signals = signals_from(fleet, answers_about(fleet))

    assert signals.problems == ()
    assert len(signals.experts) == 20
    assert signals.request_usd
    for found in signals.experts.values():
        known = (
            found.arrivals,
            found.running,
            found.kv_usage,
            found.tokens_per_request,
            found.queue_p95,
            found.kv_tokens,
        )
        assert all(isinstance(each, Known) for each in known)
        assert isinstance(found.lost("capacity"), Known)
        assert len(found.pods) == 3


def test_costs_are_measured() -> None:
    """Of both ways."""
    cost = measure_prometheus(3)

    assert cost.seconds > 0
    assert cost.megabytes > 0
    assert measure_scraping(2) > 0
