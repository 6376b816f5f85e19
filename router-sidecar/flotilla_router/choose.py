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

A learned strategy replaces the draw: the first eligible model in its order of preference answers, be it an expert or a
fallback of the route. One in it that is asleep, or has no ready replica, is what the request was meant for, and the
table's causes say whether a fallback may answer in its place. Where no model of the order may, it is drawn after all. A
fallback that is preferred, and fails, is followed by the others and, with onFallbackFailure UseExpert, by the experts.

Fallbacks pass the same filters. A prompt's length is only estimated, +-30 %, so the context filter removes a model when
even the low end of the estimate, with max_tokens, is over its limit; it never causes a refusal.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec.structs import replace

from flotilla_api.causes import Boundary, Cause
from flotilla_api.snapshot import Target

from .decisions import Decision, Features, Ranking, Refusal
from .errors import quote
from .exploration import Way, explored, propensity
from .filters import Filter, Filters
from .routing_table import Plan, RoutingTable, match, visible_models
from .strategies import Candidate, static

RETRY_AFTER_SECONDS = 10
"""When to ask again for an expert that wakes: an engine takes tens of seconds to start, and clients try a few times."""


class _Case:
    """A request for an alias, and those who may answer it. A plain class, which compiled is made in no time."""

    __slots__ = ("fallbacks", "filters", "plan", "ranked")

    def __init__(self, plan: Plan, filters: Filters, fallbacks: tuple[Target, ...], ranked: bool) -> None:
        """fallbacks: eligible ones, in order. ranked: whether a learned strategy decides."""
        self.plan = plan
        self.filters = filters
        self.fallbacks = fallbacks
        self.ranked = ranked

    def start(
        self,
        first: Target,
        reason: str,
        propensity: float | None,
        *,
        meant: Target | None = None,
        cause: Cause | None = None,
        led_by: Target | None = None,
    ) -> Decision:
        """`first` answers, for `meant` where that is given; `led_by` goes before the other fallbacks."""
        others = (
            self.fallbacks if led_by is None else (led_by, *[each for each in self.fallbacks if each is not led_by])
        )
        return Decision(
            route=self.plan.route,
            rule=self.plan.rule,
            first=first,
            meant=meant or (first if first.kind == "Expert" else None),
            pinned=False,
            fallbacks=others if first.kind == "Expert" else tuple([each for each in others if each is not first]),
            boundary=self.filters.boundary,
            reason=reason,
            cause=cause,
            propensity=propensity,
            ranked=self.ranked,
        )

    def drawn(self, expert: Target, among: Sequence[Candidate], meant: Target | None = None) -> Decision:
        """An expert answers that was drawn by weight."""
        reason = f"Rule/{self.plan.rule}" if self.plan.rule else "Static"
        return self.start(expert, reason, _share(expert, among), meant=meant)


def choose(
    table: RoutingTable,
    features: Features,
    ready: Callable[[Target], bool],
    draw: float,
    *,
    waited: bool = False,
    ranking: Ranking | None = None,
) -> Decision | Refusal:
    """Decide for one request.

    ready: whether a target can be called now. draw: uniform in [0, 1). waited: the request has waited for a sleeping
    expert for as long as it may. ranking: what a learned strategy says of it, if there is one.
    """
    plan = match(table, features)
    boundary = _tightened(plan.boundary, features.boundary_header)
    if isinstance(boundary, Refusal):
        return boundary
    filters = Filters(features, ready, boundary, table.snapshot.coldStart.mode, waited)
    pin = table.pins.get(features.model)
    if pin is not None:
        return _choose_pinned(table, pin, filters)
    if features.model not in table.aliases:
        known = ", ".join(visible_models(table))
        return _no_model(f"The model `{quote(features.model)}` does not exist. Models here: {known}.")
    fallbacks = tuple([target for target in plan.fallbacks if filters.removes(target) is None])
    if ranking is not None:
        return _choose_ranked(plan, filters, fallbacks, ranking, draw)
    return _choose_routed(_Case(plan, filters, fallbacks, False), draw)


