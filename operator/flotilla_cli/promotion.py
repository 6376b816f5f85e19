"""Another artifact for a RoutingPolicy, as an edit of the text of its file."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from flotilla_api.meta import GROUP
from flotilla_operator.resources.manifest import ObjectRef

from .documents import Document, Path, compose, is_mapping, parse, split, with_part
from .edits import apply, open_page, replacement
from .errors import EditError, InputError
from .templates import Found, find_objects

Stage = Literal["strategy", "canary", "shadow"]
"""The fields of a policy that name an artifact."""
_SOURCES: Mapping[str, Path] = {
    "configMapRef": ("configMapRef", "name"),
    "file": ("file",),
    "url": ("url",),
    "oci": ("oci",),
}
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be promoted, and where."""

    artifact: str | None
    """The ConfigMap's name, path, URL or OCI reference, whichever the policy's source is; None: as it is."""
    digest: str | None
    """None: that of the stage that it is taken from."""
    stage: Stage = "strategy"
    taken_from: Stage | None = None
    """The stage whose artifact is promoted, instead of naming it."""
    policy: str | None = None
    """Of several in one file; None: there is just one."""
    namespace: str = "default"
    """Of objects that name none."""


@dataclass(frozen=True, slots=True)
class Promoted:
    """The file's text after it, and what is different in the policy."""

    text: str
    policy: ObjectRef
    stage: Stage
    changes: Mapping[str, tuple[str, str]]
    """By its path in the spec: what stood there, and what stands there now; {}: it was so already."""


def promote(text: str, wanted: Wanted) -> Promoted:
    """The file with the artifact in the policy; all else is as it was, to the byte.

    Raises:
        InputError: there is no such policy, its artifact has another kind of source, or cannot be edited in place.
    """
    documents = split(text)
    index, found = _find(documents, wanted)
    values = _values(found, wanted)
    path = (*found.path, "spec", wanted.stage, "artifact")
    before = _at(found.value, ("spec", wanted.stage, "artifact"))
    changes = {step: (_at(before, step), value) for step, value in values.items() if _at(before, step) != value}
    texts = [document.text for document in documents]
    texts[index] = _edited(documents[index], path, {step: after for step, (_, after) in changes.items()}, found)
    named = {".".join((wanted.stage, "artifact", *map(str, step))): change for step, change in changes.items()}
    return Promoted("".join(texts), found.owner, wanted.stage, named)


def _find(documents: Sequence[Document], wanted: Wanted) -> tuple[int, Found]:
    policies = [
        (index, found)
        for index, document in enumerate(documents)
        if "RoutingPolicy" in document.text
        for found in find_objects(parse(document), wanted.namespace)
        if found.owner.kind == "RoutingPolicy" and str(found.value.get("apiVersion")).startswith(f"{GROUP}/")
    ]
    named = [each for each in policies if wanted.policy in {None, each[1].owner.name}]
    if len(named) == 1:
        return named[0]
    names = ", ".join(str(found.owner) for _, found in policies)
    if not named:
        raise InputError(f"there is no such RoutingPolicy; there is {names}" if names else "there is no RoutingPolicy")
    raise InputError(f"there are several RoutingPolicies: {names}; name one with --policy")


def _values(found: Found, wanted: Wanted) -> dict[Path, str]:
    """What is to stand in the stage's artifact."""
    source = _source(found, wanted.stage)
    if wanted.taken_from is None:
        digest, artifact = wanted.digest, wanted.artifact
    else:
        digest, artifact = _taken(found, wanted.taken_from, wanted.stage, source)
    if digest is None or not _DIGEST.fullmatch(digest):
        raise InputError(f"{digest!r} is no digest: `flotilla pack` prints it, sha256: and 64 hexadecimal digits")
    if artifact is not None and ("://" in artifact) != (source == "url"):
        raise InputError(f"{found.owner}: spec.{wanted.stage}.artifact has {source}, which {artifact!r} is not")
    return {**({} if artifact is None else {_SOURCES[source]: artifact}), ("digest",): digest}


def _taken(found: Found, taken_from: Stage, stage: Stage, source: str) -> tuple[str, str]:
    theirs = _source(found, taken_from)
    if theirs != source:
        raise InputError(
            f"{found.owner}: spec.{taken_from}.artifact has {theirs}, spec.{stage}.artifact {source}; edit it by hand"
        )
    models = [_at(found.value, ("spec", each, "models")) for each in (taken_from, stage)]
    if models[0] is not None and models[0] != models[1]:
        raise InputError(
            f"{found.owner}: spec.{taken_from}.models is not spec.{stage}.models; write it there before promoting"
        )
    artifact = _at(found.value, ("spec", taken_from, "artifact"))
    return str(_at(artifact, ("digest",))), str(_at(artifact, _SOURCES[source]))


def _source(found: Found, stage: Stage) -> str:
    artifact = _at(found.value, ("spec", stage, "artifact"))
    names = [name for name, path in _SOURCES.items() if isinstance(_at(artifact, path), str)]
    if len(names) != 1 or not isinstance(_at(artifact, ("digest",)), str):
        raise InputError(
            f"{found.owner} has no spec.{stage}.artifact with a source and a digest; write it once by hand"
        )
    return names[0]


def _at(value: Any, path: Path) -> Any:
    for step in path:
        value = value.get(str(step)) if is_mapping(value) else None
    return value


def _edited(document: Document, path: Path, values: Mapping[Path, str], found: Found) -> str:
    """Raises: InputError; the text would not read as what is meant."""
    wanted = parse(document)
    for step, value in values.items():
        wanted = with_part(wanted, (*path, *step), value)
    try:
        page = open_page(document, compose(document), path)
        text = apply(document.text, [replacement(page, (*path, *step), value) for step, value in values.items()])
        if parse(Document(text, 1)) == wanted:
            return text
    except EditError as error:
        raise InputError(f"{found.owner}: {error}; write it out") from error
    raise InputError(f"{found.owner}: {'.'.join(map(str, path))} cannot be edited in place; write out its aliases")
