"""Filter -> score -> pick: which model answers a request first, and which may answer after it.

| asked for                         | who answers                                                                 |
|-----------------------------------|-----------------------------------------------------------------------------|
| an expert, or a pinnable fallback | that one only: rules, strategy and escalation are skipped, boundaries never |
| an alias                          | an expert of the first rule that matches, else of the policy                |
| anything else                     | 404                                                                         |

| no expert is eligible because                        | then                                                     |
|------------------------------------------------------|----------------------------------------------------------|
| the route has none (weight 0 counts as none)         | the first eligible fallback                              |
| none of them can do what is asked (api, tools, JSON) | the first eligible fallback                              |
| those that could are asleep: none yet, to be woken   | what `coldStart` says, see `_start_cold`                 |
| those that could have no ready replica               | the first eligible fallback if NoReadyReplica is in `on` |
| the prompt is clearly too long for those that could  | the first eligible fallback if ContextOverflow is in     |
|                                                      | `on`; else the roomiest expert, whose own answer counts  |

Sleeping experts take part in the draw, so that their share of the requests wakes them; while another expert is ready,
that one takes the request.

Fallbacks pass the same filters. A prompt's length is only estimated, +-30 %, so the context filter removes a model when
even the low end of the estimate, with max_tokens, is over its limit; it never causes a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import msgspec

from flotilla_api.causes import Boundary, Cause, ColdStartMode
from flotilla_api.snapshot import Conditions, Route, RoutingSnapshot, Target

from .errors import quote
from .request import Api
from .strategies import Candidate, static

Filter = Literal["api", "tools", "jsonSchema", "boundary", "context", "readiness", "asleep"]
"""Why a model was left out, in the order in which it is asked; the last two are one question's answers."""
LOWEST_ESTIMATE_RATIO = 0.7
"""The true length of a prompt is hardly ever less than this part of the estimate."""
RETRY_AFTER_SECONDS = 10
"""When to ask again for an expert that wakes: an engine takes tens of seconds to start, and clients try a few times."""


class Features(msgspec.Struct, frozen=True):
    """What routing knows about a request."""

    api: Api
    model: str
    tool_count: int
    json_schema: bool
    prompt_tokens: int
    """Estimate, give or take 30 %."""
    max_tokens: int | None
    headers: Mapping[str, str]
    """Names in lower case."""
    boundary_header: str | None
    """x-flotilla-boundary: LocalOnly or Any; it may only tighten."""


class Decision(msgspec.Struct, frozen=True):
    """Who answers first, and who may answer after it."""

    route: Route
    rule: str | None
    first: Target
    """A sleeping one: the request waits for it."""
    meant: Target | None
    """The expert that the request was first meant for, also if it is asleep, or was left before it was asked; None:
    it was meant for no expert."""
    pinned: bool
    """Asked for by name: nobody else may answer, so `fallbacks` is empty and the answer is not judged."""
    fallbacks: tuple[Target, ...]
    """Eligible ones, in order, without `first`."""
    boundary: Boundary
    """The strictest of policy, rule and header."""
    reason: str
    """One word of: Static, Rule/NAME, Pinned, FallbackOnly, Capability, NoReadyReplica, ContextOverflow, ColdStart,
    Relayed.

    Static: drawn by weight. Rule/NAME: the same within a rule, or a rule without experts. FallbackOnly: the policy has
    no experts. Capability: no expert can do what is asked. Relayed: a sidecar asks. NoReadyReplica, ContextOverflow and
    ColdStart are `cause`.
    """
    cause: Cause | None
    """Set when the request leaves its experts before any was asked: `first` is a fallback then."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Nobody may answer."""

    status: int
    message: str
    type: str
    code: str
    param: str | None = None
    meant: Target | None = None
    """As in a Decision."""
    retry_after_seconds: int | None = None


@dataclass(frozen=True, slots=True)
class _Plan:
    """A route with its names resolved."""

    rule: str | None
    when: Conditions | None
    route: Route
    experts: tuple[Candidate, ...]
    """Sorted by name, so that the order in a spec does not matter to the draw."""
    fallbacks: tuple[Target, ...]
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
    rules: tuple[_Plan, ...]
    default: _Plan


