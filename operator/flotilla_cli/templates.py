"""Pods and pod templates in what a document holds, of whatever kind it is."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError

from flotilla_operator.resources.manifest import Manifest, ObjectRef

from .documents import Path, is_list, is_mapping
from .errors import InputError


@dataclass(frozen=True, slots=True)
class Found:
    """An object, or a part of one, and where it stands in its document."""

    owner: ObjectRef
    path: Path
    value: Manifest


def find_objects(value: Any, namespace: str) -> Iterator[Found]:
    """The objects of a document, those of a List each by itself; `namespace` is of those that name none."""
    yield from _objects(value, namespace, ())


def find_templates(found: Found) -> Iterator[Found]:
    """The pod itself, or the object's pod templates.

    A pod template is a mapping with `spec.containers` under a key that is called `template`, or ends so, at any depth:
    workloads of other groups have it too, and may have several.
    """
    if found.owner.kind == "Pod" and _has_containers(found.value):
        yield found
    else:
        for path, template in _templates(found.value, found.path):
            yield Found(found.owner, path, template)


def labels_of(manifest: Manifest) -> dict[str, Any]:
    """Its labels; {} where there are none, or where something else stands in their place."""
    return _mapping(_mapping(manifest.get("metadata")).get("labels"))


def check_shape(pod: Manifest) -> None:
    """Every part of a pod that injection reads is what Kubernetes takes.

    Raises:
        InputError: it is not.
    """
    try:
        _Pod.model_validate(pod)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        raise InputError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}") from error


class _Named(BaseModel):
    name: str


class _Port(BaseModel):
    containerPort: int | None = None
    protocol: str = "TCP"


class _Container(_Named):
    ports: list[_Port] | None = None
    env: list[_Named] | None = None


class _Metadata(BaseModel):
    labels: dict[str, str | None] | None = None
    annotations: dict[str, str | None] | None = None


class _System(BaseModel):
    name: str | None = None


class _PodSpec(BaseModel):
    containers: list[_Container]
    initContainers: list[_Container] | None = None
    volumes: list[_Named] | None = None
    imagePullSecrets: list[_Named] | None = None
    hostNetwork: bool | None = None
    os: _System | None = None


class _Pod(BaseModel):
    metadata: _Metadata | None = None
    spec: _PodSpec


def _objects(value: Any, namespace: str, path: Path) -> Iterator[Found]:
    manifest = _mapping(value)
    kind = manifest.get("kind")
    if not isinstance(kind, str):
        return
    items: Any = manifest.get("items")
    if kind.endswith("List") and is_list(items):
        for index, item in enumerate(items):
            yield from _objects(item, namespace, (*path, "items", index))
        return
    metadata = _mapping(manifest.get("metadata"))
    name = metadata.get("name") or metadata.get("generateName") or "without a name"
    yield Found(ObjectRef(kind, str(metadata.get("namespace") or namespace), str(name)), path, manifest)


def _templates(value: Any, path: Path) -> Iterator[tuple[Path, Manifest]]:
    entries: list[tuple[Any, Any]] = []
    if is_mapping(value):
        entries = list(value.items())
    elif is_list(value):
        entries = list(enumerate(value))
    for key, child in entries:
        if str(key).lower().endswith("template") and _has_containers(_mapping(child)):
            yield (*path, key), child
        else:
            yield from _templates(child, (*path, key))


def _has_containers(manifest: Manifest) -> bool:
    return bool(_mapping(manifest.get("spec")).get("containers"))


def _mapping(value: Any) -> Manifest:
    return value if is_mapping(value) else {}
