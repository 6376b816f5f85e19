"""Who answers by a learned strategy's order."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest
from cases import a_route, a_rule, a_snapshot, an_expert, an_external, some_features
from hypothesis import given, settings
from hypothesis import strategies as st

from flotilla_api.causes import Cause, ColdStartMode
from flotilla_api.snapshot import ColdStartConfig, RoutingSnapshot, Target
from flotilla_router.choose import choose
from flotilla_router.decisions import Decision, Ranking, Refusal
from flotilla_router.routing_table import compile_table

NOBODY: list[str] = []
EASY, HARD = ("small", "big"), ("big", "small")


def everyone(_: Target) -> bool:
    """Every target is ready."""
    return True


def without(*names: str) -> Callable[[Target], bool]:
    """Every target but these is ready."""
    return lambda target: target.name not in names


def a_ranking(*order: str, ratio: float = 0.0, draw: float = 0.999, **changes: Any) -> Ranking:
    """A strategy that is sure of this order."""
    fields: dict[str, Any] = {
        "strategy": "WinRate",
        "order": order,
        "possible": ((1.0, order),),
        "explore_ratio": ratio,
        "draw": draw,
    }
    return Ranking(**(fields | changes))


def a_policy(*experts: Target, fallbacks: tuple[str, ...] = ("big",), **fields: Any) -> RoutingSnapshot:
    """Experts of weight 1 and external fallbacks."""
    escalation = {key: fields.pop(key) for key in ("on",) if key in fields}
    route = a_route({target.name: 1 for target in experts}, fallbacks, **escalation)
    snapshot = a_snapshot(route, *experts, *map(an_external, fallbacks))
    return snapshot.model_copy(update=fields)


def decide(
    snapshot: RoutingSnapshot,
    ranking: Ranking | None,
    ready: Callable[[Target], bool] = everyone,
    *,
    draw: float = 0.0,
    waited: bool = False,
    **features: Any,
) -> Decision | Refusal:
    table = compile_table(snapshot)
    return choose(table, some_features(**features), ready, draw, waited=waited, ranking=ranking)


def chosen(outcome: Decision | Refusal) -> tuple[str, str, list[str]]:
    """Who answers, why, and who may after it."""
    assert isinstance(outcome, Decision), outcome
    return outcome.first.name, outcome.reason, [target.name for target in outcome.fallbacks]


def asleep(name: str, **changes: Any) -> Target:
    """An expert at zero."""
    return an_expert(name, wakes=True, **changes)


PAIR = a_policy(an_expert("small"))


@pytest.mark.parametrize(
    ("order", "answers", "meant"),
    [
        pytest.param(EASY, ("small", "WinRate", ["big"]), "small", id="easy: the weak one, which may escalate"),
        pytest.param(HARD, ("big", "WinRate", ["small"]), None, id="hard: the strong one at once"),
        pytest.param(("gone", "small"), ("small", "WinRate", ["big"]), "small", id="a name that does not exist yet"),
    ],
)
def test_the_first_eligible_model_of_the_order_answers(
    order: tuple[str, ...], answers: tuple[str, str, list[str]], meant: str | None
) -> None:
    """Nothing escalates when the strong model answers at once: that is no failure of the weak one."""
    outcome = decide(PAIR, a_ranking(*order))

    assert chosen(outcome) == answers
    assert isinstance(outcome, Decision)
    assert (outcome.meant and outcome.meant.name, outcome.cause, outcome.propensity) == (meant, None, 1.0)


def test_the_order_goes_before_weights_and_the_draw() -> None:
    """Three experts: the draw would give the first one."""
    snapshot = a_policy(an_expert("a"), an_expert("b"), an_expert("c"))

    assert chosen(decide(snapshot, a_ranking("c", "b", "a", strategy="Cluster"))) == ("c", "Cluster", ["big"])


@pytest.mark.parametrize(("use", "last"), [("UseExpert", ["small"]), ("Error", NOBODY)])
def test_experts_come_after_a_preferred_fallback_if_they_may(use: str, last: list[str]) -> None:
    """A weak answer is better than an error, unless onFallbackFailure says otherwise."""
    route = a_route({"small": 1}, ("big",), onFallbackFailure=use)
    snapshot = a_snapshot(route, an_expert("small"), an_external("big"))

    assert chosen(decide(snapshot, a_ranking(*HARD)))[2] == last


def test_a_fallback_that_is_preferred_is_followed_by_the_others() -> None:
    """The policy's order holds for the rest."""
    snapshot = a_policy(an_expert("small"), fallbacks=("one", "two", "three"))

    assert chosen(decide(snapshot, a_ranking("two", "small")))[2] == ["one", "three", "small"]


