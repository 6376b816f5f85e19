"""The status of an Expert, and of a Fallback that is served in the cluster: a chain of checks over the same facts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flotilla_api.accelerator import AcceleratorProfileSpec
from flotilla_api.conditions import ConditionType, Reason
from flotilla_api.expert import ExpertSpec
from flotilla_api.names import ENGINE_CONTAINER, POD_HASH_ANNOTATION
from flotilla_operator.resources.engine import engine_address
from flotilla_operator.resources.engine_template import startup_seconds
from flotilla_operator.resources.manifest import child_of, owner_selector
from flotilla_operator.resources.memory import MemoryEstimate, estimate_memory
from flotilla_operator.resources.pods import find_condition, is_asleep, is_live, is_ready
from flotilla_operator.resources.pricing import hourly_cost_usd
from flotilla_operator.resources.replicas import wanted_replicas
from flotilla_operator.resources.specs import Served, find_profile
from flotilla_operator.scaling.targets import make_terms

from .causes import MISSING_OBJECTS, STUCK, Cause, PodRules, has_node, next_look_seconds, scheduling_cause, worst_cause
from .checks import accepted, blocks, is_rolled_out, make_verdict, pods_forbidden
from .conditions import Check, failed, passed, same_as, unknown
from .engine import find_child
from .evictions import evicted
from .scaling_status import ScalingVerdict, scaling_verdict
from .types import Manifest, Observed, StepFailure, Verdict

_NEVER_WOKEN = frozenset({Reason.OTHER_AUTOSCALER, Reason.INSUFFICIENT_ACCELERATORS})
"""Why the scaler cannot do what a request asks for."""


@dataclass(frozen=True, slots=True)
class EngineFacts:
    """All that the checks look at."""

    observed: Observed
    served: Served
    profile: AcceleratorProfileSpec | None
    deployment: Manifest | None
    pods: list[Manifest]
    """Live ones."""
    current: list[Manifest]
    """Those that were made from the template of this generation."""
    rules: PodRules
    cause: Cause | None
    """Why pods do not answer, those of this generation first; None: all that exist do."""
    scaling: ScalingVerdict

    @property
    def ready(self) -> list[Manifest]:
        """Pods that answer."""
        return [pod for pod in self.pods if _answers(pod)]

    @property
    def asleep(self) -> bool:
        """Whether all pods that would answer sleep."""
        return not self.ready and any(is_ready(pod) for pod in self.pods)

    @property
    def wakes(self) -> bool:
        """Whether a request starts it where nothing answers."""
        return self.served.wakes and self.scaling.reason not in _NEVER_WOKEN

    @property
    def wanted(self) -> int:
        """Replicas that there should be."""
        return wanted_replicas(self.served, self.deployment)

    @property
    def endpoint(self) -> str:
        """host:port of the Service."""
        return engine_address(self.served.owner)


def engine_verdict(
    observed: Observed, served: Served, wanted: Sequence[Manifest], failures: Sequence[StepFailure]
) -> Verdict:
    """Status, events, and when to look again."""
    facts = gather_facts(observed, served, wanted)
    accepted_check = accepted(failures)
    resolved = _references_resolved(facts)
    available = _available(facts, accepted_check, resolved)
    scaling = facts.scaling
    checks = [
        _accepted_spec(served, facts.profile) or accepted_check,
        resolved,
        _fits(facts),
        _scheduled(facts),
        available,
        _progressing(facts),
        *scaling.checks,
        _ready(facts, accepted_check, resolved, available),
    ]
    looks = (next_look_seconds(facts.pods, facts.rules), scaling.requeue_after_seconds)
    next_look = min((seconds for seconds in looks if seconds is not None), default=None)
    fields = _fields(facts) | {"scaling": scaling.status}
    return make_verdict(observed, checks, fields, next_look, events=scaling.events)


def _accepted_spec(served: Served, profile: AcceleratorProfileSpec | None) -> Check | None:
    """What the API server could not know is wrong; all else of the spec holds, so the Expert may be ready."""
    terms = make_terms(served.spec, profile) if isinstance(served.spec, ExpertSpec) else None
    if terms is None or not terms.problems:
        return None
    text = f"{'; '.join(terms.problems)}; everything else of the spec holds"
    return failed(ConditionType.ACCEPTED, Reason.INVALID_SPEC, text)


def _answers(pod: Manifest) -> bool:
    return is_ready(pod) and not is_asleep(pod)


def gather_facts(observed: Observed, served: Served, wanted: Sequence[Manifest]) -> EngineFacts:
    """The facts of one reconciliation."""
    profile = find_profile(served, observed.references)
    pods = [pod for pod in observed.pods if is_live(pod)]
    wanted_hash = _wanted_pod_hash(wanted) if profile else None
    current = [pod for pod in pods if wanted_hash and _pod_hash(pod) == wanted_hash]
    rules = PodRules(
        container=ENGINE_CONTAINER,
        resource=profile.resource if profile else "",
        startup_seconds=startup_seconds(served.spec),
        now=observed.now,
        evicted=evicted(observed.pods),
        draining=any(pod["metadata"].get("deletionTimestamp") for pod in observed.pods),
    )
    return EngineFacts(
        observed=observed,
        served=served,
        profile=profile,
        deployment=find_child(observed, "Deployment", child_of(served.owner)),
        pods=pods,
        current=current,
        rules=rules,
        cause=worst_cause(current, observed.warnings, rules) or worst_cause(pods, observed.warnings, rules),
        scaling=scaling_verdict(observed, served),
    )


def _wanted_pod_hash(wanted: Sequence[Manifest]) -> str:
    deployment = next(each for each in wanted if each["kind"] == "Deployment")
    return _pod_hash(deployment["spec"]["template"])


def _pod_hash(pod_or_template: Manifest) -> str:
    return pod_or_template["metadata"].get("annotations", {}).get(POD_HASH_ANNOTATION, "")


def _references_resolved(facts: EngineFacts) -> Check:
    kind = ConditionType.REFERENCES_RESOLVED
    ref = facts.served.profile_ref
    if facts.profile is None:
        exists = facts.observed.references.get(ref) is not None
        if exists:
            return failed(kind, Reason.INVALID_REFERENCE, f"{ref} does not parse: apply it again")
        return failed(kind, Reason.PROFILE_NOT_FOUND, f"{ref} does not exist: create it or name another one")
    if facts.cause and facts.cause.reason in MISSING_OBJECTS:
        return failed(kind, facts.cause.reason, facts.cause.message)
    return passed(kind, Reason.RESOLVED, "every object that the spec names exists")


def _fits(facts: EngineFacts) -> Check:
    kind = ConditionType.FITS
    if facts.profile is None:
        return unknown(kind, Reason.PROFILE_NOT_FOUND, f"{facts.served.profile_ref} is not known")
    estimate = estimate_memory(facts.served, facts.profile)
    if estimate is None:
        return unknown(kind, Reason.PARAMETERS_UNKNOWN, "set model.parameters, such as 1.5B, for an estimate")
    numbers = _estimate_in_words(estimate)
    if estimate.fits is None:
        hint = "set engine.maxModelLen for an estimate of the KV cache: without it vLLM takes the model's own length"
        return unknown(kind, Reason.CONTEXT_LENGTH_UNKNOWN, f"{numbers}; {hint}")
    if estimate.fits:
        return passed(kind, Reason.FITS, numbers)
    hint = "raise accelerator.count, lower engine.maxModelLen, use quantised weights or a profile with more memory"
    return failed(kind, Reason.TOO_LARGE, f"{numbers}; {hint}")


def _estimate_in_words(estimate: MemoryEstimate) -> str:
    cache = "unknown" if estimate.kv_cache_gib is None else f"{estimate.kv_cache_gib:.1f}"
    least = "at least" if estimate.kv_cache_gib is None else "about"
    parts = f"weights {estimate.weights_gib:.1f}, KV cache {cache}, overhead {estimate.overhead_gib:.1f}"
    return (
        f"needs {least} {estimate.needed_gib:.1f} GiB ({parts}) of the {estimate.budget_gib:.1f} GiB that vLLM may use"
    )


def _scheduled(facts: EngineFacts) -> Check:
    kind = ConditionType.SCHEDULED
    if facts.wanted == 0:
        return passed(kind, Reason.SCALED_TO_ZERO, "no replica is wanted")
    if cause := scheduling_cause(facts.pods, facts.rules):
        if cause.reason is Reason.PODS_PENDING and not facts.rules.draining:
            return unknown(kind, cause.reason, cause.message)
        return failed(kind, cause.reason, cause.message)
    if forbidden := pods_forbidden(facts.deployment):
        return failed(kind, Reason.PODS_FORBIDDEN, forbidden)
    if len(facts.pods) < facts.wanted:
        return unknown(kind, Reason.PODS_PENDING, "pods are being created")
    return passed(kind, Reason.SCHEDULED, "every pod has a node")


def _available(facts: EngineFacts, accepted_check: Check, resolved: Check) -> Check:
    kind = ConditionType.AVAILABLE
    if facts.ready:
        return passed(kind, Reason.AVAILABLE, f"replicas answer at {facts.endpoint}")
    if rest := _rest(facts):
        return failed(kind, *rest)
    if facts.cause:
        return failed(kind, facts.cause.reason, facts.cause.message)
    if forbidden := pods_forbidden(facts.deployment):
        return failed(kind, Reason.PODS_FORBIDDEN, forbidden)
    for check in (accepted_check, resolved):
        if blocks(check):
            return same_as(kind, check)
    return failed(kind, Reason.PODS_PENDING, "pods are being created")


def _progressing(facts: EngineFacts) -> Check:
    """False as soon as pods cannot start, not only when the Deployment's deadline has passed."""
    kind = ConditionType.PROGRESSING
    if facts.deployment is None:
        return unknown(kind, Reason.PODS_PENDING, "there is no Deployment yet")
    if forbidden := pods_forbidden(facts.deployment):
        return failed(kind, Reason.PODS_FORBIDDEN, forbidden)
    if facts.cause and facts.cause.reason in STUCK:
        return failed(kind, facts.cause.reason, facts.cause.message)
    if find_condition(facts.deployment, "Progressing").get("reason") == "ProgressDeadlineExceeded":
        cause = facts.cause or Cause(Reason.NOT_READY, "replicas do not become ready")
        return failed(kind, cause.reason, f"no progress within the Deployment's deadline: {cause.message}")
    starting = facts.cause is not None and facts.cause.reason is not Reason.NOT_READY
    if is_rolled_out(facts.deployment) and not starting:
        return passed(kind, Reason.ROLLED_OUT, "every replica runs the current template")
    return passed(kind, Reason.ROLLING_OUT, "replicas start or are being replaced")