def eligible(table: RoutingTable, features: Features, ready: Callable[[Target], bool]) -> list[str]:
    """Names of all models that may answer a request for an alias: experts by name, then fallbacks in order."""
    plan = match(table, features)
    boundary = _tightened(plan.boundary, features.boundary_header)
    if isinstance(boundary, Refusal):
        return []
    filters = Filters(features, ready, boundary, table.snapshot.coldStart.mode, False)
    targets = [*[candidate.target for candidate in plan.experts], *plan.fallbacks]
    return [target.name for target in targets if filters.removes(target) is None]


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
    return _choose_pinned(table, target, Filters(features, ready, boundary, "Reject", True), reason="Relayed")


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


def _choose_pinned(
    table: RoutingTable, target: Target, filters: Filters, *, reason: str = "Pinned"
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
        propensity=None,
        ranked=False,
    )


_EXCUSED: dict[Filter, Cause] = {
    "context": Cause.CONTEXT_OVERFLOW,
    "readiness": Cause.NO_READY_REPLICA,
    "asleep": Cause.COLD_START,
}
"""Why an expert is passed over that could do what is asked."""


def _choose_ranked(
    plan: Plan, filters: Filters, fallbacks: tuple[Target, ...], ranking: Ranking, draw: float
) -> Decision | Refusal:
    """By a learned strategy's order or by exploration, or by weight where no model in the order may answer."""
    case = _Case(plan, filters, fallbacks, True)
    outcome = _led(case, ranking)
    if outcome is None:
        outcome = _choose_routed(_Case(plan, filters, fallbacks, False), draw)
    if type(outcome) is not Decision or (ranking.explore_ratio == 0.0 and len(ranking.possible) == 1):
        return outcome
    return replace(outcome, propensity=_propensity(case, ranking, outcome.first))


def _led(case: _Case, ranking: Ranking) -> Decision | Refusal | None:
    """What a request's own order and its draw lead to; None: nobody in the order may answer."""
    able = _able(case, ranking.order)
    index = explored(len(able), ratio=ranking.explore_ratio, draw=ranking.draw)
    if index is None:
        return _by_order(case, ranking.order, ranking.strategy)
    first = case.plan.named[able[index]]
    return _with_experts(case, first, able).start(first, "Explored", 1.0)


def _propensity(case: _Case, ranking: Ranking, first: Target) -> float:
    """The probability of `first` being chosen, whichever order, exploration or draw by weight might have led to it."""
    ways = [_way(case, order, ranking.strategy, probability, first) for probability, order in ranking.possible]
    return propensity(ways, ranking.explore_ratio)


def _way(case: _Case, order: Sequence[str], strategy: str, probability: float, first: Target) -> Way:
    able = _able(case, order)
    outcome = _by_order(case, order, strategy)
    if outcome is None:
        otherwise = _share_by_weight(case, first)
    else:
        otherwise = 1.0 if type(outcome) is Decision and outcome.first is first else 0.0
    included = first.name in able and case.plan.named[first.name] is first
    return Way(probability, len(able), included, otherwise)


def _able(case: _Case, order: Sequence[str]) -> list[str]:
    """Those of an order that may answer."""
    named, lacks = case.plan.named, case.filters.removes
    return [name for name in order if name in named and lacks(named[name]) is None]


def _by_order(case: _Case, order: Sequence[str], strategy: str) -> Decision | Refusal | None:
    """What an order leads to where nothing is explored; None: nobody in it may answer."""
    named, lacks = case.plan.named, case.filters.removes
    removed: dict[str, Filter | None] = {name: lacks(named[name]) for name in order if name in named}
    able = [name for name, lack in removed.items() if lack is None]
    missed = _missed(case.plan, removed)
    if not able:
        if missed is None or missed[1] is not Cause.COLD_START:
            return None
        return _start_cold(case, case.start(missed[0], strategy, 1.0))
    first = named[able[0]]
    case = _with_experts(case, first, able)
    if missed is not None and first.kind == "Fallback":
        return _pass_over(case, missed, first, strategy)
    meant = None if missed is None or missed[1] is Cause.CONTEXT_OVERFLOW else missed[0]
    return case.start(first, strategy, 1.0, meant=meant)