@pytest.mark.parametrize(
    ("features", "answers"),
    [
        pytest.param({"boundary_header": "LocalOnly"}, ("small", "WinRate", NOBODY), id="boundary"),
        pytest.param({"tool_count": 1}, ("other", "WinRate", NOBODY), id="tools"),
        pytest.param({"prompt_tokens": 50_000}, ("other", "WinRate", NOBODY), id="context"),
    ],
)
def test_filters_come_before_the_order(features: dict[str, Any], answers: tuple[str, str, list[str]]) -> None:
    """A model that may not or cannot answer is passed over, however much it is preferred."""
    small = an_expert("small", tools=False, maxContextTokens=8192)
    route = a_route({"small": 1, "other": 1}, ("big",))
    snapshot = a_snapshot(route, small, an_expert("other"), an_external("big", tools=False, maxContextTokens=8192))

    assert chosen(decide(snapshot, a_ranking("big", "small", "other"), **features)) == answers


def test_a_rules_models_are_those_that_are_ranked() -> None:
    """Of the order only what the rule allows is left; the rule is named beside the strategy."""
    rule = a_rule("sql", a_route({"sql": 1}, ()), minTools=1)
    snapshot = a_snapshot(
        a_route({"small": 1}, ("big",)), an_expert("small"), an_expert("sql"), an_external("big"), rules=(rule,)
    )

    outcome = decide(snapshot, a_ranking("big", "small", "sql"), tool_count=1)

    assert chosen(outcome) == ("sql", "WinRate", NOBODY)
    assert isinstance(outcome, Decision)
    assert outcome.rule == "sql"


def test_where_nothing_of_the_order_is_eligible_the_weights_decide() -> None:
    """A rule of models that the artifact does not know is a draw, as without a strategy."""
    snapshot = a_policy(an_expert("a"), an_expert("b"))

    outcome = decide(snapshot, a_ranking("x", "y"), draw=0.7)

    assert chosen(outcome) == ("b", "Static", ["big"])
    assert isinstance(outcome, Decision)
    assert outcome.propensity == 0.5


def test_a_model_of_weight_0_is_for_those_who_ask_by_name() -> None:
    """No strategy chooses it."""
    route = a_route({"small": 1, "idle": 0}, ())
    snapshot = a_snapshot(route, an_expert("small"), an_expert("idle"))

    assert chosen(decide(snapshot, a_ranking("idle", "small")))[0] == "small"


def test_a_pinned_model_answers_whatever_the_order() -> None:
    """It was asked for by name, so there is no choice whose probability could be told."""
    outcome = decide(PAIR, a_ranking(*HARD), model="small")

    assert chosen(outcome)[:2] == ("small", "Pinned")
    assert isinstance(outcome, Decision)
    assert outcome.propensity is None


# --- models that do not answer now


def test_an_expert_without_a_ready_replica_is_left_for_the_next_fallback_with_its_cause() -> None:
    """The scaler has to see it: the request was meant for the expert."""
    outcome = decide(PAIR, a_ranking(*EASY), without("small"))

    assert chosen(outcome) == ("big", "NoReadyReplica", [])
    assert isinstance(outcome, Decision)
    assert (outcome.meant and outcome.meant.name, outcome.cause) == ("small", Cause.NO_READY_REPLICA)


def test_a_cause_that_is_not_in_on_lets_no_fallback_answer() -> None:
    """As without a strategy, the request is refused."""
    causes = tuple(cause for cause in Cause if cause is not Cause.NO_READY_REPLICA)

    outcome = decide(a_policy(an_expert("small"), on=causes), a_ranking(*EASY), without("small"))

    assert isinstance(outcome, Refusal)
    assert outcome.code == "no_ready_replica"


