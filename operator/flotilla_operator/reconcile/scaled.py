"""An Expert that is scaled, with what a decision about it needs of the Kubernetes API. PURE."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from flotilla_operator.resources.manifest import child_of
from flotilla_operator.scaling.fleet import NamespacedName

from .types import Key, Manifest, ObjectRef


@dataclass(frozen=True, slots=True)
class ScaledExpert:
    """As the store has it, and as the scaler has written it since."""

    expert: Manifest
    deployment: Manifest | None = None
    """None: it has not been made yet."""
    replicas: int = 0
    """What the Deployment asks for."""
    owned: bool = False
    """Whether somebody beside the reconciler owns that number, so that the reconciler may leave it out."""
    last_writer: str = ""
    """The field manager that owns that number and is none of ours; '': there is none."""
    other_scaler: str = ""
    """An autoscaler on the same Deployment, such as HorizontalPodAutoscaler agents/invoice; '': none is known."""
    pods: tuple[Manifest, ...] = ()
    """Those that its Deployment made."""
    around: Mapping[ObjectRef, Manifest] = field(default_factory=dict[ObjectRef, Manifest])
    """Its profile, the policies that name it and their fallbacks, as far as they exist."""

    @property
    def key(self) -> Key:
        """Of the Expert."""
        return Key("Expert", self.expert["metadata"]["namespace"], self.expert["metadata"]["name"])

    @property
    def name(self) -> NamespacedName:
        """Under which it is measured and allocated."""
        return NamespacedName(self.expert["metadata"]["namespace"], self.expert["metadata"]["name"])

    @property
    def uid(self) -> str:
        """Of the Expert."""
        return self.expert["metadata"]["uid"]

    @property
    def deployment_ref(self) -> ObjectRef:
        """Of its Deployment, whether that has been made or not."""
        return ObjectRef("Deployment", self.expert["metadata"]["namespace"], child_of(self.expert))
