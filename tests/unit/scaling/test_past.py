"""The last hour, from what routers counted then."""

from __future__ import annotations

from flotilla_operator.scaling.fleet import Fleet, MeasuredPod, NamespacedName, Routers, ServedExpert
from flotilla_operator.scaling.past import Past, make_histories

SQL = NamespacedName("team", "sql")
BUSY, STAGING = NamespacedName("team", "busy"), NamespacedName("team", "staging")
PAST = Past({("team", "sql"): [(30.0, 2.0)]}, {("team", "busy"): [(15.0, 1.0), (30.0, 1.0)]}, {}, {}, 0.0, 15.0)
"""From 0 to 45 s; the gateway of one policy was scraped at two of four steps."""


def remembered(staging: Routers) -> tuple[float | None, ...]:
    """Of an Expert of two policies."""
    busy = Routers((MeasuredPod("busy-0", "", 0.0),))
    fleet = Fleet({SQL: ServedExpert((), frozenset({"busy", "staging"}))}, {BUSY: busy, STAGING: staging})
    return make_histories(PAST, fleet, until=45.0, seconds=45.0)[SQL].demand


def test_a_policy_that_never_had_a_router_hides_nothing() -> None:
    """Nobody counted for it, and nobody had anything to count."""
    assert remembered(Routers()) == (None, 0.0, 2.0, None)


def test_a_policy_whose_router_was_never_scraped_leaves_zeros_unknown() -> None:
    """It may have had requests."""
    assert remembered(Routers((MeasuredPod("staging-0", "", 0.0),))) == (None, None, 2.0, None)