def test_the_next_expert_stands_in_for_one_that_is_not_ready() -> None:
    """It needs no cause, and the demand is that of the one which was preferred."""
    snapshot = a_policy(an_expert("a"), an_expert("b"), on=())

    outcome = decide(snapshot, a_ranking("a", "b"), without("a"))

    assert chosen(outcome)[:2] == ("b", "WinRate")
    assert isinstance(outcome, Decision)
    assert outcome.meant is not None
    assert outcome.meant.name == "a"


def test_a_preferred_fallback_that_is_not_ready_is_replaced_by_the_expert() -> None:
    """A hard prompt gets the weak model's answer rather than none."""
    assert chosen(decide(PAIR, a_ranking(*HARD), without("big"))) == ("small", "WinRate", NOBODY)


@pytest.mark.parametrize(
    ("mode", "waited", "reason", "first"),
    [
        pytest.param("Bridge", False, "ColdStart", "big", id="bridged"),
        pytest.param("Hold", False, "WinRate", "small", id="it waits"),
        pytest.param("Hold", True, "ColdStart", "big", id="it has waited"),
    ],
)
def test_a_sleeping_expert_is_woken_and_coldstart_says_who_answers(
    mode: ColdStartMode, waited: bool, reason: str, first: str
) -> None:
    """The same table as without a strategy."""
    snapshot = a_policy(asleep("small"), coldStart=ColdStartConfig(mode=mode))

    outcome = decide(snapshot, a_ranking(*EASY), without("small"), waited=waited)

    assert chosen(outcome)[:2] == (first, reason)
    assert isinstance(outcome, Decision)
    assert outcome.meant is not None
    assert outcome.meant.name == "small"


def test_a_ready_expert_stands_in_for_a_sleeping_one() -> None:
    """The sleeping one is woken all the same."""
    snapshot = a_policy(asleep("a"), an_expert("b"))

    outcome = decide(snapshot, a_ranking("a", "b", "big"), without("a"))

    assert chosen(outcome)[:2] == ("b", "WinRate")
    assert isinstance(outcome, Decision)
    assert outcome.meant is not None
    assert outcome.meant.asleep


def test_a_sleeping_expert_that_is_not_preferred_sleeps_on() -> None:
    """A hard prompt is not meant for it."""
    outcome = decide(a_policy(asleep("small")), a_ranking(*HARD), without("small"))

    assert chosen(outcome)[:2] == ("big", "WinRate")
    assert isinstance(outcome, Decision)
    assert outcome.meant is None


# --- exploration and propensities


def test_an_explored_model_is_any_of_the_eligible_ones() -> None:
    """Half of the explored draws go to the other model; each says so, with its probability."""
    outcomes = [decide(PAIR, a_ranking(*EASY, ratio=0.1, draw=draw)) for draw in (0.04, 0.06, 0.5)]

    assert [chosen(outcome)[:2] for outcome in outcomes] == [
        ("small", "Explored"),
        ("big", "Explored"),
        ("small", "WinRate"),
    ]
    propensities = [outcome.propensity for outcome in outcomes if isinstance(outcome, Decision)]
    assert propensities == pytest.approx([0.95, 0.05, 0.95])


def test_exploration_stays_inside_the_boundary() -> None:
    """With LocalOnly there is nothing to explore, so the choice is certain."""
    outcome = decide(PAIR, a_ranking(*EASY, ratio=1.0, draw=0.9), boundary_header="LocalOnly")

    assert chosen(outcome)[0] == "small"
    assert isinstance(outcome, Decision)
    assert outcome.propensity == 1.0


def test_exploration_wakes_nobody() -> None:
    """A sleeping expert is no candidate for a random choice."""
    snapshot = a_policy(asleep("small"), an_expert("other"))

    for draw in (0.0, 0.3, 0.6, 0.99):
        outcome = decide(snapshot, a_ranking("other", "small", "big", ratio=1.0, draw=draw), without("small"))
        assert chosen(outcome)[0] in {"other", "big"}