def _with_experts(case: _Case, first: Target, able: Sequence[str]) -> _Case:
    """A preferred fallback that fails is followed by the experts of the order, unless onFallbackFailure is Error."""
    if first.kind != "Fallback" or case.plan.route.escalation.onFallbackFailure != "UseExpert":
        return case
    named = case.plan.named
    experts = [named[name] for name in able if named[name].kind == "Expert"]
    return _Case(case.plan, case.filters, (*case.fallbacks, *experts), case.ranked)


def _missed(plan: Plan, removed: Mapping[str, Filter | None]) -> tuple[Target, Cause] | None:
    """The expert that was preferred to every eligible model, if it is kept out by how it is, not by what it is."""
    for name, lack in removed.items():
        if lack is None:
            return None
        if lack in _EXCUSED and plan.named[name].kind == "Expert":
            return plan.named[name], _EXCUSED[lack]
    return None


def _pass_over(case: _Case, missed: tuple[Target, Cause], fallback: Target, strategy: str) -> Decision | Refusal | None:
    """A fallback would answer in place of the expert that was preferred, if that may be left for its cause."""
    expert, cause = missed
    if cause is Cause.COLD_START:
        return _start_cold(case, case.start(expert, strategy, 1.0, led_by=fallback))
    if cause in case.plan.route.escalation.on:
        return case.start(fallback, cause.value, 1.0, meant=expert, cause=cause)
    return None


def _choose_routed(case: _Case, draw: float) -> Decision | Refusal:
    plan = case.plan
    removed: list[Filter | None] = [case.filters.removes(candidate.target) for candidate in plan.experts]
    eligible = _removed_by(None, plan, removed)
    if "asleep" in removed:
        return _choose_among_sleepers(case, removed, eligible, draw)
    if eligible:
        return case.drawn(_draw(eligible, draw), eligible)
    return _choose_beyond(case, removed, draw)


def _choose_among_sleepers(
    case: _Case, removed: list[Filter | None], eligible: list[Candidate], draw: float
) -> Decision | Refusal:
    """Draw from the experts that are ready and those that are asleep; one that is ready goes before one that is not."""
    able = [each for each, lack in zip(case.plan.experts, removed, strict=True) if lack in (None, "asleep")]
    index, rest = static.split(static.score(able), draw)
    meant = able[index].target
    if not eligible:
        return _start_cold(case, case.drawn(meant, able))
    return case.drawn(_draw(eligible, rest) if meant.asleep else meant, eligible, meant)


def _choose_beyond(case: _Case, removed: list[Filter | None], draw: float) -> Decision | Refusal:
    """No expert is eligible."""
    plan, filters, fallbacks = case.plan, case.filters, case.fallbacks
    escalates = plan.route.escalation.on
    cause, why = _cause_of_removals(removed)
    if cause is Cause.CONTEXT_OVERFLOW and not (fallbacks and cause in escalates):
        roomiest = _roomiest(plan, filters)
        if roomiest is not None:
            start = case.drawn(roomiest, ())
            return _start_cold(case, start) if filters.unready(roomiest) == "asleep" else start
    meant = None if why is None else _draw(_removed_by(why, plan, removed), draw)
    if fallbacks and (cause is None or cause in escalates):
        return _start_beyond(case, cause, meant)
    candidates = [*(candidate.target for candidate in plan.experts), *plan.fallbacks]
    return _refuse([(target, filters.removes(target)) for target in candidates], filters, meant)


def _removed_by(why: Filter | None, plan: Plan, removed: list[Filter | None]) -> list[Candidate]:
    return [candidate for candidate, lack in zip(plan.experts, removed, strict=True) if lack == why]


def _draw(candidates: list[Candidate], draw: float) -> Target:
    if len(candidates) == 1:
        return candidates[0].target
    return candidates[static.pick(static.score(candidates), draw)].target


def _share(expert: Target, among: Sequence[Candidate]) -> float:
    """The expert's part of a draw by weight; one who is drawn for a sleeper is drawn in the same shares."""
    if len(among) <= 1:
        return 1.0
    total = sum([candidate.weight for candidate in among])
    return sum([candidate.weight for candidate in among if candidate.target is expert]) / total


