"""A snapshot, compiled for lookups: which rule a request falls under, and whom its route names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from flotilla_api.causes import Boundary
from flotilla_api.snapshot import Conditions, Route, RoutingSnapshot, Target

from .decisions import Features
from .strategies import Candidate


@dataclass(frozen=True, slots=True)
class Plan:
    """A route with its names resolved."""

    rule: str | None
    when: Conditions | None
    route: Route
    experts: tuple[Candidate, ...]
    """Sorted by name, so that the order in a spec does not matter to the draw."""
    fallbacks: tuple[Target, ...]
    named: Mapping[str, Target]
    """All of them by name, for learned strategies; an expert goes before a fallback of the same name."""
    boundary: Boundary


@dataclass(frozen=True, slots=True)
class RoutingTable:
    """A snapshot, compiled for lookups; immutable."""

    snapshot: RoutingSnapshot
    aliases: frozenset[str]
    pins: Mapping[str, Target]
    """Experts and pinnable fallbacks by name; an expert goes before a fallback of the same name."""
    relayed: Mapping[str, Target]
    """External fallbacks by name: what a sidecar may ask for."""
    rules: tuple[Plan, ...]
    default: Plan


def compile_table(snapshot: RoutingSnapshot) -> RoutingTable:
    """Compile a snapshot once, when it is loaded. Names without a target, which do not exist yet, are left out."""
    experts = {target.name: target for target in snapshot.targets if target.kind == "Expert"}
    fallbacks = {target.name: target for target in snapshot.targets if target.kind == "Fallback"}
    pinnable = {name: fallbacks[name] for name in snapshot.pinnable if name in fallbacks}

    def plan(rule: str | None, when: Conditions | None, route: Route) -> Plan:
        weights = sorted((w.name, w.weight) for w in route.experts if w.name in experts and w.weight > 0)
        beyond = {name: fallbacks[name] for name in route.fallbacks if name in fallbacks}
        return Plan(
            rule=rule,
            when=when,
            route=route,
            experts=tuple(Candidate(experts[name], weight) for name, weight in weights),
            fallbacks=tuple(beyond.values()),
            named=beyond | {name: experts[name] for name, _ in weights},
            boundary=_strictest(snapshot.route.boundary, route.boundary),
        )

    return RoutingTable(
        snapshot=snapshot,
        aliases=frozenset(snapshot.models),
        pins=pinnable | experts,
        relayed={name: target for name, target in fallbacks.items() if target.external is not None},
        rules=tuple(plan(rule.name, rule.when, rule.route) for rule in snapshot.rules),
        default=plan(None, None, snapshot.route),
    )


def visible_models(table: RoutingTable) -> list[str]:
    """Names for /v1/models: aliases, experts and pinnable fallbacks; not those who only make vectors for the router."""
    asked = {name for name, target in table.pins.items() if target.apis != ("embeddings",)}
    return [*table.snapshot.models, *sorted(asked - table.aliases)]


def match(table: RoutingTable, features: Features) -> Plan:
    """The first rule whose conditions hold, else the policy; also for a pin, whose boundary it is."""
    for plan in table.rules:
        if plan.when is not None and _holds(plan.when, features):
            return plan
    return table.default


def _holds(when: Conditions, features: Features) -> bool:
    tools, tokens = features.tool_count, features.prompt_tokens
    return (
        (when.models is None or features.model in when.models)
        and (when.minTools is None or tools >= when.minTools)
        and (when.maxTools is None or tools <= when.maxTools)
        and (when.minPromptTokens is None or tokens >= when.minPromptTokens)
        and (when.belowPromptTokens is None or tokens < when.belowPromptTokens)
        and all(_matches(features.headers.get(header.name), header.values) for header in when.headers)
    )


def _matches(value: str | None, wanted: Sequence[str]) -> bool:
    """Whether a header has one of the wanted values, alone or as a member of a list: proxies append to headers."""
    if value is None or value in wanted:
        return value is not None
    return "," in value and any(member.strip() in wanted for member in value.split(","))


def _strictest(*boundaries: Boundary) -> Boundary:
    return "LocalOnly" if "LocalOnly" in boundaries else "Any"
