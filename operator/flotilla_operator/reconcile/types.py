"""The values that pass between observing, planning and executing. PURE: plain data, no I/O."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal

from flotilla_api.conditions import Reason
from flotilla_api.control import Problem
from flotilla_operator.resources.manifest import Manifest, ObjectRef
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.scaling.report import ScalingReport

__all__ = [
    "Acknowledgement",
    "AgentPod",
    "Event",
    "Key",
    "Manifest",
    "ObjectRef",
    "Observed",
    "OperatorSettings",
    "OwnerKind",
    "Plan",
    "PublishedSnapshot",
    "Step",
    "StepFailure",
    "Verdict",
]

OwnerKind = Literal["Expert", "Fallback", "RoutingPolicy"]


@dataclass(frozen=True, slots=True, order=True)
class Key:
    """What is reconciled: one Expert, Fallback or RoutingPolicy."""

    kind: OwnerKind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Acknowledgement:
    """What one router last said to the control API."""

    pod: str
    pod_uid: str
    digest: str
    """Of the snapshot that it serves; '' when it has none."""
    rejected: str = ""
    """Why it refused a newer one; '' when it did not."""
    problems: tuple[Problem, ...] = ()
    """What it misses, such as mounted credentials."""
    sidecar: bool = False
    """Whether it runs beside an agent; then nothing above but its pod's name is fit to be shown: anybody may have
    written the rest."""


@dataclass(frozen=True, slots=True, order=True)
class AgentPod:
    """A running pod that asks for a policy's sidecar."""

    name: str
    uid: str
    injected: bool
    """Whether it has that sidecar."""
    refused: str = ""
    """Why it cannot have one; '': it could, or nobody looked."""
    silent: bool = False
    """Whether it runs with that sidecar, which has not called the control API for a while."""


@dataclass(frozen=True, slots=True)
class PublishedSnapshot:
    """What routers of a policy are to serve."""

    data: bytes
    published_at: str
    """When it became what it is, as `control.format_time` writes it; a later snapshot of the policy has a later one."""


@dataclass(frozen=True, slots=True)
class Observed:
    """All inputs of one reconciliation, gathered before anything is decided."""

    owner: Manifest
    settings: OperatorSettings
    now: datetime
    children: tuple[Manifest, ...] = ()
    """Live objects whose controller is this owner: Deployment, Service, ConfigMap, ReplicaSets excluded."""
    strangers: frozenset[ObjectRef] = frozenset()
    """Objects under a child's name that are not controlled by this owner."""
    pods: tuple[Manifest, ...] = ()
    """Live pods with this owner's selector labels, controlled by its ReplicaSets."""
    warnings: tuple[Manifest, ...] = ()
    """Warning events (core/v1) about `pods` and about this owner's Deployment and ReplicaSets."""
    references: Mapping[ObjectRef, Manifest | None] = field(default_factory=dict[ObjectRef, "Manifest | None"])
    """What `dispatch.resolve_references` returns: every AcceleratorProfile, Expert and Fallback that the spec names,
    and the profiles of those Experts and Fallbacks; None: it does not exist."""
    reference_pods: Mapping[ObjectRef, tuple[Manifest, ...]] = field(
        default_factory=dict[ObjectRef, tuple[Manifest, ...]]
    )
    """RoutingPolicy only: the live pods of each referenced Expert and Fallback."""
    acknowledgements: tuple[Acknowledgement, ...] = ()
    """RoutingPolicy only: routers that are connected."""
    agents: tuple[AgentPod, ...] | None = None
    """RoutingPolicy only: the pods that ask for its sidecar, sorted; None: they have not been listed yet."""
    artifact_maps: Mapping[str, str | None] = field(default_factory=dict[str, "str | None"])
    """RoutingPolicy only: the ConfigMaps with artifacts that the spec names, and the digest of each artifact; '': it
    holds none; None: it does not exist. One that is left out has not been looked at yet."""
    leading_seconds: float = math.inf
    """RoutingPolicy only: for how long routers could have called this replica."""
    control_ca: str = ""
    """RoutingPolicy only: PEM of the authority that signs the control API's certificate."""
    scaling: ScalingReport | None = None
    """Expert only: what the scaler last said; None: nothing yet."""


@dataclass(frozen=True, slots=True)
class Step:
    """One write, and why."""

    verb: Literal["create", "apply", "prune", "delete"]
    """create: nothing is there. apply: ours is there (`uid`) and differs. prune: others added to ours; `manifest` is a
    merge patch that removes it. delete: ours is there and is not wanted."""
    manifest: Manifest
    reason: str
    uid: str = ""
    """uid of the live object that is patched or deleted."""
    version: str = ""
    """resourceVersion that it must still have; '': any."""
    repairs: tuple[str, ...] = ()
    """Places, such as `spec.paused`, that somebody changed while nothing else is wanted than before; empty: the spec's
    own change."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Ordered writes."""

    steps: tuple[Step, ...] = ()


@dataclass(frozen=True, slots=True)
class StepFailure:
    """A write that the API server refused for good (4xx but not a conflict of versions), or a stranger in the way."""

    step: Step
    reason: Reason
    message: str


@dataclass(frozen=True, slots=True)
class Event:
    """An events.k8s.io event about the owner; emitted on transitions only."""

    type: Literal["Normal", "Warning"]
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What is written about an owner after its plan was carried out."""

    status: Manifest
    """The whole status; the runtime writes it only when it differs from the live one."""
    events: tuple[Event, ...] = ()
    requeue_after_seconds: float | None = None
    """When to look again though nothing happens, such as at a start-up deadline."""
