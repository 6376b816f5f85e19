"""A container's environment, command and arguments, from its spec and the values it refers to."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from localcluster.config import ImageSpec
from localcluster.runner.model import Container, EnvFrom, EnvVar, KeyRef, Service, SourceRef
from localcluster.runner.sources import Sources, UnresolvedError, read_field, read_resource

_REFERENCE = re.compile(r"\$(\$|\(([^)]*)\))")
_LOOPBACK = re.compile(r"(?<!\d)(?<!\d\.)127\.0\.0\.1(?!\.?\d)")


@dataclass(frozen=True, slots=True)
class Command:
    """What a container runs: the argument vector, its environment, and the directory it starts in."""

    argv: tuple[str, ...]
    env: Mapping[str, str]
    cwd: str


def make_command(container: Container, image: ImageSpec, base_env: Mapping[str, str], sources: Sources) -> Command:
    """What the container runs on that image. `base_env` holds what every image sets (PATH, HOME).

    Raises:
        UnresolvedError: a value that it needs does not exist.
    """
    own = {name: map_loopback(value, sources.pod_ip) for name, value in resolve_env(container, sources).items()}
    env = {**base_env, "HOSTNAME": sources.pod.hostname, **image.env, **own}
    command, args = (
        [map_loopback(expand(word, own), sources.pod_ip) for word in words]
        for words in (container.command, container.args)
    )
    return Command(tuple(resolve_program(command, image) or image.entrypoint) + tuple(args), env, container.working_dir)


def resolve_program(argv: Sequence[str], image: ImageSpec) -> list[str]:
    """`argv` with a program of the image's replaced by what stands in for it; empty stays empty."""
    return [*image.programs.get(argv[0], argv[:1]), *argv[1:]] if argv else []


def resolve_env(container: Container, sources: Sources) -> dict[str, str]:
    """All variables that the kubelet sets: of services, then `envFrom`, then `env`; later ones win.

    Raises:
        UnresolvedError: a required ConfigMap, Secret or key of one does not exist.
    """
    inherited = service_env(sources)
    env: dict[str, str] = {}
    for source in container.env_from:
        env.update(_from_source(source, sources))
    for variable in container.env:
        value = _value_of(variable, container, sources, {**inherited, **env})
        if value is not None:
            env[variable.name] = value
    return {**inherited, **env}


def expand(text: str, env: Mapping[str, str]) -> str:
    """`text` with $(NAME) replaced where NAME is set; $$ is a literal dollar sign."""
    return _REFERENCE.sub(lambda match: "$" if match[1] == "$" else env.get(match[2], match[0]), text)


def map_loopback(text: str, pod_ip: str) -> str:
    """`text` with 127.0.0.1 replaced by the pod's address: all pods have this machine's loopback in common."""
    return _LOOPBACK.sub(pod_ip, text)


def _from_source(source: EnvFrom, sources: Sources) -> dict[str, str]:
    values: dict[str, str] = {}
    if source.config_map_ref:
        values |= _optional(source.config_map_ref, lambda name: sources.config_map(name).data)
    if source.secret_ref:
        values |= _optional(source.secret_ref, lambda name: _decode(sources.secret(name).data))
    return {source.prefix + key: value for key, value in values.items()}


def _optional(ref: SourceRef, read: Callable[[str], dict[str, str]]) -> dict[str, str]:
    try:
        return read(ref.name)
    except UnresolvedError:
        if ref.optional:
            return {}
        raise


def _decode(data: Mapping[str, bytes]) -> dict[str, str]:
    return {key: value.decode(errors="surrogateescape") for key, value in data.items()}


def _value_of(variable: EnvVar, container: Container, sources: Sources, env: Mapping[str, str]) -> str | None:
    """The variable's value; None: an optional reference leads nowhere, so it is not set."""
    source = variable.value_from
    if source is None:
        return expand(variable.value, env)
    if source.field_ref:
        return read_field(sources, source.field_ref.field_path)
    if source.resource_field_ref:
        return read_resource(sources, container, source.resource_field_ref)
    if source.config_map_key_ref:
        return _key_of("ConfigMap", source.config_map_key_ref, sources)
    if source.secret_key_ref:
        return _key_of("Secret", source.secret_key_ref, sources)
    raise UnresolvedError(f"environment variable {variable.name} has a source of an unknown kind")


def _key_of(kind: str, ref: KeyRef, sources: Sources) -> str | None:
    try:
        data = sources.config_map(ref.name).data if kind == "ConfigMap" else _decode(sources.secret(ref.name).data)
        if ref.key not in data:
            namespace = sources.pod.metadata.namespace
            raise UnresolvedError(f"couldn't find key {ref.key} in {kind} {namespace}/{ref.name}")
    except UnresolvedError:
        if ref.optional:
            return None
        raise
    return data[ref.key]


def service_env(sources: Sources) -> dict[str, str]:
    """Where the API server is; with service links, where each Service of the namespace is."""
    host, port = sources.apiserver
    env = dict(_link("kubernetes", host, [("https", port, "TCP")]))
    if sources.pod.spec.enable_service_links:
        for service in sources.services:
            env |= _service_link(service, sources.pod.metadata.namespace)
    return env


def _service_link(service: Service, namespace: str) -> dict[str, str]:
    address = service.spec.cluster_ip
    if service.metadata.namespace != namespace or address in {"", "None"} or not service.spec.ports:
        return {}
    if service.key == ("default", "kubernetes"):
        return {}  # pods talk to the API server itself
    ports = [(port.name, port.port, port.protocol) for port in service.spec.ports]
    return dict(_link(service.metadata.name, address, ports))


def _link(name: str, address: str, ports: Sequence[tuple[str, int, str]]) -> Iterator[tuple[str, str]]:
    """The variables of one service, as Docker's links once named them."""
    prefix = _variable(name)
    yield f"{prefix}_SERVICE_HOST", address
    yield f"{prefix}_SERVICE_PORT", str(ports[0][1])
    yield f"{prefix}_PORT", f"{ports[0][2].lower()}://{address}:{ports[0][1]}"
    for port_name, port, protocol in ports:
        if port_name:
            yield f"{prefix}_SERVICE_PORT_{_variable(port_name)}", str(port)
        stem = f"{prefix}_PORT_{port}_{protocol}"
        yield stem, f"{protocol.lower()}://{address}:{port}"
        yield f"{stem}_PROTO", protocol.lower()
        yield f"{stem}_PORT", str(port)
        yield f"{stem}_ADDR", address


def _variable(name: str) -> str:
    return name.upper().replace("-", "_")