def _ready(facts: EngineFacts, accepted_check: Check, resolved: Check, available: Check) -> Check:
    """True only when a replica of this generation answers, or a request wakes one.

    | accepted | profile | wanted | of this generation | others answer | Ready                        |
    |----------|---------|--------|--------------------|---------------|------------------------------|
    | no       |         |        |                    |               | False, why it is not         |
    | yes      | unknown |        |                    |               | False, as ReferencesResolved |
    | yes      | found   | 0      |                    |               | ScaledToZero: if it is woken |
    | yes      | found   | 0      | (no accelerator)   |               | False, why it is not woken   |
    | yes      | found   | > 0    | sleep              | no            | Asleep: if it is woken       |
    | yes      | found   | > 0    | answer             |               | True                         |
    | yes      | found   | > 0    | cannot start       |               | False, their cause           |
    | yes      | found   | > 0    | start              | yes           | False, RollingOut            |
    | yes      | found   | > 0    | start              | no            | False, as Available          |
    """
    kind = ConditionType.READY
    blocker = accepted_check if blocks(accepted_check) else resolved
    if blocks(accepted_check) or facts.profile is None:
        return same_as(kind, blocker)
    if rest := _rest(facts):
        reason, message = rest
        return passed(kind, reason, f"{message}; {_waking(facts)}") if facts.wakes else failed(kind, reason, message)
    if any(_answers(pod) for pod in facts.current):
        return passed(kind, Reason.READY, f"replicas of this generation answer at {facts.endpoint}")
    if facts.cause and facts.cause.reason in STUCK:
        return failed(kind, facts.cause.reason, facts.cause.message)
    if facts.ready:
        return failed(kind, Reason.ROLLING_OUT, "replicas of an earlier generation answer while new ones start")
    return same_as(kind, available)


