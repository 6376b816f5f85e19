"""Agents' pods, and the sidecars in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from e2e.gateway import Json, Router
from e2e.objects import Manifest
from e2e.steps import Space, is_ready
from flotilla_api.names import INJECTED_ANNOTATION, POLICY_LABEL, SIDECAR_ADMIN_PORT, SIDECAR_CONTAINER, SIDECAR_PORT
from stack.images import PYTHON_IMAGE

AGENT = "agent"
IDLE = "import signal; signal.signal(signal.SIGTERM, lambda *_: exit()); signal.pause()"
"""An agent that asks nothing by itself, and ends when it is told to."""


def an_agent(
    name: str, policy: str, program: str = IDLE, *, env: dict[str, str] | None = None, **spec: Any
) -> Manifest:
    """A pod that asks for the sidecar of a policy; its one container runs the Python `program`."""
    container = {
        "name": AGENT,
        "image": PYTHON_IMAGE,
        "command": ["python", "-u", "-c", program],
        "env": [{"name": key, "value": value} for key, value in (env or {}).items()],
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {POLICY_LABEL: policy}},
        "spec": {"terminationGracePeriodSeconds": 10, "containers": [container], **spec},
    }


@dataclass(frozen=True, slots=True)
class Sidecar(Router):
    """The sidecar of one pod, asked as its agent does: a pod of the local cluster has its loopback at its address."""

    pod: str

    @property
    def url(self) -> str:
        """What the agent finds in OPENAI_BASE_URL."""
        (pod,) = self.live_pods()
        return f"http://{pod['status']['podIP']}:{SIDECAR_PORT}/v1"

    @property
    def container(self) -> str:
        """Its name in the pod."""
        return SIDECAR_CONTAINER

    @property
    def admin_port(self) -> int:
        """Of its metrics."""
        return SIDECAR_ADMIN_PORT

    def live_pods(self) -> list[Json]:
        """The agent's pod."""
        path = f"/api/v1/namespaces/{self.namespace}/pods/{self.pod}"
        return [self.stack.cluster.api.get(path).raise_for_status().json()]


def sidecar_of(space: Space, pod: str) -> Sidecar:
    """The sidecar of an injected pod."""
    policy = space.get("Pod", pod)["metadata"]["annotations"][INJECTED_ANNOTATION]
    return Sidecar(space.stack, space.name, policy, "", pod)


def start_agent(space: Space, name: str, policy: str) -> Sidecar:
    """The sidecar of a new pod with an idle agent, which is Ready."""
    space.apply(an_agent(name, policy))
    space.wait_for(lambda: is_ready(space.get("Pod", name)), f"pod {name} to be Ready")
    return sidecar_of(space, name)


def has_sidecar(pod: Manifest) -> bool:
    """Whether a sidecar was added to a pod."""
    added = [each for each in pod["spec"].get("initContainers", []) if each["name"] == SIDECAR_CONTAINER]
    return bool(added)


def container_of(pod: Manifest, name: str) -> Manifest:
    """A container of a pod's, native sidecars among them."""
    spec: Manifest = pod["spec"]
    return next(each for each in (*spec.get("initContainers", []), *spec["containers"]) if each["name"] == name)


def status_of(pod: Manifest, name: str) -> Manifest:
    """The status of one of a pod's containers."""
    status: Manifest = pod["status"]
    found = (*status.get("initContainerStatuses", []), *status.get("containerStatuses", []))
    return next(each for each in found if each["name"] == name)
