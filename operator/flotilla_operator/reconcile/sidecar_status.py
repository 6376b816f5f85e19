"""Sidecars of a RoutingPolicy: which pods run without theirs and why, and what the connected ones say."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from flotilla_api.conditions import ConditionType, Reason
from flotilla_api.control import STRATEGY_PROBLEMS, ProblemKind
from flotilla_api.names import POLICY_LABEL, SIDECAR_CONTAINER
from flotilla_api.policy import RoutingPolicySpec
from flotilla_operator.resources.sidecar import SidecarInputs

from .conditions import Check, failed, passed, previous_check
from .types import Acknowledgement, AgentPod, Event, Key, Observed

SHOWN_PODS = 3


def sidecars_injected(observed: Observed, spec: RoutingPolicySpec) -> Check | None:
    """Whether every pod that asks for the policy's sidecar has it; None: nothing is known yet.

    | pods that ask | and have none                  | check                                             |
    |---------------|--------------------------------|---------------------------------------------------|
    | not listed    |                                | as before                                         |
    | none          |                                | True NoAgents                                     |
    | some          | none of them                   | True Injected                                     |
    | some          | some, and none may have one    | False SidecarDisabled                             |
    | some          | some that could have one       | False SidecarMissing; it tells of refused ones too |
    | some          | only such as cannot have one   | False SidecarRefused                              |

    Where all have theirs, and some of those do not call the control API: False SidecarNotConnected.
    """
    kind = ConditionType.SIDECARS_INJECTED
    if observed.agents is None:
        return previous_check(observed.owner, kind)
    if not observed.agents:
        return passed(kind, Reason.NO_AGENTS, "no pod asks for a sidecar")
    inputs = _inputs(observed, spec)
    without = [agent for agent in observed.agents if not agent.injected]
    silent = [agent.name for agent in observed.agents if agent.silent and inputs.enabled]
    if not without and silent:
        return failed(kind, Reason.SIDECAR_NOT_CONNECTED, _not_connected(silent))
    if not without:
        return passed(kind, Reason.INJECTED, "every pod that asks for a sidecar has it")
    if not inputs.enabled:
        return failed(kind, Reason.SIDECAR_DISABLED, _disabled(without))
    missing = [agent for agent in without if not agent.refused]
    not_connected = [_not_connected(silent)] if silent else []
    reason = Reason.SIDECAR_MISSING if missing else Reason.SIDECAR_REFUSED
    return failed(kind, reason, "; ".join((*_missing(missing, inputs), *_refused(without), *not_connected)))


def sidecar_count(observed: Observed) -> str | None:
    """Pods that have the policy's sidecar / pods that ask for it; None where none does."""
    if observed.agents is None:
        return observed.owner.get("status", {}).get("sidecars")
    injected = sum(agent.injected for agent in observed.agents)
    return f"{injected}/{len(observed.agents)}" if observed.agents else None


def absence_event(agent: AgentPod, key: Key, inputs: SidecarInputs | None) -> Event:
    """What a pod is told that asks for the sidecar of policy `key` and has none; `inputs` None: there is no policy."""
    if inputs is None:
        reason, why = Reason.POLICY_NOT_FOUND, f"{key} does not exist, so this pod runs without a sidecar: create it"
        return Event("Warning", reason, f"{why}, then delete the pod, so that it is made anew")
    if not inputs.enabled:
        why = f"{key} says placement.sidecar.enabled: false, so this pod runs without a sidecar"
        return Event("Warning", Reason.SIDECAR_DISABLED, f"{why}: take its label {POLICY_LABEL} off, or that out")
    if agent.refused:
        return Event("Warning", Reason.SIDECAR_REFUSED, f"this pod cannot have the sidecar of {key}: {agent.refused}")
    return Event("Warning", Reason.SIDECAR_MISSING, _why_missing(key, inputs))


def sidecar_rejection(sidecars: Sequence[Acknowledgement], digest: str) -> str:
    """Which sidecars refused the snapshot of `digest`; '' when none did. Why is theirs to say, in their own logs."""
    pods = _names([each.pod for each in sidecars if each.rejected and each.digest != digest])
    return f"{pods}: {_SEE_LOG}" if pods else ""