def compile_table(snapshot: RoutingSnapshot) -> RoutingTable:
    """Compile a snapshot once, when it is loaded. Names without a target, which do not exist yet, are left out."""
    experts = {target.name: target for target in snapshot.targets if target.kind == "Expert"}
    fallbacks = {target.name: target for target in snapshot.targets if target.kind == "Fallback"}
    pinnable = {name: fallbacks[name] for name in snapshot.pinnable if name in fallbacks}

    def plan(rule: str | None, when: Conditions | None, route: Route) -> _Plan:
        named = sorted((w.name, w.weight) for w in route.experts if w.name in experts and w.weight > 0)
        return _Plan(
            rule=rule,
            when=when,
            route=route,
            experts=tuple(Candidate(experts[name], weight) for name, weight in named),
            fallbacks=tuple(fallbacks[name] for name in route.fallbacks if name in fallbacks),
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
    """Names for /v1/models: aliases, experts and pinnable fallbacks."""
    return [*table.snapshot.models, *sorted(table.pins.keys() - table.aliases)]


def choose(
    table: RoutingTable,
    features: Features,
    ready: Callable[[Target], bool],
    draw: float,
    *,
    waited: bool = False,
) -> Decision | Refusal:
    """Decide for one request.

    ready: whether a target can be called now. draw: uniform in [0, 1). waited: the request has waited for a sleeping
    expert for as long as it may.
    """
    plan = _match(table, features)
    boundary = _tightened(plan.boundary, features.boundary_header)
    if isinstance(boundary, Refusal):
        return boundary
    filters = _Filters(features, ready, boundary, table.snapshot.coldStart.mode, waited)
    pin = table.pins.get(features.model)
    if pin is not None:
        return _choose_pinned(table, pin, filters)
    if features.model not in table.aliases:
        known = ", ".join(visible_models(table))
        return _no_model(f"The model `{quote(features.model)}` does not exist. Models here: {known}.")
    return _choose_routed(plan, filters, draw)


def choose_relayed(table: RoutingTable, features: Features, ready: Callable[[Target], bool]) -> Decision | Refusal:
    """The external fallback that a sidecar asks for by name, or why it may not answer.

    The sidecar has applied rules, strategy and escalation, and sends the boundary that followed from them.
    """
    boundary = _tightened(table.default.boundary, features.boundary_header)
    if isinstance(boundary, Refusal):
        return boundary
    target = table.relayed.get(features.model)
    if target is None:
        return _no_model(f"The policy has no external Fallback `{quote(features.model)}` to relay to.")
    return _choose_pinned(table, target, _Filters(features, ready, boundary, "Reject", True), reason="Relayed")


def _tightened(boundary: Boundary, header: str | None) -> Boundary | Refusal:
    """The boundary, which the client's header may only tighten."""
    if header is None or header == "Any":
        return boundary
    if header == "LocalOnly":
        return "LocalOnly"
    message = f'x-flotilla-boundary is "{quote(header)}"; it must be LocalOnly or Any.'
    return Refusal(400, message, "invalid_request_error", "invalid_boundary")


def _no_model(message: str) -> Refusal:
    return Refusal(404, message, "invalid_request_error", "model_not_found", "model")


def _match(table: RoutingTable, features: Features) -> _Plan:
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


class _Filters(msgspec.Struct, frozen=True):
    """What removes a model from the candidates of a request."""

    features: Features
    ready: Callable[[Target], bool]
    boundary: Boundary
    cold_start: ColdStartMode
    waited: bool
    """No longer for a sleeping expert."""

    def lacks(self, target: Target) -> Filter | None:
        """What the target cannot do or must not see; None: it may answer."""
        features = self.features
        if features.api not in target.apis:
            return "api"
        if features.tool_count and not target.tools:
            return "tools"
        if features.json_schema and not target.jsonSchema:
            return "jsonSchema"
        if self.boundary == "LocalOnly" and target.location == "External":
            return "boundary"
        return None

    def removes(self, target: Target) -> Filter | None:
        """The first filter that removes the target; None: it is eligible."""
        lack = self.lacks(target)
        if lack is not None:
            return lack
        return "context" if self.overflows(target) else self.unready(target)

    def unready(self, target: Target) -> Filter | None:
        """Why the target cannot be called now; None: it can."""
        if self.ready(target):
            return None
        return "asleep" if target.asleep else "readiness"

    def overflows(self, target: Target) -> bool:
        """Whether the request is clearly too long."""
        if target.maxContextTokens is None:
            return False
        least = self.features.prompt_tokens * LOWEST_ESTIMATE_RATIO + (self.features.max_tokens or 0)
        return least > target.maxContextTokens


def _choose_pinned(
    table: RoutingTable, target: Target, filters: _Filters, *, reason: str = "Pinned"
) -> Decision | Refusal:
    """The target, or why it may not answer; a prompt that is too long is the engine's to refuse."""
    meant = target if target.kind == "Expert" else None
    removed = filters.lacks(target) or filters.unready(target)
    if removed == "asleep":
        refusal = _refuse_cold(target, filters)
        if refusal is not None:
            return refusal
    elif removed is not None:
        return _refuse([(target, removed)], filters, meant if removed == "readiness" else None)
    return Decision(
        route=table.snapshot.route,
        rule=None,
        first=target,
        meant=meant,
        pinned=True,
        fallbacks=(),
        boundary=filters.boundary,
        reason=reason,
        cause=None,
    )


def _choose_routed(plan: _Plan, filters: _Filters, draw: float) -> Decision | Refusal:
    removed: list[Filter | None] = [filters.removes(candidate.target) for candidate in plan.experts]
    fallbacks = tuple(target for target in plan.fallbacks if filters.removes(target) is None)
    eligible = _removed_by(None, plan, removed)
    if "asleep" in removed:
        return _choose_among_sleepers(plan, filters, removed, fallbacks, draw)
    if eligible:
        return _start_with(plan, filters, _draw(eligible, draw), fallbacks)
    return _choose_beyond(plan, filters, removed, fallbacks, draw)


def _choose_among_sleepers(
    plan: _Plan, filters: _Filters, removed: list[Filter | None], fallbacks: tuple[Target, ...], draw: float
) -> Decision | Refusal:
    """Draw from the experts that are ready and those that are asleep; one that is ready goes before one that is not."""
    able = [each for each, lack in zip(plan.experts, removed, strict=True) if lack in (None, "asleep")]
    index, rest = static.split(static.score(able), draw)
    meant = able[index].target
    if not meant.asleep:
        return _start_with(plan, filters, meant, fallbacks)
    eligible = _removed_by(None, plan, removed)
    if eligible:
        return _start_with(plan, filters, _draw(eligible, rest), fallbacks, meant)
    return _start_cold(plan, filters, meant, fallbacks)


def _choose_beyond(
    plan: _Plan, filters: _Filters, removed: list[Filter | None], fallbacks: tuple[Target, ...], draw: float
) -> Decision | Refusal:
    """No expert is eligible."""
    escalates = plan.route.escalation.on
    cause, why = _cause_of_removals(removed)
    if cause is Cause.CONTEXT_OVERFLOW and not (fallbacks and cause in escalates):
        roomiest = _roomiest(plan, filters)
        if roomiest is not None:
            asleep = filters.unready(roomiest) == "asleep"
            start = _start_cold if asleep else _start_with
            return start(plan, filters, roomiest, fallbacks)
    meant = None if why is None else _draw(_removed_by(why, plan, removed), draw)
    if fallbacks and (cause is None or cause in escalates):
        return _start_beyond(plan, filters, fallbacks, cause, meant)
    candidates = [*(candidate.target for candidate in plan.experts), *plan.fallbacks]
    return _refuse([(target, filters.removes(target)) for target in candidates], filters, meant)


def _removed_by(why: Filter | None, plan: _Plan, removed: list[Filter | None]) -> list[Candidate]:
    return [candidate for candidate, lack in zip(plan.experts, removed, strict=True) if lack == why]


def _draw(candidates: list[Candidate], draw: float) -> Target:
    if len(candidates) == 1:
        return candidates[0].target
    return candidates[static.pick(static.score(candidates), draw)].target


def _cause_of_removals(removed: Iterable[Filter | None]) -> tuple[Cause | None, Filter | None]:
    """Why no expert is eligible, and by which filter; None: what they are, not how they are, keeps them out."""
    met = set(removed)
    if "readiness" in met:
        return Cause.NO_READY_REPLICA, "readiness"
    return (Cause.CONTEXT_OVERFLOW, "context") if "context" in met else (None, None)


def _roomiest(plan: _Plan, filters: _Filters) -> Target | None:
    """The expert with the largest context among those that are too small; a ready one goes before a sleeping one."""
    small = [each.target for each in plan.experts if filters.removes(each.target) == "context"]
    able = [target for target in small if filters.unready(target) != "readiness"]
    return max(able, key=lambda target: (not target.asleep, target.maxContextTokens or 0), default=None)


def _start_with(
    plan: _Plan, filters: _Filters, expert: Target, fallbacks: tuple[Target, ...], meant: Target | None = None
) -> Decision:
    """An expert answers, in place of `meant` where that is given."""
    return Decision(
        route=plan.route,
        rule=plan.rule,
        first=expert,
        meant=meant or expert,
        pinned=False,
        fallbacks=fallbacks,
        boundary=filters.boundary,
        reason=f"Rule/{plan.rule}" if plan.rule else "Static",
        cause=None,
    )


def _start_cold(plan: _Plan, filters: _Filters, expert: Target, fallbacks: tuple[Target, ...]) -> Decision | Refusal:
    """No expert is ready, and `expert` is asleep.

    | mode   | a fallback is eligible | waited | then                            |
    |--------|------------------------|--------|---------------------------------|
    | Reject |                        |        | 503 cold_start                  |
    | Bridge | yes                    |        | the fallback, cause ColdStart   |
    | Bridge | no                     | no     | it waits                        |
    | Hold   |                        | no     | it waits                        |
    | Hold   | yes                    | yes    | the fallback, cause ColdStart   |
    |        | no                     | yes    | 503 no_ready_replica            |
    """
    if fallbacks and (filters.cold_start == "Bridge" or (filters.waited and filters.cold_start == "Hold")):
        return _start_beyond(plan, filters, fallbacks, Cause.COLD_START, expert)
    return _refuse_cold(expert, filters) or _start_with(plan, filters, expert, fallbacks)


def _refuse_cold(expert: Target, filters: _Filters) -> Refusal | None:
    """Why a request for a sleeping expert does not wait for it; None: it does."""
    if filters.cold_start == "Reject":
        message, code = f"Expert {expert.name} is being woken and has no replica yet. Try again soon.", "cold_start"
    elif filters.waited:
        message = f"Expert {expert.name} is being woken and has no ready replica yet. Try again soon."
        code = "no_ready_replica"
    else:
        return None
    return Refusal(503, message, "server_error", code, meant=expert, retry_after_seconds=RETRY_AFTER_SECONDS)


def _start_beyond(
    plan: _Plan, filters: _Filters, fallbacks: tuple[Target, ...], cause: Cause | None, meant: Target | None
) -> Decision:
    """A fallback answers first: for a cause, for want of a capable expert, or because the route has no experts."""
    if cause is not None:
        reason = cause.value
    elif plan.experts:
        reason = "Capability"
    else:
        reason = f"Rule/{plan.rule}" if plan.rule else "FallbackOnly"
    return Decision(
        route=plan.route,
        rule=plan.rule,
        first=fallbacks[0],
        meant=meant,
        pinned=False,
        fallbacks=fallbacks[1:],
        boundary=filters.boundary,
        reason=reason,
        cause=cause,
    )


_LACKS: dict[Filter, str] = {
    "api": "does not serve this API",
    "tools": "takes no tools",
    "jsonSchema": "cannot constrain its answer to JSON or a grammar",
    "boundary": "is outside the boundary LocalOnly",
    "context": "has too small a context",
    "readiness": "has no ready replica",
    "asleep": "has no replica yet",
}


def _refuse(removed: list[tuple[Target, Filter | None]], filters: _Filters, meant: Target | None) -> Refusal:
    """Nobody may answer: the message says what removed each; None: a fallback for which there is no cause in `on`.

    | removed by          | status | code             |
    |---------------------|--------|------------------|
    | readiness, context  | 503    | no_ready_replica |
    | boundary            | 403    | boundary         |
    | only capabilities   | 400    | no_capable_model |
    | no models there     | 503    | no_model         |
    """
    whys = [
        f"{target.kind} {target.name} {_LACKS[lack] if lack else 'is not escalated to for this'}"
        for target, lack in removed
    ]
    message = f"No model may answer this {filters.features.api} request: {'; '.join(whys)}."
    met = {lack for _, lack in removed}
    if not met:
        return Refusal(503, "None of the policy's models exists yet.", "server_error", "no_model")
    if met & {"readiness", "context"}:
        return Refusal(503, message, "server_error", "no_ready_replica", meant=meant)
    if "boundary" in met:
        return Refusal(403, message, "invalid_request_error", "boundary")
    return Refusal(400, message, "invalid_request_error", "no_capable_model", "model")
