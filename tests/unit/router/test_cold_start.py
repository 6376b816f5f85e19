"""Who answers while experts are at zero, and whom a request is counted for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import pytest
from cases import a_route, a_snapshot, an_expert, an_external, some_features
from hypothesis import given
from hypothesis import strategies as st

from flotilla_api.causes import Cause
from flotilla_api.snapshot import ColdStartConfig, Endpoint, RoutingSnapshot, Target
from flotilla_router.choose import choose
from flotilla_router.decisions import Decision, Refusal
from flotilla_router.routing_table import compile_table

ENDPOINTS = (Endpoint(address="10.0.0.1:8000", pod="a"),)
Mode = Literal["Bridge", "Hold", "Reject"]


def ready(target: Target) -> bool:
    """Whoever has a replica is ready, and so is what is outside."""
    return bool(target.endpoints) or target.external is not None


def nobody(_: Target) -> bool:
    """Nobody can be reached now."""
    return False


def asleep(name: str, **changes: Any) -> Target:
    """An expert at zero that a request wakes."""
    return an_expert(name, wakes=True, **changes)


def awake(name: str, **changes: Any) -> Target:
    """The same with a replica."""
    return an_expert(name, wakes=True, endpoints=ENDPOINTS, **changes)


def a_policy(
    *experts: Target,
    mode: Mode = "Bridge",
    fallbacks: tuple[str, ...] = ("big",),
    weights: Mapping[str, int] | None = None,
    **route: Any,
) -> RoutingSnapshot:
    """A policy over these experts, with the external fallback `big`."""
    given = weights or {expert.name: 1 for expert in experts}
    snapshot = a_snapshot(a_route(given, fallbacks, **route), *experts, an_external("big"))
    return snapshot.model_copy(update={"coldStart": ColdStartConfig(mode=mode, maxHoldSeconds=5)})


def outcome(
    snapshot: RoutingSnapshot,
    *,
    waited: bool = False,
    draw: float = 0.0,
    is_ready: Callable[[Target], bool] = ready,
    **features: Any,
) -> Decision | Refusal:
    """What becomes of a request."""
    return choose(compile_table(snapshot), some_features(**features), is_ready, draw, waited=waited)


def told(decision: Decision | Refusal) -> str:
    """In a word: who answers, whom the request waits for, or the refusal's code."""
    if isinstance(decision, Refusal):
        return decision.code
    return f"waits for {decision.first.name}" if decision.first.asleep else decision.first.name


def meant_in(decision: Decision | Refusal) -> str | None:
    """The expert that the request is counted for."""
    return decision.meant.name if decision.meant else None


@pytest.mark.parametrize(
    ("mode", "fallbacks", "waited", "then"),
    [
        pytest.param("Bridge", ("big",), False, "big", id="bridged at once"),
        pytest.param("Bridge", (), False, "waits for sql", id="nobody bridges"),
        pytest.param("Bridge", (), True, "no_ready_replica", id="nobody bridges and it has waited"),
        pytest.param("Bridge", ("big",), True, "big", id="somebody bridges after all"),
        pytest.param("Hold", ("big",), False, "waits for sql", id="held"),
        pytest.param("Hold", ("big",), True, "big", id="held for long enough"),
        pytest.param("Hold", (), True, "no_ready_replica", id="held for long enough, and nobody else"),
        pytest.param("Reject", ("big",), False, "cold_start", id="rejected"),
        pytest.param("Reject", (), True, "cold_start", id="rejected by a policy that changed meanwhile"),
    ],
)
def test_the_mode_decides_who_answers_for_a_sleeping_expert(
    mode: Mode, fallbacks: tuple[str, ...], waited: bool, then: str
) -> None:
    """Whatever happens, the request is meant for the expert that sleeps."""
    decision = outcome(a_policy(asleep("sql"), mode=mode, fallbacks=fallbacks), waited=waited)

    assert told(decision) == then
    assert meant_in(decision) == "sql"


