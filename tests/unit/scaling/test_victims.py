"""Which pods go when replicas go."""

from __future__ import annotations

import pytest

from flotilla_operator.scaling.fleet import PodSignals
from flotilla_operator.scaling.observe import PodState
from flotilla_operator.scaling.signals import Known, Unknown
from flotilla_operator.scaling.victims import VICTIM_COST, Marks, choose_victims, mark


def a_pod(name: str, *, age: float = 60.0, ready: bool = True, asleep: bool = False) -> PodState:
    """A pod that answers."""
    return PodState(name, f"uid-{name}", age, ready, asleep=asleep)


def busy(name: str, running: float, waiting: float = 0.0) -> PodSignals:
    """What an engine says of itself."""
    return PodSignals(name, running=Known(running), waiting=Known(waiting))


@pytest.mark.parametrize(
    ("pods", "measured", "removed", "victims"),
    [
        pytest.param([a_pod("a"), a_pod("b")], [busy("a", 3), busy("b", 0)], 1, ("b",), id="the idle one"),
        pytest.param([a_pod("a"), a_pod("b")], [busy("a", 1, 5), busy("b", 4)], 1, ("b",), id="what waits counts"),
        pytest.param(
            [a_pod("a", age=900), a_pod("b")], [busy("a", 2), busy("b", 2)], 1, ("b",), id="then the youngest"
        ),
        pytest.param([a_pod("a"), a_pod("b")], [busy("a", 9)], 1, ("a",), id="what is unknown may be busy"),
        pytest.param(
            [a_pod("a"), a_pod("b")],
            [PodSignals("a", running=Unknown("no answer")), busy("b", 9)],
            1,
            ("b",),
            id="unknown is no zero",
        ),
        pytest.param([a_pod("a"), a_pod("b", asleep=True)], [busy("a", 0)], 1, ("b",), id="what sleeps goes first"),
        pytest.param([a_pod("a"), a_pod("b", ready=False)], [], 1, (), id="pods that do not answer go by themselves"),
        pytest.param(
            [a_pod("a"), a_pod("b", ready=False), a_pod("c")], [busy("a", 1), busy("c", 2)], 2, ("a",), id="the rest"
        ),
        pytest.param([a_pod("a")], [], 5, ("a",), id="never more than there are"),
    ],
)
def test_the_pods_that_are_missed_least_go(
    pods: list[PodState], measured: list[PodSignals], removed: int, victims: tuple[str, ...]
) -> None:
    """Asleep, then fewest requests, then youngest."""
    assert choose_victims(pods, measured, removed) == victims
    assert choose_victims(pods[::-1], measured[::-1], removed) == victims


def test_only_what_differs_is_marked() -> None:
    """A victim of an earlier shrink that survived is spared, one that is chosen again is left as it is."""
    costs = {"a": VICTIM_COST, "b": VICTIM_COST, "c": "", "d": "100"}

    assert mark(("b", "c"), costs) == Marks(victims=("c",), spared=("a",))
    assert mark(("a", "b"), costs) == Marks()
