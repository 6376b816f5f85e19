"""The status of a RoutingPolicy: do routers run, do they serve the current snapshot, can any model answer?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flotilla_api.conditions import ConditionType, Reason
from flotilla_api.control import STRATEGY_PROBLEMS, Problem, ProblemKind
from flotilla_api.names import ROUTER_CONTAINER
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.snapshot import RoutingSnapshot, Target
from flotilla_operator.resources.gateway import gateway_replicas, gateway_url
from flotilla_operator.resources.manifest import ObjectRef, child_of
from flotilla_operator.resources.pods import is_live, is_ready
from flotilla_operator.resources.snapshot import make_targets
from flotilla_operator.resources.specs import policy_experts, policy_fallbacks

from .causes import Cause, PodRules, next_look_seconds, worst_cause
from .checks import accepted, blocks, is_rolled_out, make_verdict, pods_forbidden
from .conditions import Check, failed, passed, previous_check, same_as, unknown
from .engine import find_child
from .evictions import evicted
from .gateway import parse_time, snapshot_of
from .scaling_checks import policy_escalations
from .sidecar_status import (
    lagging_sidecars,
    sidecar_count,
    sidecar_problem,
    sidecar_rejection,
    sidecars_injected,
)
from .strategy_status import Routers, strategy_ready
from .types import Acknowledgement, Manifest, Observed, PublishedSnapshot, StepFailure, Verdict

PROPAGATION_SECONDS = 2.0
"""How long routers may take to acknowledge new endpoints before the condition says so."""
RETURN_SECONDS = 15.0
"""How long routers may take to find a new leader: the longest wait between their tries, and a connection."""


_SAID_OF_SERVED = frozenset({Reason.NO_READY_MODEL, Reason.CREDENTIALS_MISSING})
"""Reasons why a generation that routers serve is not ready."""


@dataclass(frozen=True, slots=True)
class GatewayFacts:
    """All that the checks look at."""

    observed: Observed
    spec: RoutingPolicySpec
    targets: tuple[Target, ...]
    digest: str
    """Of the current snapshot."""
    deployment: Manifest | None
    ready: list[Manifest]
    """Router pods that answer."""
    cause: Cause | None
    """Why the others do not."""
    next_look_seconds: float | None
    """When to look at the pods again though nothing about them changes."""
    acknowledged: list[Acknowledgement]
    """What the gateway's ready routers last said."""
    sidecars: list[Acknowledgement]
    """What connected sidecars last said."""
    patience_seconds: float
    """How much longer routers may take to say that they serve it; 0 or less: they had their time."""

    @property
    def url(self) -> str:
        """The gateway's base URL inside the cluster."""
        return gateway_url(self.observed.owner, self.spec)

    @property
    def gateways_lag(self) -> bool:
        """Whether a ready router of the gateway does not serve the current snapshot."""
        return sum(each.digest == self.digest for each in self.acknowledged) < len(self.ready)

    @property
    def lagging(self) -> bool:
        """Whether a ready router, or a sidecar, does not serve the current snapshot."""
        return self.gateways_lag or bool(lagging_sidecars(self.sidecars, self.digest))

    @property
    def problems(self) -> str:
        """What the gateway's ready routers miss that requests need, in sentences; '' when nothing is."""
        return "; ".join(sorted({problem.text for problem in self._missed}))

    @property
    def problem_reason(self) -> Reason:
        """Which of them it is; what requests need goes before what is kept of them."""
        only_log = all(problem.kind is ProblemKind.REQUEST_LOG for problem in self._missed)
        return Reason.REQUEST_LOG_FAILED if only_log else Reason.CREDENTIALS_MISSING

    @property
    def _missed(self) -> set[Problem]:
        found = (problem for each in self.acknowledged for problem in each.problems)
        return {problem for problem in found if problem.kind not in STRATEGY_PROBLEMS}

    @property
    def routers(self) -> Routers:
        """What all routers last said."""
        return Routers(self.acknowledged, self.sidecars, self.gateways_lag)

    def missed_everywhere(self, kind: ProblemKind) -> frozenset[str]:
        """Targets of `kind` of problems that every router that called has."""
        missed = [_targets(kind, each.problems) for each in self.acknowledged]
        return missed[0].intersection(*missed[1:]) if missed else frozenset()

    def can_answer(self, target: Target) -> bool:
        """Whether a router could get an answer of the target, after it woke it if need be."""
        if target.external:
            return target.name not in self.missed_everywhere(ProblemKind.CREDENTIAL)
        return target.wakes or bool(target.endpoints)


