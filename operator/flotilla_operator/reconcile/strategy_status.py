"""Learned routing of a RoutingPolicy: is every artifact there, is it the pinned one, and do the routers use it?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from flotilla_api.conditions import ConditionType, Reason
from flotilla_api.control import STRATEGY_PROBLEMS, ProblemKind
from flotilla_api.policy import RoutingPolicySpec
from flotilla_api.strategy import ArtifactRef
from flotilla_operator.resources.strategies import named_artifacts

from .conditions import Check, failed, passed, previous_check, unknown
from .sidecar_status import sidecar_strategy_problem
from .types import Acknowledgement, Observed

_ORDER = tuple(kind for kind in ProblemKind if kind in STRATEGY_PROBLEMS)
"""What keeps an artifact from being used comes before what is found out in use."""

_OF_MAPS = frozenset({Reason.ARTIFACT_NOT_FOUND, Reason.ARTIFACT_DIGEST_MISMATCH})


@dataclass(frozen=True, slots=True)
class Routers:
    """What a policy's routers last said."""

    gateways: Sequence[Acknowledgement]
    sidecars: Sequence[Acknowledgement]
    lagging: bool
    """Whether a ready gateway does not serve the current snapshot."""


def strategy_ready(observed: Observed, spec: RoutingPolicySpec, routers: Routers) -> Check | None:
    """Whether learned routing does what the policy asks; None: it asks for none.

    | what the policy names             | connected routers say | check                        |
    |-----------------------------------|-----------------------|------------------------------|
    | nothing but a draw by weight      |                       | None                         |
    | a ConfigMap that does not exist   |                       | False ArtifactNotFound       |
    | one that holds another artifact   |                       | False ArtifactDigestMismatch |
    | artifacts                         | a problem with one    | False, named as the problem  |
    | artifacts                         | one is being loaded   | Unknown ArtifactLoading      |
    | artifacts                         | some say nothing yet  | as before, else Unknown      |
    | artifacts                         | no problem            | True ArtifactLoaded          |
    """
    kind = ConditionType.STRATEGY_READY
    artifacts = named_artifacts(spec)
    if not artifacts:
        return None
    complaints = chain(_of_maps(artifacts, observed.artifact_maps), _of_routers(routers))
    if complaint := next(complaints, None):
        reason, message = complaint
        return (unknown if reason is Reason.ARTIFACT_LOADING else failed)(kind, reason, message)
    if routers.lagging or not routers.gateways:
        waiting = unknown(kind, Reason.WAITING_FOR_ROUTERS, "some ready routers do not serve the current snapshot yet")
        return _remembered(observed) or waiting
    return passed(kind, Reason.ARTIFACT_LOADED, "every connected router has what learned routing needs")


def _remembered(observed: Observed) -> Check | None:
    """What was said before, unless it was of a ConfigMap that has been put right."""
    previous = previous_check(observed.owner, ConditionType.STRATEGY_READY)
    outdated = previous is not None and previous.reason in _OF_MAPS and bool(observed.artifact_maps)
    return None if outdated else previous


def _of_maps(artifacts: Mapping[str, ArtifactRef], maps: Mapping[str, str | None]) -> Iterator[tuple[Reason, str]]:
    """What is wrong with the ConfigMaps that have been looked at; routers that start would find the same."""
    for role, artifact in artifacts.items():
        name = artifact.configMapRef.name if artifact.configMapRef else ""
        if name not in maps:
            continue
        found = maps[name]
        if found is None:
            yield Reason.ARTIFACT_NOT_FOUND, f"{role}: ConfigMap {name} does not exist: create it or change the policy"
        elif found != artifact.digest:
            holds = f"holds the artifact {found}" if found else "has no manifest.json"
            yield (
                Reason.ARTIFACT_DIGEST_MISMATCH,
                f"{role}: ConfigMap {name} {holds}, the policy pins {artifact.digest}",
            )


def _of_routers(routers: Routers) -> Iterator[tuple[Reason, str]]:
    """What routers complain of, the gravest first; of sidecars only the kind is told."""
    found = {problem for each in routers.gateways for problem in each.problems}
    for kind in _ORDER:
        texts = sorted(f"{problem.target}: {problem.text}" for problem in found if problem.kind is kind)
        if texts:
            yield Reason(kind.value), "; ".join(texts)
        if pods := sidecar_strategy_problem(routers.sidecars, kind):
            yield Reason(kind.value), f"sidecars report it in {pods}"