def _waking(facts: EngineFacts) -> str:
    """What starts it again."""
    if facts.scaling.reason is Reason.FALLBACK_CHEAPER:
        return "a fallback costs less; a request that none may answer wakes it"
    return "a request wakes it"


def _rest(facts: EngineFacts) -> tuple[Reason, str] | None:
    """Why nothing answers and nothing is asked to; None: something should."""
    if facts.wanted == 0 and facts.scaling.reason is Reason.INSUFFICIENT_ACCELERATORS:
        return Reason.INSUFFICIENT_ACCELERATORS, "no accelerator is left for it: see ScalingActive"
    if facts.wanted == 0:
        return Reason.SCALED_TO_ZERO, "no replica is wanted"
    return (Reason.ASLEEP, "every replica sleeps") if facts.asleep else None


def _fields(facts: EngineFacts) -> dict[str, object]:
    served = facts.served
    fields: dict[str, object] = {
        "replicas": len(facts.pods),
        "readyReplicas": len(facts.ready),
        "endpoint": facts.endpoint,
        "podHash": _pod_hash(facts.deployment["spec"]["template"]) or None if facts.deployment else None,
        "costPerHourUSD": hourly_cost_usd(served, facts.profile, replicas=sum(has_node(pod) for pod in facts.pods)),
    }
    if served.owner["kind"] == "Expert":
        selector = sorted(owner_selector(served.owner).items())
        return fields | {"selector": ",".join(f"{key}={value}" for key, value in selector)}
    return fields | {"model": served.spec.model.uri}