def gateway_verdict(
    observed: Observed, spec: RoutingPolicySpec, wanted: Sequence[Manifest], failures: Sequence[StepFailure]
) -> Verdict:
    """Status, events, and a second look where routers still may acknowledge in time."""
    facts = gather_facts(observed, spec, wanted)
    accepted_check = accepted(failures)
    router_ready = _router_ready(facts, accepted_check)
    propagated = _config_propagated(facts)
    checks = [
        accepted_check,
        _references_resolved(facts),
        router_ready,
        propagated,
        *((injected,) if (injected := sidecars_injected(observed, spec)) else ()),
        *((healthy,) if (healthy := policy_escalations(observed, spec)) else ()),
        *((strategy,) if (strategy := strategy_ready(observed, spec, facts.routers)) else ()),
        _ready(facts, accepted_check, router_ready, propagated),
    ]
    return make_verdict(observed, checks, _fields(facts), _next_look_seconds(facts))


def _next_look_seconds(facts: GatewayFacts) -> float | None:
    """When routers should have acknowledged, and what pods that are being created ask for."""
    acknowledged = facts.patience_seconds if facts.lagging and facts.patience_seconds > 0 else None
    looks = (acknowledged, facts.next_look_seconds)
    return min((seconds for seconds in looks if seconds is not None), default=None)


def gather_facts(observed: Observed, spec: RoutingPolicySpec, wanted: Sequence[Manifest]) -> GatewayFacts:
    """The facts of one reconciliation."""
    namespace = observed.owner["metadata"]["namespace"]
    published = snapshot_of(wanted) or PublishedSnapshot(b"", "")
    pods = [pod for pod in observed.pods if is_live(pod)]
    ready = [pod for pod in pods if is_ready(pod)]
    uids = {pod["metadata"]["uid"] for pod in ready}
    rules = PodRules(
        container=ROUTER_CONTAINER,
        resource="",
        startup_seconds=math.inf,
        now=observed.now,
        evicted=evicted(observed.pods),
    )
    return GatewayFacts(
        observed=observed,
        spec=spec,
        targets=make_targets(namespace, spec, observed.references, observed.reference_pods),
        digest=RoutingSnapshot.digest_of(published.data),
        deployment=find_child(observed, "Deployment", child_of(observed.owner)),
        ready=ready,
        cause=worst_cause(pods, observed.warnings, rules),
        next_look_seconds=next_look_seconds(pods, rules),
        acknowledged=sorted(
            (each for each in observed.acknowledgements if each.pod_uid in uids), key=lambda each: each.pod
        ),
        sidecars=sorted((each for each in observed.acknowledgements if each.sidecar), key=lambda each: each.pod),
        patience_seconds=_patience_seconds(observed, published),
    )


def _patience_seconds(observed: Observed, published: PublishedSnapshot) -> float:
    """What is left of the time since the snapshot was published, or since routers can call this replica."""
    moment = parse_time(published.published_at) or observed.now
    age = max(0.0, (observed.now - moment).total_seconds())
    return max(PROPAGATION_SECONDS - age, RETURN_SECONDS - observed.leading_seconds)


def _targets(kind: ProblemKind, problems: Sequence[Problem]) -> frozenset[str]:
    return frozenset(problem.target for problem in problems if problem.kind is kind)


def _references_resolved(facts: GatewayFacts) -> Check:
    kind = ConditionType.REFERENCES_RESOLVED
    experts = _missing(facts, "Expert", policy_experts(facts.spec))
    fallbacks = _missing(facts, "Fallback", policy_fallbacks(facts.spec))
    if missing := experts + fallbacks:
        reason = Reason.EXPERT_NOT_FOUND if experts else Reason.FALLBACK_NOT_FOUND
        verb = "does not exist: create it" if len(missing) == 1 else "do not exist: create them"
        return failed(kind, reason, f"{', '.join(missing)} {verb} or change the policy")
    if unreadable := _unreadable(facts):
        verb = "does not parse: apply it" if len(unreadable) == 1 else "do not parse: apply them"
        return failed(kind, Reason.INVALID_REFERENCE, f"{', '.join(unreadable)} {verb} again")
    return passed(kind, Reason.RESOLVED, "every object that the spec names exists")


def _missing(facts: GatewayFacts, kind: str, wanted: list[str]) -> list[str]:
    namespace = facts.observed.owner["metadata"]["namespace"]
    return [
        f"{kind} {name}" for name in wanted if facts.observed.references.get(ObjectRef(kind, namespace, name)) is None
    ]


def _unreadable(facts: GatewayFacts) -> list[str]:
    """Stored under another schema: it exists and is no target."""
    known = {(target.kind, target.name) for target in facts.targets}
    found = [ref for ref, manifest in sorted(facts.observed.references.items()) if manifest]
    named = [ref for ref in found if ref.kind in ("Expert", "Fallback") and (ref.kind, ref.name) not in known]
    return [f"{ref.kind} {ref.name}" for ref in named]


def _router_ready(facts: GatewayFacts, accepted_check: Check) -> Check:
    kind = ConditionType.ROUTER_READY
    if facts.ready:
        return passed(kind, Reason.READY, f"routers answer at {facts.url}")
    if facts.cause:
        return failed(kind, facts.cause.reason, facts.cause.message)
    if forbidden := pods_forbidden(facts.deployment):
        return failed(kind, Reason.PODS_FORBIDDEN, forbidden)
    if blocks(accepted_check):
        return same_as(kind, accepted_check)
    return failed(kind, Reason.PODS_PENDING, "router pods are being created")


