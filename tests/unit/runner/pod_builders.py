"""Pods for unit tests, and a pod's life under a clock that the test turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from localcluster.config import ImageSpec
from localcluster.runner.happenings import apply
from localcluster.runner.lifecycle import advance, first_state
from localcluster.runner.model import Pod, Service
from localcluster.runner.state import (
    Action,
    Emit,
    Exited,
    Happening,
    PodState,
    StartContainer,
    Started,
    Terminated,
    VolumesPrepared,
)
from localcluster.runner.status import make_status
from localcluster.runner.turn import Settings

START = 1_000_000.0
SETTINGS = Settings({"toolbox": ImageSpec(["/bin/sh"])})

A = TypeVar("A", bound=Action)


def a_container(name: str = "main", **fields: Any) -> dict[str, Any]:
    """A container that runs the toolbox's shell."""
    return {"name": name, "image": "toolbox", **fields}


def a_pod(*containers: dict[str, Any], metadata: dict[str, Any] | None = None, **spec: Any) -> Pod:
    """A pod of these containers, by default one; `spec` has the API's field names."""
    meta = {"name": "web-0", "namespace": "shop", "uid": "u1", **(metadata or {})}
    whole = {"containers": list(containers) or [a_container()], "nodeName": "cpu-0", **spec}
    return msgspec.convert({"metadata": meta, "spec": whole}, Pod)


def a_service(name: str = "web", **spec: Any) -> Service:
    """A Service in the pod's namespace."""
    meta = {"name": name, "namespace": "shop"}
    return msgspec.convert({"metadata": meta, "spec": {"clusterIP": "127.96.0.9", **spec}}, Service)


class Life:
    """A pod that is told what happens and when; it remembers what was decided."""

    def __init__(self, pod: Pod, state: PodState | None = None) -> None:
        self.pod = pod
        self.now = START
        self.state = state or first_state(pod, "127.96.128.1", START)
        self.wake_at: float | None = None
        self.actions: list[Action] = []
        self._follow()

    def happens(self, *happenings: Happening) -> list[Action]:
        """What is decided upon this, at the present time."""
        before = len(self.actions)
        for happening in happenings:
            step = apply(self.pod, self.state, happening, SETTINGS, self.now)
            self.state = step.state
            self.actions += step.actions
            self._follow()
        return self.actions[before:]

    def passes(self, seconds: float) -> list[Action]:
        """What is decided in that time, with the runner waking when it said it would."""
        before, end = len(self.actions), self.now + seconds
        while self.wake_at is not None and self.wake_at <= end:
            self.now = max(self.now, self.wake_at)
            self._follow()
        self.now = end
        self._follow()
        return self.actions[before:]

    def is_deleted(self, grace_seconds: int | None = None) -> list[Action]:
        """What is decided when the API server marks the pod for deletion."""
        before = len(self.actions)
        given = self.pod.spec.termination_grace_period_seconds if grace_seconds is None else grace_seconds
        meta = msgspec.structs.replace(
            self.pod.metadata, deletion_timestamp="2026-01-01T00:00:00Z", deletion_grace_period_seconds=given
        )
        self.pod = msgspec.structs.replace(self.pod, metadata=meta)
        self._follow()
        return self.actions[before:]

    def runs(self, *names: str) -> None:
        """The containers start as soon as they are asked to; volumes are there."""
        for name in names:
            self.happens(Started(name, f"localcluster://{name}"))

    def exits(self, name: str, code: int = 0, reason: str = "") -> list[Action]:
        """What is decided when a container's process ends now."""
        ended = Terminated(code, reason or ("Completed" if code == 0 else "Error"), self.now, self.now, f"id-{name}")
        return self.happens(Exited(name, ended))

    def status(self) -> dict[str, Any]:
        """The pod's status as the API server would be told."""
        return make_status(self.pod, self.state, host_ip="127.0.0.1", previous=[], now=self.now)

    def _follow(self) -> None:
        step = advance(self.pod, self.state, SETTINGS, self.now)
        self.state, self.wake_at = step.state, step.wake_at
        self.actions += step.actions


def a_life(*containers: dict[str, Any], **spec: Any) -> Life:
    """The life of a pod whose volumes are ready."""
    life = Life(a_pod(*containers, **spec))
    life.happens(VolumesPrepared())
    return life


def of_kind(kind: type[A], actions: Sequence[Action]) -> list[A]:
    """The actions of one kind."""
    return [action for action in actions if isinstance(action, kind)]


def events(actions: Sequence[Action]) -> list[tuple[str, str]]:
    """Reason and message of the Kubernetes events among the actions."""
    return [(emit.reason, emit.message) for emit in of_kind(Emit, actions)]


def starts(actions: Sequence[Action]) -> list[str]:
    """The containers that are to be started."""
    return [action.name for action in of_kind(StartContainer, actions)]