@pytest.mark.parametrize(
    ("mode", "waited", "then"),
    [
        pytest.param("Bridge", False, "waits for sql", id="Bridge"),
        pytest.param("Hold", False, "waits for sql", id="Hold"),
        pytest.param("Hold", True, "no_ready_replica", id="for long enough"),
        pytest.param("Reject", False, "cold_start", id="Reject"),
    ],
)
def test_nobody_else_answers_for_a_pinned_expert(mode: Mode, waited: bool, then: str) -> None:
    """A request for the expert's own name waits, unless the policy says that none does."""
    decision = outcome(a_policy(asleep("sql"), mode=mode), model="sql", waited=waited)

    assert told(decision) == then
    assert meant_in(decision) == "sql"


def test_a_bridge_names_its_cause() -> None:
    """Header, log and metric say ColdStart, whatever `escalation.on` lists."""
    decision = outcome(a_policy(asleep("sql"), on=()))

    assert isinstance(decision, Decision)
    assert (decision.reason, decision.cause, decision.pinned) == ("ColdStart", Cause.COLD_START, False)


@pytest.mark.parametrize("mode", [pytest.param("Reject", id="rejected"), pytest.param("Hold", id="after the wait")])
def test_a_refusal_says_when_to_come_back(mode: Mode) -> None:
    """A 503 for an expert that is being woken is never bare."""
    refusal = outcome(a_policy(asleep("sql"), mode=mode, fallbacks=()), waited=True)

    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.type, refusal.retry_after_seconds) == (503, "server_error", 10)
    assert refusal.message.startswith("Expert sql is ")
    assert "being woken" in refusal.message


def test_a_boundary_that_leaves_no_fallback_lets_the_request_wait() -> None:
    """Bridging never leaks what has to stay inside."""
    assert told(outcome(a_policy(asleep("sql")), boundary_header="LocalOnly")) == "waits for sql"


@pytest.mark.parametrize("mode", ["Bridge", "Hold", "Reject"])
@pytest.mark.parametrize(
    ("draw", "name", "meant"),
    [
        pytest.param(0.1, "invoice", "invoice", id="the share of the one that is ready"),
        pytest.param(0.6, "invoice", "sql", id="the share of the one that sleeps"),
    ],
)
def test_a_ready_expert_answers_before_anybody_waits(mode: Mode, draw: float, name: str, meant: str) -> None:
    """The share of the one that sleeps wakes it, or that share would never come back."""
    decision = outcome(a_policy(awake("invoice"), asleep("sql"), mode=mode), draw=draw)

    assert isinstance(decision, Decision)
    assert (decision.first.name, meant_in(decision), decision.cause) == (name, meant, None)


@given(
    weights=st.dictionaries(st.sampled_from("abcdef"), st.integers(1, 9), min_size=2),
    sleeping=st.sets(st.sampled_from("abcdef")),
    draw=st.floats(0, 1, exclude_max=True),
)
def test_who_is_meant_does_not_depend_on_who_sleeps(weights: dict[str, int], sleeping: set[str], draw: float) -> None:
    """Demand is that of a fleet that is awake, so an expert at zero is asked for as often as one that serves."""
    fleet = [awake(name) for name in weights]
    dozing = [asleep(name) if name in sleeping else awake(name) for name in weights]

    one, other = (outcome(a_policy(*experts, weights=weights), draw=draw) for experts in (fleet, dozing))

    assert meant_in(one) == meant_in(other) is not None
    assert isinstance(other, Decision)
    assert other.first.name == "big" or other.first.endpoints


def test_what_sleepers_leave_is_shared_by_weight() -> None:
    """Requests of a sleeping expert go to the ready ones as all others do: 1 to 3."""
    snapshot = a_policy(awake("a"), awake("b"), asleep("c"), weights={"a": 1, "b": 3, "c": 4})

    names = [told(outcome(snapshot, draw=0.5 + step / 1000)) for step in range(500)]

    assert (names.count("a"), names.count("b")) == (125, 375)