def test_what_might_have_been_preferred_counts_by_its_probability() -> None:
    """A tenth of the sessions try an artifact that prefers the strong model."""
    ranking = a_ranking(*EASY, possible=((0.9, EASY), (0.1, HARD)))
    tried = a_ranking(*HARD, possible=((0.9, EASY), (0.1, HARD)))

    first, second = decide(PAIR, ranking), decide(PAIR, tried)

    assert isinstance(first, Decision)
    assert isinstance(second, Decision)
    assert (first.propensity, second.propensity) == pytest.approx((0.9, 0.1))


def test_a_draw_by_weight_has_its_share_as_propensity() -> None:
    """Of two eligible experts with weights 1 and 3; a third one is not ready."""
    route = a_route({"a": 1, "b": 3, "c": 4}, ())
    snapshot = a_snapshot(route, an_expert("a"), an_expert("b"), an_expert("c"))

    outcomes = [decide(snapshot, None, without("c"), draw=draw) for draw in (0.1, 0.9)]

    assert [outcome.propensity for outcome in outcomes if isinstance(outcome, Decision)] == [0.25, 0.75]


DRAWS = [(cell + 0.5) / 48 for cell in range(48)]
"""Of exploration: shares of a quarter, a half or all of the requests, in up to four parts, end between them."""
WEIGHTS = [(cell + 0.5) / 16 for cell in range(16)]
"""Of weights 1 and 3, and of what is left of such a draw."""
ORDERS = st.lists(st.sampled_from(["a", "b", "big", "huge", "x"]), unique=True, max_size=4).map(tuple)


@given(
    orders=st.tuples(ORDERS, ORDERS),
    share=st.sampled_from([0.25, 0.5, 1.0]),
    ratio=st.sampled_from([0.0, 0.25, 0.5, 1.0]),
    missing=st.sets(st.sampled_from(["a", "b", "big", "huge"])),
    sleeping=st.sets(st.sampled_from(["a", "b"])),
    small=st.sets(st.sampled_from(["a", "b"])),
    on=st.sampled_from([tuple(Cause), (Cause.NO_READY_REPLICA,), ()]),
    mode=st.sampled_from(["Bridge", "Hold", "Reject"]),
    waited=st.booleans(),
)
@settings(max_examples=150, deadline=None)
def test_choices_happen_exactly_as_often_as_their_propensity_says(
    *,
    orders: tuple[tuple[str, ...], tuple[str, ...]],
    share: float,
    ratio: float,
    missing: set[str],
    sleeping: set[str],
    small: set[str],
    on: tuple[Cause, ...],
    mode: ColdStartMode,
    waited: bool,
) -> None:
    """Of all draws together, whoever is missing, asleep or too small, and whatever models a canary's artifact knows."""
    experts = [
        an_expert(name, wakes=name in sleeping, maxContextTokens=100 if name in small else None) for name in ("a", "b")
    ]
    snapshot = a_snapshot(
        a_route({"a": 1, "b": 3}, ("big", "huge"), on=on), *experts, an_external("big"), an_external("huge")
    ).model_copy(update={"coldStart": ColdStartConfig(mode=mode)})
    table, ready = compile_table(snapshot), without(*missing, *sleeping)
    possible = ((share, orders[0]), (1 - share, orders[1]))
    happens: dict[str, float] = {}
    told: dict[str, set[float | None]] = {}
    for probability, order in possible:
        for draw, weight in product(DRAWS if ratio else DRAWS[-1:], WEIGHTS):
            ranking = a_ranking(*order, ratio=ratio, draw=draw, possible=possible)
            features = some_features(prompt_tokens=1_000)
            outcome = choose(table, features, ready, weight, waited=waited, ranking=ranking)
            if isinstance(outcome, Decision) and probability:
                name, cells = outcome.first.name, 16 * (48 if ratio else 1)
                happens[name] = happens.get(name, 0.0) + probability / cells
                told.setdefault(name, set()).add(outcome.propensity)

    for name, logged in told.items():
        assert list(logged) == [pytest.approx(happens[name])] * len(logged), name