def _share_by_weight(case: _Case, first: Target) -> float:
    """The probability with which `_choose_routed` leads to `first`."""
    removed: list[Filter | None] = [case.filters.removes(candidate.target) for candidate in case.plan.experts]
    among = _removed_by(None, case.plan, removed)
    if not among:
        outcome = _choose_routed(case, 0.0)
        if type(outcome) is not Decision:
            return 0.0
        among = _removed_by("asleep", case.plan, removed) if outcome.first.asleep else []
        if not among:
            return 1.0 if outcome.first is first else 0.0
    return _share(first, among) if first in [candidate.target for candidate in among] else 0.0


def _cause_of_removals(removed: Iterable[Filter | None]) -> tuple[Cause | None, Filter | None]:
    """Why no expert is eligible, and by which filter; None: what they are, not how they are, keeps them out."""
    met = set(removed)
    if "readiness" in met:
        return Cause.NO_READY_REPLICA, "readiness"
    return (Cause.CONTEXT_OVERFLOW, "context") if "context" in met else (None, None)


def _roomiest(plan: Plan, filters: Filters) -> Target | None:
    """The expert with the largest context among those that are too small; a ready one goes before a sleeping one."""
    small = [each.target for each in plan.experts if filters.removes(each.target) == "context"]
    able = [target for target in small if filters.unready(target) != "readiness"]
    return max(able, key=lambda target: (not target.asleep, target.maxContextTokens or 0), default=None)


def _start_cold(case: _Case, waiting: Decision) -> Decision | Refusal:
    """No expert is ready, and the first of `waiting`, which is what is decided if the request waits, is asleep.

    | mode   | a fallback is eligible | waited | then                            |
    |--------|------------------------|--------|---------------------------------|
    | Reject |                        |        | 503 cold_start                  |
    | Bridge | yes                    |        | the fallback, cause ColdStart   |
    | Bridge | no                     | no     | it waits                        |
    | Hold   |                        | no     | it waits                        |
    | Hold   | yes                    | yes    | the fallback, cause ColdStart   |
    |        | no                     | yes    | 503 no_ready_replica            |
    """
    filters, expert, cause = case.filters, waiting.first, Cause.COLD_START
    if waiting.fallbacks and (filters.cold_start == "Bridge" or (filters.waited and filters.cold_start == "Hold")):
        first = waiting.fallbacks[0]
        return case.start(first, cause.value, 1.0, meant=expert, cause=cause)
    return _refuse_cold(expert, filters) or waiting


def _refuse_cold(expert: Target, filters: Filters) -> Refusal | None:
    """Why a request for a sleeping expert does not wait for it; None: it does."""
    if filters.cold_start == "Reject":
        message, code = f"Expert {expert.name} is being woken and has no replica yet. Try again soon.", "cold_start"
    elif filters.waited:
        message = f"Expert {expert.name} is being woken and has no ready replica yet. Try again soon."
        code = "no_ready_replica"
    else:
        return None
    return Refusal(503, message, "server_error", code, meant=expert, retry_after_seconds=RETRY_AFTER_SECONDS)


def _start_beyond(case: _Case, cause: Cause | None, meant: Target | None) -> Decision:
    """A fallback answers first: for a cause, for want of a capable expert, or because the route has no experts."""
    plan = case.plan
    if cause is not None:
        reason = cause.value
    elif plan.experts:
        reason = "Capability"
    else:
        reason = f"Rule/{plan.rule}" if plan.rule else "FallbackOnly"
    return case.start(case.fallbacks[0], reason, 1.0, meant=meant, cause=cause)


_LACKS: dict[Filter, str] = {
    "api": "does not serve this API",
    "tools": "takes no tools",
    "jsonSchema": "cannot constrain its answer to JSON or a grammar",
    "boundary": "is outside the boundary LocalOnly",
    "context": "has too small a context",
    "readiness": "has no ready replica",
    "asleep": "has no replica yet",
}


def _refuse(removed: list[tuple[Target, Filter | None]], filters: Filters, meant: Target | None) -> Refusal:
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
