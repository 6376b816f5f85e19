"""Values that containers take from their pod and from other objects: the downward API, ConfigMaps and Secrets."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from localcluster.runner.model import (
    ConfigMap,
    Container,
    NamespacedName,
    Pod,
    Projection,
    ResourceFieldRef,
    Secret,
    Service,
    Volume,
    container_named,
)
from localcluster.runner.quantity import divide_up

_SUBSCRIPT = re.compile(r"metadata\.(labels|annotations)\['([^']+)'\]")


class UnresolvedError(LookupError):
    """What a pod refers to does not exist; the message is the kubelet's."""


@dataclass(frozen=True, slots=True)
class Token:
    """A service account token of one pod; times are seconds since the epoch."""

    value: str
    issued_at: float
    expires_at: float


@dataclass(frozen=True, slots=True)
class TokenKey:
    """What distinguishes one token of a pod from another; no audience means the API server's own."""

    audience: str
    expiration_seconds: int


@dataclass(frozen=True, slots=True)
class Sources:
    """All that the containers of one pod may refer to; what is absent from a mapping does not exist."""

    pod: Pod
    pod_ip: str
    host_ip: str
    allocatable: Mapping[str, str] = field(default_factory=dict[str, str])
    config_maps: Mapping[str, ConfigMap] = field(default_factory=dict[str, ConfigMap])
    secrets: Mapping[str, Secret] = field(default_factory=dict[str, Secret])
    claims: Mapping[str, str] = field(default_factory=dict[str, str])  # host directory by name, of bound claims
    tokens: Mapping[TokenKey, Token] = field(default_factory=dict[TokenKey, Token])
    services: tuple[Service, ...] = ()
    apiserver: tuple[str, int] = ("127.0.0.1", 443)

    def config_map(self, name: str) -> ConfigMap:
        """The ConfigMap of that name.

        Raises:
            UnresolvedError: there is none.
        """
        if name not in self.config_maps:
            raise UnresolvedError(f'configmap "{name}" not found')
        return self.config_maps[name]

    def secret(self, name: str) -> Secret:
        """The Secret of that name.

        Raises:
            UnresolvedError: there is none.
        """
        if name not in self.secrets:
            raise UnresolvedError(f'secret "{name}" not found')
        return self.secrets[name]


@dataclass(frozen=True, slots=True)
class References:
    """The names of what a pod refers to in its own namespace."""

    config_maps: frozenset[str]
    secrets: frozenset[str]
    claims: frozenset[str]
    tokens: frozenset[TokenKey]


def find_references(pod: Pod) -> References:
    """Everything that must be looked up before the pod's volumes and environment can be made."""
    env = list(_env_references(pod))
    volumes = [reference for volume in pod.spec.volumes for reference in _volume_references(pod, volume)]
    found = [*env, *volumes]
    return References(
        config_maps=frozenset(name for kind, name in found if kind == "ConfigMap"),
        secrets=frozenset(name for kind, name in found if kind == "Secret"),
        claims=frozenset(name for kind, name in found if kind == "Claim"),
        tokens=frozenset(
            TokenKey(token.audience, token.expiration_seconds)
            for volume in pod.spec.volumes
            for source in (volume.projected.sources if volume.projected else ())
            if (token := source.service_account_token)
        ),
    )


def _env_references(pod: Pod) -> Iterator[tuple[str, str]]:
    for container in (*pod.spec.init_containers, *pod.spec.containers):
        for source in container.env_from:
            if source.config_map_ref:
                yield "ConfigMap", source.config_map_ref.name
            if source.secret_ref:
                yield "Secret", source.secret_ref.name
        for variable in container.env:
            if variable.value_from and variable.value_from.config_map_key_ref:
                yield "ConfigMap", variable.value_from.config_map_key_ref.name
            if variable.value_from and variable.value_from.secret_key_ref:
                yield "Secret", variable.value_from.secret_key_ref.name


def _volume_references(pod: Pod, volume: Volume) -> Iterator[tuple[str, str]]:
    if volume.config_map:
        yield "ConfigMap", volume.config_map.name
    if volume.secret:
        yield "Secret", volume.secret.secret_name
    if volume.persistent_volume_claim or volume.ephemeral:
        yield "Claim", claim_name(pod, volume)
    for source in volume.projected.sources if volume.projected else ():
        yield from _projection_references(source)


def _projection_references(source: Projection) -> Iterator[tuple[str, str]]:
    if source.config_map:
        yield "ConfigMap", source.config_map.name
    if source.secret:
        yield "Secret", source.secret.name


def claim_name(pod: Pod, volume: Volume) -> str:
    """The PersistentVolumeClaim behind a volume; an ephemeral one is called after the pod and the volume."""
    if volume.persistent_volume_claim:
        return volume.persistent_volume_claim.claim_name
    return f"{pod.metadata.name}-{volume.name}"


def read_field(sources: Sources, path: str) -> str:
    """The downward API's value at `path`.

    Raises:
        UnresolvedError: there is no such field.
    """
    meta = sources.pod.metadata
    if match := _SUBSCRIPT.fullmatch(path):
        return (meta.labels if match[1] == "labels" else meta.annotations).get(match[2], "")
    reader = _FIELDS.get(path)
    if reader is None:
        raise UnresolvedError(f"unsupported fieldPath: {path}")
    return reader(sources)


_FIELDS: dict[str, Callable[[Sources], str]] = {
    "metadata.name": lambda s: s.pod.metadata.name,
    "metadata.namespace": lambda s: s.pod.metadata.namespace,
    "metadata.uid": lambda s: s.pod.metadata.uid,
    "metadata.labels": lambda s: format_map(s.pod.metadata.labels),
    "metadata.annotations": lambda s: format_map(s.pod.metadata.annotations),
    "spec.nodeName": lambda s: s.pod.spec.node_name,
    "spec.serviceAccountName": lambda s: s.pod.spec.service_account_name,
    "status.podIP": lambda s: s.pod_ip,
    "status.podIPs": lambda s: s.pod_ip,
    "status.hostIP": lambda s: s.host_ip,
    "status.hostIPs": lambda s: s.host_ip,
}


def format_map(values: Mapping[str, str]) -> str:
    """Labels or annotations as the downward API writes them: sorted lines of key="value"."""
    return "\n".join(f"{key}={json.dumps(value, ensure_ascii=False)}" for key, value in sorted(values.items()))


def read_resource(sources: Sources, container: Container, ref: ResourceFieldRef) -> str:
    """A container's request or limit in units of the divisor, rounded up; without a limit, what the node offers.

    Raises:
        UnresolvedError: there is no such container or resource.
    """
    of = container_named(sources.pod, ref.container_name) if ref.container_name else container
    kind, _, resource = ref.resource.partition(".")
    if of is None or kind not in {"limits", "requests"}:
        raise UnresolvedError(f"unsupported container resource: {ref.container_name} {ref.resource}".replace("  ", " "))
    amounts = of.resources.limits if kind == "limits" else of.resources.requests
    default = sources.allocatable.get(resource, "0") if kind == "limits" else "0"
    return str(divide_up(amounts.get(resource, default), ref.divisor))


def namespaced(pod: Pod, name: str) -> NamespacedName:
    """`name` in the pod's namespace."""
    return NamespacedName(pod.metadata.namespace, name)
