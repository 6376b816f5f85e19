"""Who answers."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

import pytest
from cases import Json, a_route, a_rule, a_snapshot, a_target, an_expert, an_external, some_features
from hypothesis import given
from hypothesis import strategies as st

from flotilla_api.causes import Cause
from flotilla_api.snapshot import Route, RoutingSnapshot, RuleRoute, Target
from flotilla_router.choose import choose, choose_relayed
from flotilla_router.decisions import Decision, Refusal
from flotilla_router.routing_table import compile_table, visible_models
from flotilla_router.strategies import Candidate, static

NOT_READY = tuple(cause for cause in Cause if cause is not Cause.NO_READY_REPLICA)
NOT_OVERFLOW = tuple(cause for cause in Cause if cause is not Cause.CONTEXT_OVERFLOW)


def everyone(_: Target) -> bool:
    """Every target is ready."""
    return True


def without(*names: str) -> Callable[[Target], bool]:
    """Every target but these is ready."""
    return lambda target: target.name not in names


def decide(
    snapshot: RoutingSnapshot, ready: Callable[[Target], bool] = everyone, draw: float = 0.0, **features: Any
) -> Decision:
    """The decision, which must be one."""
    outcome = choose(compile_table(snapshot), some_features(**features), ready, draw)
    assert isinstance(outcome, Decision), outcome
    return outcome


def refuse(snapshot: RoutingSnapshot, ready: Callable[[Target], bool] = everyone, **features: Any) -> Refusal:
    """The refusal, which must be one."""
    outcome = choose(compile_table(snapshot), some_features(**features), ready, 0.0)
    assert isinstance(outcome, Refusal), outcome
    return outcome


def a_policy(
    *targets: Target, fallbacks: tuple[str, ...] = ("big",), rules: tuple[RuleRoute, ...] = (), **escalation: Any
) -> RoutingSnapshot:
    """A policy over these experts, with the external fallback `big`."""
    weights = {target.name: 1 for target in targets if target.kind == "Expert"}
    route = a_route(weights, fallbacks, **escalation)
    return a_snapshot(route, *targets, an_external("big"), rules=rules)


# --- the draw


@pytest.mark.parametrize(
    ("draw", "name"),
    [
        pytest.param(0.0, "invoice", id="the start"),
        pytest.param(0.249, "invoice", id="within the first quarter"),
        pytest.param(0.25, "sql", id="after it"),
        pytest.param(0.999999, "sql", id="the end"),
    ],
)
def test_alias_draws_an_expert_by_weight(draw: float, name: str) -> None:
    """Weights 1 and 3 share the draw as a quarter and the rest; 0 has no share."""
    route = a_route({"sql": 3, "invoice": 1, "idle": 0}, ("big",))
    snapshot = a_snapshot(route, an_expert("invoice"), an_expert("sql"), an_expert("idle"), an_external("big"))

    decision = decide(snapshot, draw=draw)

    assert (decision.first.name, decision.reason, decision.rule, decision.pinned) == (name, "Static", None, False)
    assert [target.name for target in decision.fallbacks] == ["big"]
    assert decision.cause is None


@given(weights=st.lists(st.integers(1, 1_000_000), min_size=1, max_size=64), draw=st.floats(0, 1, exclude_max=True))
def test_static_scores_are_shares(weights: list[int], draw: float) -> None:
    """Scores lie in [0, 1] and add up to 1, and every draw picks somebody."""
    candidates = [Candidate(an_expert(f"e{index}"), weight) for index, weight in enumerate(weights)]

    scores = static.score(candidates)

    assert all(0 <= value <= 1 for value in scores)
    assert sum(scores) == pytest.approx(1)
    assert 0 <= static.pick(scores, draw) < len(weights)


@given(seed=st.integers(0, 1000), draw=st.floats(0, 1, exclude_max=True), down=st.sets(st.sampled_from("abcd")))
def test_choice_does_not_depend_on_the_order_in_a_spec(seed: int, draw: float, down: set[str]) -> None:
    """Shuffled targets and experts give the same decision."""
    weights = {"a": 1, "b": 2, "c": 3, "d": 0}
    targets = [*(an_expert(name) for name in weights), an_external("big")]
    shuffled, names = list(targets), list(weights)
    Random(seed).shuffle(shuffled)
    Random(seed).shuffle(names)
    one = a_snapshot(a_route(weights, ("big",)), *targets)
    other = a_snapshot(a_route({name: weights[name] for name in names}, ("big",)), *shuffled)

    first, second = (decide(snapshot, without(*down), draw) for snapshot in (one, other))

    assert (first.first, first.fallbacks, first.reason) == (second.first, second.fallbacks, second.reason)


# --- rules

TO_SQL: Route = a_route({"sql": 1}, ("big",))


@pytest.mark.parametrize(
    ("when", "headers", "features", "matches"),
    [
        pytest.param({"minTools": 1}, {}, {"tool_count": 1}, True, id="enough tools"),
        pytest.param({"minTools": 2}, {}, {"tool_count": 1}, False, id="too few tools"),
        pytest.param({"maxTools": 0}, {}, {"tool_count": 1}, False, id="too many tools"),
        pytest.param({"minPromptTokens": 100}, {}, {}, True, id="min is included"),
        pytest.param({"belowPromptTokens": 100}, {}, {}, False, id="below is excluded"),
        pytest.param({"models": ("auto",)}, {}, {}, True, id="the alias"),
        pytest.param({"models": ("gpt-4o-mini",)}, {}, {}, False, id="another alias"),
        pytest.param({}, {"x-task": ("extract", "sum")}, {"headers": {"x-task": "sum"}}, True, id="a header"),
        pytest.param({}, {"x-task": ("extract",)}, {"headers": {"x-task": "Extract"}}, False, id="values are exact"),
        pytest.param({}, {"x-task": ("sum",)}, {"headers": {"x-task": "read, sum"}}, True, id="a member of a list"),
        pytest.param({}, {"x-task": ("sum",)}, {"headers": {"x-task": "sums, read"}}, False, id="no member of a list"),
        pytest.param({}, {"x-task": ("extract",)}, {}, False, id="no header"),
        pytest.param({"minTools": 1}, {"x-task": ("extract",)}, {"tool_count": 1}, False, id="one of two conditions"),
    ],
)
def test_rule_holds_when_all_its_conditions_do(
    when: Json, headers: dict[str, tuple[str, ...]], features: Json, matches: bool
) -> None:
    """Conditions are ANDed; without a match the policy's own experts answer."""
    rule = a_rule("to-sql", TO_SQL, headers=headers, **when)
    snapshot = a_snapshot(a_route({"invoice": 1}, ("big",)), an_expert("invoice"), an_expert("sql"), rules=(rule,))

    decision = decide(snapshot, **features)

    expected = ("sql", "Rule/to-sql", "to-sql") if matches else ("invoice", "Static", None)
    assert (decision.first.name, decision.reason, decision.rule) == expected


