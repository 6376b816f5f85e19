"""Which pods answer for a Service."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from localcluster.runner.model import Container, NamespacedName, Pod, Service, ServicePort


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An address of a pod that takes connections."""

    host: str
    port: int


@dataclass(frozen=True, slots=True, order=True)
class Frontend:
    """An address and port of a Service."""

    host: str
    port: int


def plan_routes(service: Service, pods: Iterable[Pod]) -> dict[Frontend, tuple[Endpoint, ...]]:
    """The endpoints behind each TCP port of the Service; a port with none refuses connections."""
    if service.spec.cluster_ip in {"", "None"}:
        return {}
    backends = select_pods(service, pods)
    return {
        Frontend(service.spec.cluster_ip, port.port): _endpoints(port, backends)
        for port in service.spec.ports
        if port.protocol == "TCP"
    }


def select_pods(service: Service, pods: Iterable[Pod]) -> list[Pod]:
    """The pods that the Service selects and that take traffic, by address."""
    return sorted((pod for pod in pods if _serves(pod, service)), key=lambda pod: pod.status["podIP"])


def _endpoints(port: ServicePort, pods: Iterable[Pod]) -> tuple[Endpoint, ...]:
    numbered = ((pod.status["podIP"], target_port(port, pod)) for pod in pods)
    return tuple(Endpoint(host, number) for host, number in numbered if number)


def target_port(port: ServicePort, pod: Pod) -> int | None:
    """The pod's port behind a Service's; None: the pod has no port of that name."""
    if isinstance(port.target_port, int):
        return port.target_port or port.port
    named = (p for container in _serving(pod) for p in container.ports if p.name == port.target_port)
    return next((p.container_port for p in named), None)


def _serving(pod: Pod) -> tuple[Container, ...]:
    return (*pod.spec.containers, *pod.spec.init_containers)


def matches(selector: dict[str, str], labels: dict[str, str]) -> bool:
    """Whether the labels hold every pair of the selector; an empty selector selects nothing."""
    return bool(selector) and selector.items() <= labels.items()


def _serves(pod: Pod, service: Service) -> bool:
    if pod.metadata.namespace != service.metadata.namespace or not matches(service.spec.selector, pod.metadata.labels):
        return False
    if not pod.status.get("podIP") or pod.status.get("phase") in {"Succeeded", "Failed"}:
        return False
    return service.spec.publish_not_ready_addresses or (pod.metadata.deletion_timestamp is None and is_ready(pod))


def is_ready(pod: Pod) -> bool:
    """Whether the pod's Ready condition is true."""
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.status.get("conditions", ()))


def services_of(pod: Pod, services: Iterable[Service]) -> list[NamespacedName]:
    """The Services whose selector matches the pod."""
    return [
        service.key
        for service in services
        if service.metadata.namespace == pod.metadata.namespace and matches(service.spec.selector, pod.metadata.labels)
    ]
