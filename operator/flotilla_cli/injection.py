"""Sidecars for the pod templates of a stream, which is otherwise left as it is to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import yaml

from flotilla_api.meta import GROUP
from flotilla_api.names import KIND_LABEL, POLICY_LABEL
from flotilla_api.policy import RoutingPolicySpec
from flotilla_operator.resources.manifest import Manifest, ObjectRef
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar, wanted_policy
from flotilla_operator.resources.specs import InvalidSpecError, parse_policy

from .documents import Document, compose, parse, split, with_part
from .edits import Edit, additions, apply, open_page
from .errors import EditError, InputError
from .templates import Found, check_shape, find_objects, find_templates, labels_of

_UNKNOWN_POLICY = RoutingPolicySpec.model_validate({"experts": [], "auth": {"anonymous": True}})
"""Of a policy that is not given: what it says of sidecars is the default."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file, or what came through a pipe."""

    name: str
    text: str


@dataclass(frozen=True, slots=True)
class Wishes:
    """What a command's options say."""

    settings: OperatorSettings
    namespace: str = "default"
    """Of objects that name none."""
    policy: str | None = None
    """Whose sidecar every pod template gets; None: only those with the label, each that of the policy it names."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The sources' texts with sidecars, or as they were and `errors`; each message names its source and object."""

    texts: tuple[str, ...]
    injected: tuple[str, ...] = ()
    """What got something that it did not have."""
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of a document, or of a source's documents."""

    text: str
    injected: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    errors: tuple[str, ...] = ()
    asking: int = 0
    """Pod templates that are to have a sidecar, also those that have it already."""


@dataclass(frozen=True, slots=True)
class _Change:
    """A pod template before and after."""

    found: Found
    after: Manifest
    policy: str

    def __str__(self) -> str:
        return f"{self.found.owner} would get the sidecar of policy {self.policy}"


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What becomes of one pod template."""

    change: _Change | None = None
    warnings: tuple[str, ...] = ()
    error: str = ""
    asks: bool = True


Policies = Mapping[ObjectRef, RoutingPolicySpec]


def inject(sources: Sequence[Source], wishes: Wishes) -> Outcome:
    """Every pod template that asks for it with its policy's sidecar; a policy may stand in any of the sources.

    Doing it twice does what doing it once does.
    """
    streams = [(source, split(source.text)) for source in sources]
    policies, errors = _read_policies(streams, wishes)
    results = [
        _named(source, [_inject_document(document, policies, wishes) for document in documents])
        for source, documents in streams
    ]
    warnings = tuple(dict.fromkeys(warning for result in results for warning in result.warnings))
    errors += [error for result in results for error in result.errors]
    if errors:
        return Outcome(tuple(source.text for source in sources), warnings=warnings, errors=tuple(errors))
    if not any(result.asking for result in results):
        label = f" with the label {POLICY_LABEL}" if wishes.policy is None else ""
        warnings = (f"there is no pod template{label}, so nothing gets a sidecar", *warnings)
    injected = tuple(each for result in results for each in result.injected)
    return Outcome(tuple(result.text for result in results), injected, warnings)


def _named(source: Source, results: Sequence[_Result]) -> _Result:
    """The results of a source's documents as one, whose messages name the source."""
    return _Result(
        text="".join(result.text for result in results),
        injected=tuple(f"{source.name}: {each}" for result in results for each in result.injected),
        warnings=tuple(f"{source.name}: {each}" for result in results for each in result.warnings),
        errors=tuple(f"{source.name}: {each}" for result in results for each in result.errors),
        asking=sum(result.asking for result in results),
    )


def _read_policies(streams: Sequence[tuple[Source, list[Document]]], wishes: Wishes) -> tuple[Policies, list[str]]:
    policies: dict[ObjectRef, RoutingPolicySpec] = {}
    errors: list[str] = []
    documents = [(source, document) for source, each in streams for document in each]
    for source, document in documents:
        if "RoutingPolicy" not in document.text:
            continue
        for owner, manifest in _policies_of(document, wishes.namespace):
            try:
                policies[owner] = parse_policy(manifest)
            except InvalidSpecError as error:
                errors.append(f"{source.name}: {owner}: {error}")
    return policies, errors


def _policies_of(document: Document, namespace: str) -> Iterator[tuple[ObjectRef, Manifest]]:
    """Those of a document; what cannot be parsed is reported where sidecars are added."""
    try:
        value = parse(document)
    except InputError:
        return
    for found in find_objects(value, namespace):
        if found.owner.kind == "RoutingPolicy" and str(found.value.get("apiVersion")).startswith(f"{GROUP}/"):
            yield found.owner, found.value


