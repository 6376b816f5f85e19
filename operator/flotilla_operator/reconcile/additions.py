"""What others added to our pod templates and ports, which no server-side apply of ours takes away.

An apply removes only what its own field manager set. So `kubectl set env`, a second container, a node selector or
`kubectl rollout pause` would stay for ever; a merge patch removes them. What goes: entries of lists, the fields of
`_NEVER_DEFAULTED`, and keys of maps that are ours as a whole. What stays: every other field that we do not set, since
the server fills in its defaults there, and labels and annotations, which are anybody's.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from .compare import key_of, named, shown
from .types import Manifest

Path = tuple[str, ...]

_POD: Path = ("spec", "template", "spec")
_NEVER_DEFAULTED = frozenset(
    {
        *("nodeSelector", "nodeName", "affinity", "limits", "requests", "runtimeClassName", "priorityClassName"),
        *("hostNetwork", "hostPID", "hostIPC", "shareProcessNamespace", "privileged", "activeDeadlineSeconds"),
        *("startupProbe", "readinessProbe", "livenessProbe", "lifecycle"),
    }
)
"""Fields of a pod template that the API server never sets by itself: what we did not set is somebody's."""


@dataclass(frozen=True, slots=True)
class Additions:
    """What to remove."""

    patch: Manifest
    """A merge patch of the live object, for its version alone."""
    reasons: tuple[str, ...]
    """A sentence such as `spec.paused: True -> nothing` for each thing that goes."""


def find_additions(wanted: Manifest, live: Manifest) -> Additions | None:
    """What others added to `live`; None: nothing."""
    reasons: list[str] = []
    kept = _keep(wanted, live, reasons)
    if not reasons:
        return None
    metadata = {name: live["metadata"][name] for name in ("name", "namespace", "uid", "resourceVersion")}
    head = {"apiVersion": wanted["apiVersion"], "kind": wanted["kind"], "metadata": metadata}
    return Additions({**head, **_merge_patch(live, kept)}, tuple(reasons))


def _keep(wanted: Manifest, live: Manifest, reasons: list[str]) -> Manifest:
    if wanted["kind"] == "Service":
        ports = _keep_list(wanted["spec"]["ports"], live["spec"]["ports"], ("spec", "ports"), reasons)
        return live | {"spec": live["spec"] | {"ports": ports}}
    if wanted["kind"] != "Deployment":
        return live
    spec, template = dict(live["spec"]), live["spec"]["template"]
    if spec.get("paused") and not wanted["spec"].get("paused"):
        reasons.append("spec.paused: True -> nothing")
        del spec["paused"]
    pod = _keep_map(wanted["spec"]["template"]["spec"], template["spec"], _POD, reasons)
    return live | {"spec": spec | {"template": template | {"spec": pod}}}


def _keep_map(wanted: Manifest, live: Manifest, path: Path, reasons: list[str]) -> Manifest:
    kept: Manifest = {}
    for name, value in live.items():
        ours = wanted.get(name)
        if value and not ours and _is_somebodys((*path, name), value):
            reasons.append(f"{'.'.join((*path, name))}: {shown(value)} -> nothing")
        else:
            kept[name] = _keep_value(ours, value, (*path, name), reasons)
    return kept


def _is_somebodys(path: Path, value: object) -> bool:
    return isinstance(value, list) or path[-1] in _NEVER_DEFAULTED or _is_wholly_ours(path[:-1])


def _is_wholly_ours(path: Path) -> bool:
    """Maps that hold nothing that the server defaults: amounts, affinities, and the entries of an environment."""
    return path[-1] in ("limits", "requests") or "affinity" in path or path[-2:-1] == ("env",)


def _keep_value(wanted: Any, live: Any, path: Path, reasons: list[str]) -> Any:
    if isinstance(wanted, dict) and isinstance(live, dict):
        return _keep_map(cast("Manifest", wanted), cast("Manifest", live), path, reasons)
    if isinstance(wanted, list) and isinstance(live, list):
        return _keep_list(cast("list[Any]", wanted), cast("list[Any]", live), path, reasons)
    return live


def _keep_list(wanted: list[Any], live: list[Any], path: Path, reasons: list[str]) -> list[Any]:
    """Where somebody added to `live`, its entries that are wanted, and those that are missing; else `live` itself."""
    key = key_of(path[-1])
    if key is None or not all(isinstance(each, dict) for each in [*wanted, *live]):
        return live
    ours, theirs = {key(each): each for each in wanted}, {key(each): each for each in live}
    added = [name for name in theirs if name not in ours]
    reasons.extend(f"{'.'.join(path)}.{named(name)}: added -> nothing" for name in added)
    before = len(reasons)
    kept = {
        name: _keep_map(ours[name], each, (*path, named(name)), reasons)
        for name, each in theirs.items()
        if name in ours
    }
    if not added:
        return list(kept.values()) if len(reasons) > before else live
    return [kept.get(name, each) for name, each in ours.items()]


def _merge_patch(live: Manifest, kept: Manifest) -> Manifest:
    """What, merged into `live`, makes it `kept`. Source: RFC 7386."""
    patch: Manifest = {name: None for name in live if name not in kept}
    for name, value in kept.items():
        before = live[name]
        if isinstance(value, dict) and isinstance(before, dict):
            if inner := _merge_patch(cast("Manifest", before), cast("Manifest", value)):
                patch[name] = inner
        elif value != before:
            patch[name] = value
    return patch
