"""From what should be and what is to an ordered list of writes, each with its reason."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice

from flotilla_api.conditions import Reason
from flotilla_api.names import DESIRED_HASH_ANNOTATION
from flotilla_operator.resources.manifest import canonical_hash

from .additions import find_additions
from .compare import differences
from .types import Manifest, ObjectRef, Observed, Plan, Step, StepFailure

_SHOWN_DIFFERENCES = 3


def plan(desired: Sequence[Manifest], observed: Observed) -> Plan:
    """Creates, applies and deletes that make the owner's children equal to `desired`; strangers are never touched.

    | live            | in desired | step                                                             |
    |-----------------|------------|------------------------------------------------------------------|
    | absent          | yes        | create                                                           |
    | ours            | yes        | apply where the annotated hash or any wanted field differs,      |
    |                 |            | and prune before it what others added to pod templates and ports |
    | ours            | no         | delete                                                           |
    | ours, ending    | either     | none: its end wakes the owner again                              |
    | a stranger's    | either     | none: see `conflicts`                                            |
    """
    live = {ObjectRef.of(child): child for child in observed.children}
    wanted = {ObjectRef.of(manifest): manifest for manifest in desired}
    steps = [
        step
        for ref, manifest in wanted.items()
        if ref not in observed.strangers
        for step in _step_for(manifest, live.get(ref), observed.owner)
    ]
    unwanted = [live[ref] for ref in sorted(live) if ref not in wanted and ref not in observed.strangers]
    return Plan((*steps, *(_delete(child) for child in unwanted if not _is_ending(child))))


def conflicts(desired: Sequence[Manifest], observed: Observed) -> tuple[StepFailure, ...]:
    """A failure for every desired object whose name a stranger holds."""
    return tuple(
        StepFailure(
            Step("create", manifest, "its name is taken"),
            Reason.CONFLICT,
            f"{ObjectRef.of(manifest)} exists and is not controlled by {ObjectRef.of(observed.owner)}: "
            "rename or delete one of them",
        )
        for manifest in desired
        if ObjectRef.of(manifest) in observed.strangers
    )


def annotated(manifest: Manifest) -> Manifest:
    """The manifest with the annotation that tells what was applied last."""
    metadata = manifest["metadata"]
    annotations = {**metadata.get("annotations", {}), DESIRED_HASH_ANNOTATION: canonical_hash(manifest)}
    return manifest | {"metadata": metadata | {"annotations": annotations}}


def _step_for(manifest: Manifest, live: Manifest | None, owner: Manifest) -> Iterator[Step]:
    if live is None:
        yield Step("create", annotated(manifest), _reason_to_create(owner))
    elif manifest != live and not _is_ending(live):
        wanted = annotated(manifest)
        if added := find_additions(manifest, live):
            reason = f"edited by hand: {_in_short(added.reasons)}"
            yield Step("prune", added.patch, reason, live["metadata"]["uid"], repairs=_places(added.reasons))
        found = [each for each in differences(wanted, live) if DESIRED_HASH_ANNOTATION not in each]
        if reason := _reason_to_apply(wanted, live, found):
            repairs = _places(found) if _is_applied(wanted, live) else ()
            uid = live["metadata"]["uid"]
            yield Step("apply", wanted, reason, uid, version=_version(live, owner), repairs=repairs)


def _reason_to_create(owner: Manifest) -> str:
    seen = owner.get("status", {}).get("observedGeneration") == owner["metadata"].get("generation")
    return "deleted by hand" if seen else "new"


def _reason_to_apply(wanted: Manifest, live: Manifest, found: Sequence[str]) -> str:
    """`found`, the differences, in short; '' when there is none."""
    text = _in_short(found)
    if _is_applied(wanted, live):
        return f"edited by hand: {text}" if text else ""
    return text or ("a field is no longer wanted" if _applied_hash(live) else "applied by nobody yet")


def _is_applied(wanted: Manifest, live: Manifest) -> bool:
    """What is wanted now is what was applied last."""
    return _applied_hash(live) == _applied_hash(wanted)


def _applied_hash(manifest: Manifest) -> str:
    return manifest["metadata"].get("annotations", {}).get(DESIRED_HASH_ANNOTATION, "")


def _in_short(found: Sequence[str]) -> str:
    text = "; ".join(islice(found, _SHOWN_DIFFERENCES))
    return text if len(found) <= _SHOWN_DIFFERENCES else f"{text}; {len(found) - _SHOWN_DIFFERENCES} more"


def _places(found: Sequence[str]) -> tuple[str, ...]:
    """Where they are, without the values."""
    return tuple(each.partition(": ")[0] for each in found)


def _version(live: Manifest, owner: Manifest) -> str:
    """Of a Deployment whose replicas others may say: what is applied depends on who did when it was looked at."""
    scaled = live["kind"] == "Deployment" and "scaling" in owner["spec"]
    return live["metadata"]["resourceVersion"] if scaled else ""


def _delete(child: Manifest) -> Step:
    return Step("delete", child, "no longer wanted", child["metadata"]["uid"])


def _is_ending(child: Manifest) -> bool:
    return bool(child["metadata"].get("deletionTimestamp"))