def _inject_document(document: Document, policies: Policies, wishes: Wishes) -> _Result:
    if not _is_concerned(document, wishes):
        return _Result(document.text)
    try:
        value = parse(document)
    except InputError as error:
        return _Result(document.text, errors=(str(error),))
    verdicts = [
        verdict for found in find_objects(value, wishes.namespace) for verdict in _judge_object(found, policies, wishes)
    ]
    changes = [verdict.change for verdict in verdicts if verdict.change]
    warnings = tuple(warning for verdict in verdicts for warning in verdict.warnings)
    errors = tuple(verdict.error for verdict in verdicts if verdict.error)
    asking = sum(verdict.asks for verdict in verdicts)
    if errors or not changes:
        return _Result(document.text, warnings=warnings, errors=errors, asking=asking)
    try:
        text = _rewrite(document, value, changes)
    except InputError as error:
        return _Result(document.text, warnings=warnings, errors=(str(error),))
    return _Result(text, tuple(map(str, changes)), warnings, asking=asking)


def _is_concerned(document: Document, wishes: Wishes) -> bool:
    """Whether it may hold what counts here: the others need not be parsed."""
    marks = ("RoutingPolicy", POLICY_LABEL if wishes.policy is None else "containers")
    return any(mark in document.text for mark in marks)


def _judge_object(found: Found, policies: Policies, wishes: Wishes) -> Iterator[_Verdict]:
    templates = list(find_templates(found))
    labelled = [each for each in templates if POLICY_LABEL in labels_of(each.value)]
    if POLICY_LABEL in labels_of(found.value) and templates and not labelled and wishes.policy is None:
        warning = f"{found.owner}: the label {POLICY_LABEL} is the object's own; its pod template needs it"
        yield _Verdict(warnings=(warning,), asks=False)
    for template in templates:
        if policy := _policy_for(template.value, wishes):
            yield _judge(template, policy, policies, wishes)


def _policy_for(pod: Manifest, wishes: Wishes) -> str | None:
    labels = labels_of(pod)
    if wishes.policy is None or KIND_LABEL in labels:
        return wanted_policy({"metadata": {"labels": labels}})
    return wishes.policy


def _judge(template: Found, policy: str, policies: Policies, wishes: Wishes) -> _Verdict:
    owner = template.owner
    present = labels_of(template.value).get(POLICY_LABEL)
    if present is not None and present != policy:
        return _Verdict(error=f"{owner}: the label {POLICY_LABEL} names {present!r}; remove it, or leave out --policy")
    try:
        check_shape(template.value)
    except InputError as error:
        return _Verdict(error=f"{owner}: {error}")
    given = policies.get(ObjectRef("RoutingPolicy", owner.namespace, policy))
    inputs = SidecarInputs(owner.namespace, policy, given or _UNKNOWN_POLICY, wishes.settings)
    if not inputs.enabled:
        return _Verdict(warnings=(f"{owner}: policy {policy} has placement.sidecar.enabled: false, so no sidecar",))
    secrets, left_out = wishes.settings.router_image_pull_secrets, ()
    if secrets and not template.value["spec"].get("imagePullSecrets"):
        inputs = replace(inputs, settings=replace(inputs.settings, router_image_pull_secrets=()))
        left_out = (f"{owner}: {_LEFT_OUT.format(', '.join(secrets))}",)
    found = inject_sidecar(_labelled(template.value, policy), inputs)
    if found.refused:
        return _Verdict(error=f"{owner} cannot have a sidecar: {found.refused}")
    unknown = () if given else (_unknown(ObjectRef("RoutingPolicy", owner.namespace, policy)),)
    change = None if found.pod == template.value else _Change(template, found.pod, policy)
    return _Verdict(change, (*unknown, *left_out, *(f"{owner}: {warning}" for warning in found.warnings)))


_LEFT_OUT = (
    "router.pullSecrets ({}) are left out: a pod that names any gets none of its ServiceAccount's; "
    "add them to the pod's ServiceAccount"
)


def _labelled(pod: Manifest, policy: str) -> Manifest:
    metadata: Manifest = pod.get("metadata") or {}
    return {**pod, "metadata": {**metadata, "labels": {**(metadata.get("labels") or {}), POLICY_LABEL: policy}}}


def _unknown(policy: ObjectRef) -> str:
    return f"{policy} is not among the files, so what it says of sidecars is not known; give its file with -f as well"


def _rewrite(document: Document, value: Any, changes: Sequence[_Change]) -> str:
    """The document's text with the changes, which reads as just that.

    Raises:
        InputError: it would not; some of it is written in a way that additions to the text cannot follow.
    """
    root = compose(document)
    text = apply(document.text, [edit for change in changes for edit in _edits(document, root, change)])
    wanted = value
    for change in changes:
        wanted = with_part(wanted, change.found.path, change.after)
    if not _reads_as(text, wanted):
        owners = ", ".join(sorted({str(change.found.owner) for change in changes}))
        raise InputError(
            f"{owners}: the document cannot be added to in place; write out its aliases and merge keys, "
            "and end it with a line end"
        )
    return text


def _edits(document: Document, root: yaml.Node, change: _Change) -> list[Edit]:
    try:
        page = open_page(document, root, change.found.path)
        return additions(page, change.found.path, change.found.value, change.after)
    except EditError as error:
        raise InputError(f"{change.found.owner}: {error}; write it out") from error


def _reads_as(text: str, wanted: Any) -> bool:
    try:
        return parse(Document(text, 1)) == wanted
    except InputError:
        return False
