"""What each volume of a pod holds, and where a container sees it."""

from __future__ import annotations

import posixpath
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from localcluster.runner.environment import expand
from localcluster.runner.model import (
    Container,
    DownwardItem,
    KeyToPath,
    Projection,
    Volume,
    VolumeMount,
)
from localcluster.runner.sources import (
    Sources,
    TokenKey,
    UnresolvedError,
    claim_name,
    read_field,
    read_resource,
)


@dataclass(frozen=True, slots=True)
class File:
    """A file's bytes and permission bits."""

    data: bytes
    mode: int


@dataclass(frozen=True, slots=True)
class Files:
    """A read-only directory that the runner keeps current, by path below it."""

    files: Mapping[str, File]


@dataclass(frozen=True, slots=True)
class EmptyDirectory:
    """A directory that lives as long as its pod."""


@dataclass(frozen=True, slots=True)
class HostDirectory:
    """A file or directory of the host's, which outlives the pod. `create` makes a missing directory."""

    path: str
    create: bool
    read_only: bool = False


VolumeContent: TypeAlias = Files | EmptyDirectory | HostDirectory


def plan_volumes(sources: Sources) -> dict[str, VolumeContent]:
    """What every volume of the pod holds now.

    Raises:
        UnresolvedError: one cannot be made yet; the message is that of the kubelet's FailedMount event.
    """
    return {volume.name: _plan_or_explain(volume, sources) for volume in sources.pod.spec.volumes}


def _plan_or_explain(volume: Volume, sources: Sources) -> VolumeContent:
    try:
        return plan_volume(volume, sources)
    except UnresolvedError as error:
        raise UnresolvedError(f'MountVolume.SetUp failed for volume "{volume.name}" : {error}') from error


def plan_volume(volume: Volume, sources: Sources) -> VolumeContent:
    """What one volume holds now.

    Raises:
        UnresolvedError: something that it needs does not exist, or its kind is not supported.
    """
    if volume.empty_dir is not None:
        return EmptyDirectory()
    if volume.host_path is not None:
        return HostDirectory(volume.host_path.path, volume.host_path.type == "DirectoryOrCreate")
    if volume.persistent_volume_claim or volume.ephemeral:
        return _plan_claim(volume, sources)
    return Files(_plan_files(volume, sources))


def _plan_claim(volume: Volume, sources: Sources) -> HostDirectory:
    name = claim_name(sources.pod, volume)
    if name not in sources.claims:
        raise UnresolvedError(f'persistentvolumeclaim "{name}" is not bound to a volume of this cluster')
    claim = volume.persistent_volume_claim
    return HostDirectory(sources.claims[name], create=True, read_only=claim is not None and claim.read_only)


def _plan_files(volume: Volume, sources: Sources) -> dict[str, File]:
    if source := volume.config_map:
        return _config_map_files(source.name, source.items, source.default_mode, source.optional, sources)
    if source := volume.secret:
        return _secret_files(source.secret_name, source.items, source.default_mode, source.optional, sources)
    if source := volume.downward_api:
        return dict(_downward_file(item, source.default_mode, sources) for item in source.items)
    if source := volume.projected:
        merged: dict[str, File] = {}
        for projection in source.sources:
            merged |= _projected_files(projection, source.default_mode, sources)
        return merged
    raise UnresolvedError("volumes of this type are not supported by the local cluster")


def _projected_files(source: Projection, mode: int, sources: Sources) -> dict[str, File]:
    if inner := source.config_map:
        return _config_map_files(inner.name, inner.items, mode, inner.optional, sources)
    if inner := source.secret:
        return _secret_files(inner.name, inner.items, mode, inner.optional, sources)
    if inner := source.downward_api:
        return dict(_downward_file(item, mode, sources) for item in inner.items)
    if inner := source.service_account_token:
        key = TokenKey(inner.audience, inner.expiration_seconds)
        if key not in sources.tokens:
            raise UnresolvedError(f"failed to fetch token for audience {inner.audience!r}")
        return {inner.path: File(sources.tokens[key].value.encode(), 0o600 if mode == 0o600 else 0o644)}
    raise UnresolvedError("a projection of this type is not supported by the local cluster")


def _config_map_files(
    name: str, items: tuple[KeyToPath, ...], mode: int, optional: bool, sources: Sources
) -> dict[str, File]:
    if optional and name not in sources.config_maps:
        return {}
    found = sources.config_map(name)
    data = {**{key: value.encode() for key, value in found.data.items()}, **found.binary_data}
    return dict(_select(data, items, mode, "config key" if not optional else None))


def _secret_files(
    name: str, items: tuple[KeyToPath, ...], mode: int, optional: bool, sources: Sources
) -> dict[str, File]:
    if optional and name not in sources.secrets:
        return {}
    return dict(_select(sources.secret(name).data, items, mode, "secret key" if not optional else None))


def _select(
    data: Mapping[str, bytes], items: Iterable[KeyToPath], mode: int, required: str | None
) -> Iterator[tuple[str, File]]:
    """The chosen keys as files; without items, all. A missing key is an error where `required` says what it is."""
    chosen = list(items) or [KeyToPath(key, key) for key in data]
    for item in chosen:
        if item.key in data:
            yield item.path, File(data[item.key], mode if item.mode is None else item.mode)
        elif required:
            raise UnresolvedError(f"references non-existent {required}: {item.key}")


def _downward_file(item: DownwardItem, mode: int, sources: Sources) -> tuple[str, File]:
    if item.field_ref:
        text = read_field(sources, item.field_ref.field_path)
    elif item.resource_field_ref:
        text = read_resource(sources, sources.pod.spec.containers[0], item.resource_field_ref)
    else:
        raise UnresolvedError(f"downwardAPI item {item.path} names neither a field nor a resource")
    return item.path, File(text.encode(), mode if item.mode is None else item.mode)


@dataclass(frozen=True, slots=True)
class Bind:
    """A host path that a container sees at `target`."""

    source: str
    target: str
    read_only: bool = False


def plan_mounts(
    container: Container,
    volumes: Mapping[str, VolumeContent],
    hosted: Mapping[str, str],
    env: Mapping[str, str],
) -> list[Bind]:
    """Where the container sees its volumes, outer directories first. `hosted` is each volume's host path.

    Raises:
        UnresolvedError: a mount names a volume or a path that cannot be.
    """
    binds = [_bind(mount, volumes, hosted, env) for mount in container.volume_mounts]
    return sorted(binds, key=lambda bind: bind.target.count("/"))


def _bind(
    mount: VolumeMount, volumes: Mapping[str, VolumeContent], hosted: Mapping[str, str], env: Mapping[str, str]
) -> Bind:
    content = volumes.get(mount.name)
    if content is None:
        raise UnresolvedError(f'volume "{mount.name}" not found')
    sub_path = expand(mount.sub_path_expr, env) if mount.sub_path_expr else mount.sub_path
    if sub_path.startswith("/") or ".." in sub_path.split("/"):
        raise UnresolvedError(f"invalid subPath: {sub_path}")
    fixed = isinstance(content, Files) or (isinstance(content, HostDirectory) and content.read_only)
    source = posixpath.join(hosted[mount.name], sub_path) if sub_path else hosted[mount.name]
    return Bind(source, posixpath.normpath(posixpath.join("/", mount.mount_path)), mount.read_only or fixed)