def sidecar_problem(sidecars: Sequence[Acknowledgement]) -> str:
    """What sidecars miss, and whose; '' when none misses anything. Kinds are shown, never words of theirs."""
    return _first_of(
        (each.pod, _MISSED[problem.kind])
        for each in sidecars
        for problem in each.problems
        if problem.kind not in STRATEGY_PROBLEMS
    )


def sidecar_strategy_problem(sidecars: Sequence[Acknowledgement], kind: ProblemKind) -> str:
    """Pods whose sidecars have a problem of `kind`, and where to read more; '' when none has."""
    pods = _names([each.pod for each in sidecars if any(problem.kind is kind for problem in each.problems)])
    return f"{pods}: {_SEE_LOG}" if pods else ""


def lagging_sidecars(sidecars: Sequence[Acknowledgement], digest: str) -> str:
    """Pods whose sidecars serve another snapshot than that of `digest`; '' when none does. One without any starts."""
    return _names([each.pod for each in sidecars if each.digest not in ("", digest)])


_SEE_LOG = f"see the log of container {SIDECAR_CONTAINER}"
_MISSED = {
    ProblemKind.GATEWAY: f"they cannot call the policy's gateway, {_SEE_LOG}",
    ProblemKind.CREDENTIAL: f"they cannot call a fallback, {_SEE_LOG}",
    ProblemKind.API_KEYS: f"they have no API keys, {_SEE_LOG}",
    ProblemKind.REQUEST_LOG: f"they cannot write a request log, {_SEE_LOG}",
    ProblemKind.OTHER: _SEE_LOG,
}


def _inputs(observed: Observed, spec: RoutingPolicySpec) -> SidecarInputs:
    metadata = observed.owner["metadata"]
    return SidecarInputs(metadata["namespace"], metadata["name"], spec, observed.settings)


def _disabled(without: Sequence[AgentPod]) -> str:
    verb = "asks" if len(without) == 1 else "ask"
    pods = _names([agent.name for agent in without])
    return f"{pods} {verb} for a sidecar, and placement.sidecar.enabled is false: take the label off, or that out"


def _why_missing(key: Key, inputs: SidecarInputs) -> str:
    what = f"this pod was created without the sidecar of {key}"
    if inputs.by_webhook:
        why = "the webhook did not answer, or knew no such policy"
        return f"{what}: {why}; delete the pod, so that it is made anew"
    return f"{what}: no webhook adds one in this namespace; put it into the manifest with flotilla inject"


def _missing(agents: Sequence[AgentPod], inputs: SidecarInputs) -> list[str]:
    if not agents:
        return []
    verb, them, are = ("was", "it", "it is") if len(agents) == 1 else ("were", "them", "they are")
    what = f"{_names([agent.name for agent in agents])} {verb} created without the sidecar"
    if inputs.by_webhook:
        return [f"{what}: delete {them}, so that {are} made anew"]
    return [f"{what}, and no webhook adds one in this namespace: put it into the manifests with flotilla inject"]


def _not_connected(pods: Sequence[str]) -> str:
    return f"the sidecar does not call the control API in {_names(pods)}: {_SEE_LOG}; may it reach the operator?"


def _refused(agents: Sequence[AgentPod]) -> list[str]:
    found = _first_of((agent.name, agent.refused) for agent in agents if agent.refused)
    return [f"no sidecar is possible in {found}"] if found else []


def _first_of(texts: Iterable[tuple[str, str]]) -> str:
    """The text that most pods have in common, after their names; '' when there is none."""
    pods: defaultdict[str, list[str]] = defaultdict(list)
    for pod, text in texts:
        pods[text].append(pod)
    if not pods:
        return ""
    text = min(pods, key=lambda each: (-len(pods[each]), each))
    return f"{_names(pods[text])}: {text}"


def _names(pods: Sequence[str]) -> str:
    """A few of them, in order, and how many more there are."""
    shown = sorted(pods)[:SHOWN_PODS]
    if len(pods) > len(shown):
        return f"{', '.join(shown)} and {len(pods) - len(shown)} more"
    return " and ".join((", ".join(shown[:-1]), shown[-1])) if len(shown) > 1 else "".join(shown)
