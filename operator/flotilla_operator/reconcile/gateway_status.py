"""The status of a RoutingPolicy: do routers run, do they serve the current snapshot, can any model answer?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from flotilla_api.conditions import ConditionType, Reason
from flotilla_api.names import ROUTER_CONTAINER
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.snapshot import RoutingSnapshot, Target
from flotilla_operator.resources.gateway import gateway_replicas, gateway_url
from flotilla_operator.resources.manifest import ObjectRef, child_of
from flotilla_operator.resources.pods import is_live, is_ready
from flotilla_operator.resources.snapshot import make_snapshot
from flotilla_operator.resources.specs import policy_experts, policy_fallbacks

from .causes import Cause, PodRules, next_look_seconds, worst_cause
from .checks import accepted, is_rolled_out, make_verdict, pods_forbidden
from .conditions import Check, failed, passed, previous_check, same_as, unknown
from .engine import find_child
from .evictions import evicted
from .types import Acknowledgement, Manifest, Observed, StepFailure, Verdict

PROPAGATION_SECONDS = 2.0
"""How long routers may take to acknowledge new endpoints before the condition says so."""


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
    """What the ready routers last said."""

    @property
    def url(self) -> str:
        """The gateway's base URL inside the cluster."""
        return gateway_url(self.observed.owner, self.spec)

    @property
    def lagging(self) -> bool:
        """Whether a ready router does not serve the current snapshot."""
        return sum(each.digest == self.digest for each in self.acknowledged) < len(self.ready)

    @property
    def digest_is_new(self) -> bool:
        """Whether the stored status speaks of another snapshot."""
        return self.observed.owner.get("status", {}).get("snapshotDigest") != self.digest


def gateway_verdict(observed: Observed, spec: RoutingPolicySpec, failures: Sequence[StepFailure]) -> Verdict:
    """Status, events, and a second look where routers still may acknowledge in time."""
    facts = gather_facts(observed, spec)
    accepted_check = accepted(failures)
    router_ready = _router_ready(facts, accepted_check)
    propagated = _config_propagated(facts)
    checks = [
        accepted_check,
        _references_resolved(facts),
        router_ready,
        propagated,
        _ready(facts, accepted_check, router_ready, propagated),
    ]
    return make_verdict(observed, checks, _fields(facts), _next_look_seconds(facts))


def _next_look_seconds(facts: GatewayFacts) -> float | None:
    """When routers should have acknowledged, and what pods that are being created ask for."""
    acknowledged = PROPAGATION_SECONDS if facts.lagging and facts.digest_is_new else None
    looks = (acknowledged, facts.next_look_seconds)
    return min((seconds for seconds in looks if seconds is not None), default=None)


def gather_facts(observed: Observed, spec: RoutingPolicySpec) -> GatewayFacts:
    """The facts of one reconciliation."""
    snapshot = make_snapshot(observed.owner, spec, observed.references, observed.reference_pods)
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
        targets=snapshot.targets,
        digest=RoutingSnapshot.digest_of(snapshot.to_json()),
        deployment=find_child(observed, "Deployment", child_of(observed.owner)),
        ready=ready,
        cause=worst_cause(pods, observed.warnings, rules),
        next_look_seconds=next_look_seconds(pods, rules),
        acknowledged=sorted(
            (each for each in observed.acknowledgements if each.pod_uid in uids), key=lambda each: each.pod
        ),
    )


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
    if not accepted_check.ok:
        return same_as(kind, accepted_check)
    return failed(kind, Reason.PODS_PENDING, "router pods are being created")


def _config_propagated(facts: GatewayFacts) -> Check:
    """Whether every ready router serves the current snapshot and has what it needs for it.

    New endpoints alone, at the same generation, get PROPAGATION_SECONDS before a True turns into False: pods come and
    go all the time, and routers follow within a second.
    """
    kind = ConditionType.CONFIG_PROPAGATED
    previous = previous_check(facts.observed.owner, kind)
    rejections = sorted({each.rejected for each in facts.acknowledged if each.rejected and each.digest != facts.digest})
    if rejections:
        return failed(kind, Reason.SNAPSHOT_REJECTED, f"a router keeps its last good snapshot: {rejections[0]}")
    if facts.lagging and facts.digest_is_new and previous and previous.ok:
        return previous
    if not facts.acknowledged:
        return unknown(kind, Reason.WAITING_FOR_ROUTERS, "no ready router is connected to the control API")
    if facts.lagging:
        return failed(kind, Reason.WAITING_FOR_ROUTERS, "some ready routers do not serve the current snapshot yet")
    if problems := sorted({problem for each in facts.acknowledged for problem in each.problems}):
        return _with_problems("; ".join(problems), facts.deployment)
    return passed(kind, Reason.ACKNOWLEDGED, "every ready router serves the current snapshot")


def _with_problems(problems: str, deployment: Manifest | None) -> Check:
    """Routers that are being replaced may lack what only their successors mount: that passes by itself."""
    kind = ConditionType.CONFIG_PROPAGATED
    if deployment is not None and not is_rolled_out(deployment):
        return failed(kind, Reason.WAITING_FOR_ROUTERS, f"routers are being replaced; until then: {problems}")
    return failed(kind, Reason.CREDENTIALS_MISSING, problems)


def _ready(facts: GatewayFacts, accepted_check: Check, router_ready: Check, propagated: Check) -> Check:
    """True when a router serves this generation and a model can answer.

    A generation that was once acknowledged stays so: routers that have not called yet, after the operator restarted or
    new endpoints came, go on serving it.
    """
    kind = ConditionType.READY
    for check in (accepted_check, router_ready):
        if not check.ok:
            return same_as(kind, check)
    if not _generation_is_served(facts):
        return failed(kind, propagated.reason, propagated.message)
    if not any(_can_answer(target) for target in facts.targets):
        return failed(kind, Reason.NO_READY_MODEL, "no expert has a ready replica and no fallback can be used")
    return passed(kind, Reason.READY, f"answers at {facts.url}")


def _generation_is_served(facts: GatewayFacts) -> bool:
    previous = previous_check(facts.observed.owner, ConditionType.READY)
    served_before = previous is not None and (previous.ok or previous.reason is Reason.NO_READY_MODEL)
    return served_before or any(each.digest == facts.digest for each in facts.acknowledged)


def _can_answer(target: Target) -> bool:
    return bool(target.external or target.endpoints)


def _fields(facts: GatewayFacts) -> dict[str, object]:
    answering = [target.kind for target in facts.targets if _can_answer(target)]
    return {
        "experts": f"{answering.count('Expert')}/{len(policy_experts(facts.spec))}",
        "fallbacks": f"{answering.count('Fallback')}/{len(policy_fallbacks(facts.spec))}",
        "routers": f"{len(facts.ready)}/{gateway_replicas(facts.spec)}",
        "endpoint": facts.url,
        "snapshotDigest": facts.digest,
    }
