"""Routes of a snapshot: the policy's fields with a rule's in their place, and every default resolved."""

from __future__ import annotations

from collections.abc import Container

from flotilla_api import policy as api
from flotilla_api.meta import parse_bytes, parse_duration_seconds
from flotilla_api.snapshot import (
    ColdStartConfig,
    Conditions,
    EscalationConfig,
    HeaderCondition,
    Route,
    RuleRoute,
    TimeoutConfig,
    WeightedTarget,
)

Known = Container[tuple[str, str]]
"""(kind, name) of the targets that exist."""

_NO_ESCALATION = api.Escalation.model_validate({})
_NO_COMMIT = api.Commit.model_validate({})
_NO_STRUCTURED = api.StructuredCommit.model_validate({})
_NO_TIMEOUTS = api.Timeouts.model_validate({})
_NO_COLD_START = api.ColdStart.model_validate({})


def make_route(spec: api.RoutingPolicySpec, rule: api.Rule | None, known: Known) -> Route:
    """The policy's route, or that of `rule`: what it sets replaces the policy's field; the stricter boundary wins."""
    experts = spec.experts if rule is None or rule.experts is None else rule.experts
    fallbacks = spec.fallbacks if rule is None or rule.fallbacks is None else rule.fallbacks
    escalation = spec.escalation if rule is None or rule.escalation is None else rule.escalation
    boundaries = (spec.boundary or api.DEFAULT_BOUNDARY, rule and rule.boundary)
    return Route(
        experts=_weighted(experts, known),
        fallbacks=tuple(each.name for each in fallbacks or () if ("Fallback", each.name) in known),
        boundary="LocalOnly" if "LocalOnly" in boundaries else "Any",
        escalation=make_escalation(escalation or _NO_ESCALATION),
    )


def make_rules(spec: api.RoutingPolicySpec, known: Known) -> tuple[RuleRoute, ...]:
    """Every rule with its route, in the order in which they are tried."""
    return tuple(
        RuleRoute(name=rule.name, when=_conditions(rule.when), route=make_route(spec, rule, known))
        for rule in spec.rules or ()
    )


def make_escalation(escalation: api.Escalation) -> EscalationConfig:
    """Escalation in seconds and bytes."""
    commit = escalation.commit or _NO_COMMIT
    structured = commit.structured or _NO_STRUCTURED
    wanted = api.DEFAULT_CAUSES if escalation.on is None else escalation.on
    confidence = escalation.confidence.min if escalation.confidence else api.DEFAULT_MIN_CONFIDENCE
    return EscalationConfig(
        on=tuple(cause for cause in api.Cause if cause in wanted),
        commitTokens=commit.tokens or api.DEFAULT_COMMIT_TOKENS,
        commitMaxWaitSeconds=parse_duration_seconds(commit.maxWait or api.DEFAULT_COMMIT_MAX_WAIT),
        noSignal=commit.noSignal or api.DEFAULT_NO_SIGNAL,
        structuredMaxWaitSeconds=parse_duration_seconds(structured.maxWait or api.DEFAULT_STRUCTURED_MAX_WAIT),
        structuredMaxBytes=parse_bytes(structured.maxBytes or api.DEFAULT_STRUCTURED_MAX_BYTES),
        minConfidence=float(confidence),
        deadlineSeconds=parse_duration_seconds(escalation.deadline or api.DEFAULT_DEADLINE),
        onFallbackFailure=escalation.onFallbackFailure or api.DEFAULT_ON_FALLBACK_FAILURE,
    )


def make_timeouts(timeouts: api.Timeouts | None) -> TimeoutConfig:
    """Timeouts in seconds."""
    given = timeouts or _NO_TIMEOUTS
    return TimeoutConfig(
        connectSeconds=parse_duration_seconds(given.connect or api.DEFAULT_CONNECT_TIMEOUT),
        firstTokenSeconds=parse_duration_seconds(given.firstToken or api.DEFAULT_FIRST_TOKEN_TIMEOUT),
        idleSeconds=parse_duration_seconds(given.idle or api.DEFAULT_IDLE_TIMEOUT),
        totalSeconds=parse_duration_seconds(given.total or api.DEFAULT_TOTAL_TIMEOUT),
        keepAliveAfterSeconds=parse_duration_seconds(given.keepAliveAfter or api.DEFAULT_KEEP_ALIVE_AFTER),
    )


def make_cold_start(cold_start: api.ColdStart | None) -> ColdStartConfig:
    """What becomes of requests for sleeping experts, in seconds."""
    given = cold_start or _NO_COLD_START
    return ColdStartConfig(
        mode=given.mode or api.DEFAULT_COLD_START_MODE,
        maxHoldSeconds=parse_duration_seconds(given.maxHold or api.DEFAULT_MAX_HOLD),
    )


def max_body_bytes(spec: api.RoutingPolicySpec) -> int:
    """Largest request body in bytes."""
    return parse_bytes(spec.maxBodyBytes or api.DEFAULT_MAX_BODY_BYTES)


def _weighted(experts: list[api.WeightedExpert], known: Known) -> tuple[WeightedTarget, ...]:
    found = [
        WeightedTarget(name=each.name, weight=api.DEFAULT_WEIGHT if each.weight is None else each.weight)
        for each in experts
        if ("Expert", each.name) in known
    ]
    return tuple(sorted(found, key=lambda each: each.name))


def _conditions(when: api.When) -> Conditions:
    return Conditions(
        models=tuple(sorted(when.models)) if when.models else None,
        minTools=when.tools.min if when.tools else None,
        maxTools=when.tools.max if when.tools else None,
        minPromptTokens=when.promptTokens.gte if when.promptTokens else None,
        belowPromptTokens=when.promptTokens.lt if when.promptTokens else None,
        headers=tuple(
            sorted(
                (
                    HeaderCondition(name=each.name.lower(), values=tuple(sorted(each.values)))
                    for each in when.headers or ()
                ),
                key=lambda each: each.name,
            )
        ),
    )