def test_first_rule_that_matches_decides() -> None:
    """There is no fall-through: a rule whose experts are down leads to its fallbacks, not to the next rule."""
    rules = (a_rule("first", TO_SQL, minTools=0), a_rule("second", a_route({"invoice": 1}), minTools=0))
    decision = decide(a_policy(an_expert("invoice"), an_expert("sql"), rules=rules), without("sql"))

    assert (decision.rule, decision.first.name, decision.cause) == ("first", "big", Cause.NO_READY_REPLICA)


def test_rule_brings_its_own_escalation() -> None:
    """The route of the decision is the rule's."""
    rule = a_rule("careful", a_route({"sql": 1}, ("big",), minConfidence=0.9), minTools=0)

    assert decide(a_policy(an_expert("sql"), rules=(rule,))).route.escalation.minConfidence == 0.9


@pytest.mark.parametrize(
    ("rules", "reason", "rule"),
    [
        pytest.param((), "FallbackOnly", None, id="a policy without experts"),
        pytest.param(
            (a_rule("straight", a_route({}, ("big",)), minTools=0),), "Rule/straight", "straight", id="a rule"
        ),
    ],
)
def test_route_without_experts_goes_straight_to_its_fallbacks(
    rules: tuple[RuleRoute, ...], reason: str, rule: str | None
) -> None:
    """That is what the policy says, not an escalation."""
    decision = decide(a_policy(rules=rules))

    assert (decision.first.name, decision.reason, decision.rule, decision.cause) == ("big", reason, rule, None)
    assert decision.fallbacks == ()


def test_expert_of_weight_zero_is_only_for_pins() -> None:
    """A route whose experts all have weight 0 has none."""
    snapshot = a_snapshot(a_route({"idle": 0}, ("big",)), an_expert("idle"), an_external("big"))

    assert (decide(snapshot).first.name, decide(snapshot).reason) == ("big", "FallbackOnly")


# --- filters