def _config_propagated(facts: GatewayFacts) -> Check:
    """Whether every ready router serves the current snapshot and has what it needs for it.

    At the same generation routers get a moment before another word is said: pods come and go all the time, and leaders
    too, and routers follow within seconds.
    """
    kind = ConditionType.CONFIG_PROPAGATED
    previous = previous_check(facts.observed.owner, kind)
    if rejection := _rejection(facts):
        return failed(kind, Reason.SNAPSHOT_REJECTED, rejection)
    if facts.lagging and facts.patience_seconds > 0 and previous:
        return previous
    if not facts.acknowledged:
        return unknown(kind, Reason.WAITING_FOR_ROUTERS, "no ready router is connected to the control API")
    if facts.gateways_lag:
        return failed(kind, Reason.WAITING_FOR_ROUTERS, "some ready routers do not serve the current snapshot yet")
    if facts.lagging:
        pods = lagging_sidecars(facts.sidecars, facts.digest)
        return failed(kind, Reason.WAITING_FOR_ROUTERS, f"sidecars do not serve the current snapshot yet in {pods}")
    return _acknowledged(kind, facts)


def _rejection(facts: GatewayFacts) -> str:
    """Who refused the current snapshot, and why; '' when nobody did."""
    rejections = sorted({each.rejected for each in facts.acknowledged if each.rejected and each.digest != facts.digest})
    if rejections:
        return f"a router keeps its last good snapshot: {rejections[0]}"
    rejection = sidecar_rejection(facts.sidecars, facts.digest)
    return f"a sidecar keeps its last good snapshot in {rejection}" if rejection else ""


def _acknowledged(kind: ConditionType, facts: GatewayFacts) -> Check:
    """Every router serves the current snapshot: whether it has what it needs for it."""
    if facts.problems:
        return _with_problems(kind, facts)
    if problem := sidecar_problem(facts.sidecars):
        return failed(kind, Reason.CREDENTIALS_MISSING, f"a sidecar misses what it needs in {problem}")
    return passed(kind, Reason.ACKNOWLEDGED, "every ready router serves the current snapshot")


def _with_problems(kind: ConditionType, facts: GatewayFacts) -> Check:
    """Routers that are being replaced may lack what only their successors mount: that passes by itself."""
    if facts.deployment is not None and not is_rolled_out(facts.deployment):
        return failed(kind, Reason.WAITING_FOR_ROUTERS, f"routers are being replaced; until then: {facts.problems}")
    return failed(kind, facts.problem_reason, facts.problems)


def _ready(facts: GatewayFacts, accepted_check: Check, router_ready: Check, propagated: Check) -> Check:
    """True when a router serves this generation, lets clients in, and a model can answer.

    A generation that was once acknowledged stays so: routers that have not called yet, after the operator restarted or
    new endpoints came, go on serving it, and miss what they missed.
    """
    kind = ConditionType.READY
    previous = previous_check(facts.observed.owner, kind)
    for check in (accepted_check, router_ready):
        if blocks(check):
            return same_as(kind, check)
    if not _generation_is_served(facts, previous):
        return failed(kind, propagated.reason, propagated.message)
    if previous and previous.reason is Reason.CREDENTIALS_MISSING and not facts.acknowledged:
        return previous
    return _answers(facts)


def _answers(facts: GatewayFacts) -> Check:
    """Whether the routers that called let clients in and could get an answer."""
    kind = ConditionType.READY
    able = any(facts.can_answer(target) for target in facts.targets if "embeddings" not in target.apis)
    if facts.missed_everywhere(ProblemKind.API_KEYS) or (not able and any(each.external for each in facts.targets)):
        return _with_problems(kind, facts)
    if not able:
        return failed(kind, Reason.NO_READY_MODEL, "no expert has a ready replica and no fallback can be used")
    return passed(kind, Reason.READY, f"answers at {facts.url}")


def _generation_is_served(facts: GatewayFacts, previous: Check | None) -> bool:
    served_before = previous is not None and (previous.ok or previous.reason in _SAID_OF_SERVED)
    return served_before or any(each.digest == facts.digest for each in facts.acknowledged)


def _fields(facts: GatewayFacts) -> dict[str, object]:
    answering = [target.kind for target in facts.targets if facts.can_answer(target)]
    return {
        "experts": f"{answering.count('Expert')}/{len(policy_experts(facts.spec))}",
        "fallbacks": f"{answering.count('Fallback')}/{len(policy_fallbacks(facts.spec))}",
        "sidecars": sidecar_count(facts.observed),
        "routers": f"{len(facts.ready)}/{gateway_replicas(facts.spec)}",
        "endpoint": facts.url,
        "snapshotDigest": facts.digest,
    }