def test_an_expert_that_is_left_out_for_now_is_not_asleep() -> None:
    """A replica that refused a connection is another matter: NoReadyReplica, by `escalation.on`."""
    decision = outcome(a_policy(awake("sql")), is_ready=lambda target: target.external is not None)

    assert isinstance(decision, Decision)
    assert (decision.first.name, decision.cause) == ("big", Cause.NO_READY_REPLICA)


def test_an_expert_that_no_request_wakes_is_not_waited_for() -> None:
    """Without a replica and without a scaler there is nothing to wait for."""
    refusal = outcome(a_policy(an_expert("sql"), mode="Hold", fallbacks=()))

    assert isinstance(refusal, Refusal)
    assert (told(refusal), meant_in(refusal), refusal.retry_after_seconds) == ("no_ready_replica", "sql", None)


@pytest.mark.parametrize(
    ("fallbacks", "then"),
    [pytest.param((), "waits for sql", id="nobody else"), pytest.param(("big",), "big", id="big")],
)
def test_an_estimate_lets_no_sleeping_expert_refuse(fallbacks: tuple[str, ...], then: str) -> None:
    """A prompt that is probably too long for all of them waits for the roomiest where nobody else may have it."""
    experts = asleep("invoice", maxContextTokens=10), asleep("sql", maxContextTokens=20)

    assert told(outcome(a_policy(*experts, fallbacks=fallbacks), prompt_tokens=1000)) == then


def test_a_small_expert_that_is_ready_goes_before_a_roomy_one_that_sleeps() -> None:
    """Its own answer counts, and it is there."""
    experts = awake("invoice", maxContextTokens=10), asleep("sql", maxContextTokens=20)

    assert told(outcome(a_policy(*experts, fallbacks=()), prompt_tokens=1000)) == "invoice"


# --- whom a request is counted for


@pytest.mark.parametrize(
    ("experts", "features", "is_ready", "meant"),
    [
        pytest.param((awake("sql"),), {}, ready, "sql", id="the expert that answers"),
        pytest.param((awake("sql"),), {"model": "sql"}, ready, "sql", id="one that is pinned"),
        pytest.param((awake("sql"),), {}, nobody, "sql", id="one that nobody can reach"),
        pytest.param((awake("sql"),), {"model": "sql"}, nobody, "sql", id="one that is pinned and out of reach"),
        pytest.param((awake("sql", maxContextTokens=5),), {"prompt_tokens": 1000}, ready, "sql", id="one too small"),
        pytest.param((awake("sql", tools=False),), {"tool_count": 1}, ready, None, id="nobody who can"),
        pytest.param(
            (awake("sql", tools=False),), {"model": "sql", "tool_count": 1}, ready, None, id="a pin that cannot"
        ),
        pytest.param((), {}, ready, None, id="no experts"),
        pytest.param((awake("sql"),), {"model": "nobody"}, ready, None, id="a model that does not exist"),
    ],
)
def test_a_request_is_meant_for_the_expert_that_it_is_or_would_be_sent_to(
    experts: tuple[Target, ...], features: dict[str, Any], is_ready: Callable[[Target], bool], meant: str | None
) -> None:
    """What an expert cannot do at all is no demand for it."""
    decision = outcome(a_policy(*experts), is_ready=is_ready, **features)

    assert meant_in(decision) == meant


@pytest.mark.parametrize(("draw", "meant"), [(0.2, "invoice"), (0.3, "sql")])
def test_of_several_experts_that_are_not_ready_the_draw_names_one(draw: float, meant: str) -> None:
    """Else the heaviest would look as if all requests were its own."""
    snapshot = a_policy(an_expert("invoice"), an_expert("sql"), weights={"invoice": 1, "sql": 3})

    decision = outcome(snapshot, draw=draw)

    assert (told(decision), meant_in(decision)) == ("big", meant)