@pytest.mark.parametrize(
    ("expert", "features", "reason", "cause"),
    [
        pytest.param({"apis": ("completions",)}, {}, "Capability", None, id="another api"),
        pytest.param({"tools": False}, {"tool_count": 1}, "Capability", None, id="no tools"),
        pytest.param({"jsonSchema": False}, {"json_schema": True}, "Capability", None, id="no JSON schema"),
        pytest.param(
            {"maxContextTokens": 1000},
            {"prompt_tokens": 2000},
            "ContextOverflow",
            Cause.CONTEXT_OVERFLOW,
            id="too long",
        ),
        pytest.param(
            {"maxContextTokens": 1000},
            {"prompt_tokens": 100, "max_tokens": 990},
            "ContextOverflow",
            Cause.CONTEXT_OVERFLOW,
            id="with what it may answer",
        ),
    ],
)
def test_expert_that_cannot_answer_is_left_out(expert: Json, features: Json, reason: str, cause: Cause | None) -> None:
    """Another expert answers; without one, the fallback."""
    unfit = an_expert("a-small", **expert)

    beside = decide(a_policy(unfit, an_expert("sql")), **features)
    alone = decide(a_policy(unfit), **features)

    assert (beside.first.name, beside.cause) == ("sql", None)
    assert (alone.first.name, alone.reason, alone.cause) == ("big", reason, cause)


@pytest.mark.parametrize(
    ("prompt_tokens", "max_tokens"),
    [pytest.param(1400, None, id="an estimate 40 % over"), pytest.param(1000, 300, id="with what it may answer")],
)
def test_prompt_that_may_fit_is_not_sent_away(prompt_tokens: int, max_tokens: int | None) -> None:
    """An estimate is only good to 30 %: the engine itself says what is too long."""
    decision = decide(
        a_policy(an_expert("small", maxContextTokens=1000)), prompt_tokens=prompt_tokens, max_tokens=max_tokens
    )

    assert decision.first.name == "small"


@pytest.mark.parametrize(
    "snapshot",
    [
        pytest.param(
            a_policy(an_expert("a", maxContextTokens=10), an_expert("b", maxContextTokens=50), on=NOT_OVERFLOW),
            id="no cause",
        ),
        pytest.param(
            a_policy(an_expert("a", maxContextTokens=10), an_expert("b", maxContextTokens=50), fallbacks=()),
            id="no fallback",
        ),
    ],
)
def test_estimate_never_refuses(snapshot: RoutingSnapshot) -> None:
    """Where a long prompt may go nowhere else, the roomiest expert gets it, and its own answer counts."""
    decision = decide(snapshot, prompt_tokens=5000)

    assert (decision.first.name, decision.cause) == ("b", None)


def test_expert_without_a_ready_replica_is_left_out() -> None:
    """The others share its part of the draw."""
    assert decide(a_policy(an_expert("a"), an_expert("b")), without("a"), draw=0.1).first.name == "b"


def test_no_ready_expert_goes_to_the_first_ready_fallback() -> None:
    """NoReadyReplica is the cause, and the remaining fallbacks follow in order."""
    served, other = a_target("Fallback", "served"), an_external("other")
    route = a_route({"a": 1}, ("served", "big", "other"))
    decision = decide(a_snapshot(route, an_expert("a"), served, an_external("big"), other), without("a", "served"))

    assert (decision.first.name, decision.reason, decision.cause) == ("big", "NoReadyReplica", Cause.NO_READY_REPLICA)
    assert [target.name for target in decision.fallbacks] == ["other"]


def test_fallbacks_pass_the_same_filters() -> None:
    """A fallback that cannot serve the request is not among those that may."""
    route = a_route({"a": 1}, ("chat-only", "big"))
    snapshot = a_snapshot(route, an_expert("a"), an_external("chat-only", apis=("chat",)), an_external("big"))

    assert [target.name for target in decide(snapshot, api="completions").fallbacks] == ["big"]


def test_names_without_a_target_are_left_out() -> None:
    """An expert or fallback that does not exist yet is as good as not named."""
    route = a_route({"a": 1, "missing": 5}, ("absent", "big"))
    decision = decide(a_snapshot(route, an_expert("a"), an_external("big")), draw=0.9)

    assert (decision.first.name, [target.name for target in decision.fallbacks]) == ("a", ["big"])


# --- boundaries

LOCAL = a_route({"a": 1}, ("big", "own"), boundary="LocalOnly")
ANYWHERE = a_route({"a": 1}, ("big", "own"))


@pytest.mark.parametrize(
    ("policy", "rule", "header", "names"),
    [
        pytest.param(ANYWHERE, None, None, ["big", "own"], id="anywhere"),
        pytest.param(LOCAL, None, None, ["own"], id="the policy"),
        pytest.param(ANYWHERE, LOCAL, None, ["own"], id="a rule"),
        pytest.param(LOCAL, ANYWHERE, None, ["own"], id="a rule cannot loosen the policy"),
        pytest.param(ANYWHERE, None, "LocalOnly", ["own"], id="the header"),
        pytest.param(LOCAL, None, "Any", ["own"], id="the header cannot loosen"),
    ],
)
def test_strictest_boundary_wins(policy: Route, rule: Route | None, header: str | None, names: list[str]) -> None:
    """LocalOnly of the policy, a rule or the header keeps requests from external fallbacks."""
    rules = (a_rule("r", rule, minTools=0),) if rule else ()
    targets = an_expert("a"), an_external("big"), a_target("Fallback", "own")

    decision = decide(a_snapshot(policy, *targets, rules=rules), boundary_header=header)

    assert [target.name for target in decision.fallbacks] == names
    assert decision.boundary == ("Any" if len(names) == 2 else "LocalOnly")


# --- pins


def test_experts_name_pins_it() -> None:
    """Rules, weights and escalation are skipped: nobody but the expert answers."""
    rule = a_rule("all", a_route({"a": 1}, ("big",)), minTools=0)
    route = a_route({"a": 1, "idle": 0}, ("big",))
    decision = decide(
        a_snapshot(route, an_expert("a"), an_expert("idle"), an_external("big"), rules=(rule,)), model="idle"
    )

    assert (decision.first.name, decision.pinned, decision.reason, decision.rule) == ("idle", True, "Pinned", None)
    assert decision.fallbacks == ()


def test_pinnable_fallback_may_be_asked_for() -> None:
    """Only those in `pinnable` are models of their own."""
    route = a_route({"a": 1}, ("big", "other"))
    snapshot = a_snapshot(route, an_expert("a"), an_external("big"), an_external("other"), pinnable=("big",))

    assert decide(snapshot, model="big").first.name == "big"
    assert refuse(snapshot, model="other").code == "model_not_found"


def test_pin_never_skips_a_rules_boundary() -> None:
    """A rule that keeps private data local keeps it local for a pinned external fallback too."""
    private = a_rule("private", a_route({"a": 1}, boundary="LocalOnly"), headers={"x-data-class": ("pii",)})
    snapshot = a_snapshot(
        a_route({"a": 1}, ("big",)), an_expert("a"), an_external("big"), rules=(private,), pinnable=("big",)
    )

    refusal = refuse(snapshot, model="big", headers={"x-data-class": "pii"})

    assert (refusal.status, refusal.code) == (403, "boundary")


def test_pin_leaves_a_long_prompt_to_the_engine() -> None:
    """The client asked for exactly this model, so its own answer counts."""
    assert decide(a_policy(an_expert("a", maxContextTokens=10)), model="a", prompt_tokens=9999).first.name == "a"


# --- refusals


NOBODY = "No model may answer this chat request: "


@pytest.mark.parametrize(
    ("snapshot", "ready", "features", "expected"),
    [
        pytest.param(
            a_policy(an_expert("a")),
            everyone,
            {"model": "gpt-5"},
            (404, "model_not_found", "The model `gpt-5` does not exist. Models here: auto, a."),
            id="an unknown model",
        ),
        pytest.param(
            a_policy(an_expert("a")),
            everyone,
            {"boundary_header": "local"},
            (400, "invalid_boundary", 'x-flotilla-boundary is "local"; it must be LocalOnly or Any.'),
            id="an unknown boundary",
        ),
        pytest.param(
            a_policy(an_expert("a"), on=NOT_READY),
            without("a"),
            {},
            (
                503,
                "no_ready_replica",
                NOBODY + "Expert a has no ready replica; Fallback big is not escalated to for this.",
            ),
            id="not ready, and that is no cause",
        ),
        pytest.param(
            a_policy(an_expert("a")),
            without("a"),
            {"boundary_header": "LocalOnly"},
            (
                503,
                "no_ready_replica",
                NOBODY + "Expert a has no ready replica; Fallback big is outside the boundary LocalOnly.",
            ),
            id="not ready, and the fallback is outside",
        ),
        pytest.param(
            a_policy(),
            everyone,
            {"boundary_header": "LocalOnly"},
            (403, "boundary", NOBODY + "Fallback big is outside the boundary LocalOnly."),
            id="only outside",
        ),
        pytest.param(
            a_policy(an_expert("a", tools=False), fallbacks=()),
            everyone,
            {"tool_count": 2},
            (400, "no_capable_model", NOBODY + "Expert a takes no tools."),
            id="nobody can",
        ),
        pytest.param(
            a_policy(an_expert("a")),
            without("a"),
            {"model": "a"},
            (503, "no_ready_replica", NOBODY + "Expert a has no ready replica."),
            id="a pin that is not ready",
        ),
        pytest.param(
            a_policy(an_expert("a", jsonSchema=False)),
            everyone,
            {"model": "a", "json_schema": True},
            (400, "no_capable_model", NOBODY + "Expert a cannot constrain its answer to JSON or a grammar."),
            id="a pin that cannot",
        ),
        pytest.param(
            a_snapshot(a_route({"missing": 1}, ("absent",))),
            everyone,
            {},
            (503, "no_model", "None of the policy's models exists yet."),
            id="nothing exists",
        ),
    ],
)
def test_refusal_names_what_removed_each_model(
    snapshot: RoutingSnapshot, ready: Callable[[Target], bool], features: Json, expected: tuple[int, str, str]
) -> None:
    """A person who reads the message knows what to change."""
    refusal = refuse(snapshot, ready, **features)

    assert (refusal.status, refusal.code, refusal.message) == expected


def test_visible_models_are_what_may_be_asked_for() -> None:
    """Aliases first, then experts and pinnable fallbacks by name; nothing that makes vectors for the router alone."""
    route = a_route({"sql": 1, "invoice": 0, "embed": 1}, ("big", "other"))
    embed = an_expert("embed", apis=("embeddings",))
    targets = an_expert("sql"), an_expert("invoice"), embed, an_external("big"), an_external("other")

    assert visible_models(compile_table(a_snapshot(route, *targets, pinnable=("big",)))) == [
        "auto",
        "big",
        "invoice",
        "sql",
    ]


# --- sidecars


def relay(snapshot: RoutingSnapshot, ready: Callable[[Target], bool] = everyone, **features: Any) -> Decision | Refusal:
    """What a sidecar gets that asks for a model by name."""
    return choose_relayed(compile_table(snapshot), some_features(**features), ready)


def test_sidecar_may_ask_for_an_external_fallback_that_nobody_else_may_pin() -> None:
    """Rules and weights are its own business: the fallback answers, or nobody does."""
    rule = a_rule("private", a_route({"sql": 1}, (), boundary="LocalOnly"))
    decision = relay(a_policy(an_expert("sql"), rules=(rule,)), model="big")

    assert isinstance(decision, Decision)
    assert (decision.first.name, decision.reason, decision.rule, decision.pinned) == ("big", "Relayed", None, True)
    assert (decision.fallbacks, decision.boundary) == ((), "Any")


@pytest.mark.parametrize(
    ("model", "header", "status", "code"),
    [
        pytest.param("auto", None, 404, "model_not_found", id="no alias"),
        pytest.param("sql", None, 404, "model_not_found", id="no expert"),
        pytest.param("local", None, 404, "model_not_found", id="no served fallback"),
        pytest.param("other", None, 404, "model_not_found", id="nothing that the policy does not name"),
        pytest.param("big", "LocalOnly", 403, "boundary", id="nothing outside its boundary"),
        pytest.param("big", "Nowhere", 400, "invalid_boundary", id="no boundary that is none"),
    ],
)
def test_sidecar_may_ask_for_nothing_else(model: str, header: str | None, status: int, code: str) -> None:
    """Whatever else the policy has is the sidecar's to call."""
    served = an_expert("local").model_copy(update={"kind": "Fallback"})
    snapshot = a_policy(an_expert("sql"), served, fallbacks=("local", "big"))
    refusal = relay(snapshot, model=model, boundary_header=header)

    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (status, code)


def test_policys_own_boundary_holds_for_sidecars() -> None:
    """Also if a sidecar, whose snapshot may be older, says otherwise."""
    route = a_route({"sql": 1}, ("big",), boundary="LocalOnly")
    refusal = relay(a_snapshot(route, an_expert("sql"), an_external("big")), model="big", boundary_header="Any")

    assert isinstance(refusal, Refusal)
    assert refusal.status == 403


def test_fallback_that_cannot_be_called_is_a_503_to_a_sidecar() -> None:
    """Its credential is not mounted, or it has asked for a pause."""
    refusal = relay(a_policy(an_expert("sql")), without("big"), model="big")

    assert isinstance(refusal, Refusal)
    assert (refusal.status, refusal.code) == (503, "no_ready_replica")
