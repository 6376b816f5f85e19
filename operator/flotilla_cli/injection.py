"""Sidecars for the pod templates of a stream, which is otherwise left as it is to the byte."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from flotilla_api.meta import GROUP
from flotilla_api.names import KIND_LABEL, POLICY_LABEL
from flotilla_api.policy import RoutingPolicySpec
from flotilla_operator.resources.manifest import Manifest, ObjectRef
from flotilla_operator.resources.settings import OperatorSettings
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar, wanted_policy
from flotilla_operator.resources.specs import InvalidSpecError, parse_policy

from .documents import Document, is_list, parse, split
from .edits import Edit, additions, apply, open_page
from .errors import InputError
from .templates import Found, Path, check_shape, find_objects, find_templates, labels_of

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
    """The sources' texts with sidecars, or `errors`; each message names its source and object."""

    texts: tuple[str, ...]
    injected: tuple[str, ...] = ()
    """What got something that it did not have."""
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
    results = [(source, _inject_document(document, policies, wishes)) for source, each in streams for document in each]
    errors += [f"{source.name}: {each}" for source, result in results for each in result.errors]
    asking = sum(result.asking for _, result in results)
    idle = () if asking or errors else (f"no pod template asks for a sidecar with the label {POLICY_LABEL}",)
    return Outcome(
        tuple("".join(result.texts[0] for of, result in results if of is source) for source in sources),
        injected=tuple(f"{source.name}: {each}" for source, result in results for each in result.injected),
        warnings=(
            *idle,
            *dict.fromkeys(f"{source.name}: {each}" for source, result in results for each in result.warnings),
        ),
        errors=tuple(errors),
        asking=asking,
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


def _inject_document(document: Document, policies: Policies, wishes: Wishes) -> Outcome:
    if not _is_concerned(document, wishes):
        return Outcome((document.text,))
    try:
        value = parse(document)
    except InputError as error:
        return Outcome((document.text,), errors=(str(error),))
    verdicts = [
        verdict for found in find_objects(value, wishes.namespace) for verdict in _judge_object(found, policies, wishes)
    ]
    changes = [verdict.change for verdict in verdicts if verdict.change]
    warnings = tuple(warning for verdict in verdicts for warning in verdict.warnings)
    errors = tuple(verdict.error for verdict in verdicts if verdict.error)
    asking = sum(verdict.asks for verdict in verdicts)
    if errors or not changes:
        return Outcome((document.text,), warnings=warnings, errors=errors, asking=asking)
    try:
        text = _rewrite(document, value, changes)
    except InputError as error:
        return Outcome((document.text,), warnings=warnings, errors=(str(error),))
    return Outcome((text,), tuple(map(str, changes)), warnings, asking=asking)


def _is_concerned(document: Document, wishes: Wishes) -> bool:
    """Whether it may hold what counts here: the others need not be parsed."""
    marks = ("RoutingPolicy", POLICY_LABEL if wishes.policy is None else "containers")
    return any(mark in document.text for mark in marks)


def _judge_object(found: Found, policies: Policies, wishes: Wishes) -> Iterator[_Verdict]:
    templates = list(find_templates(found))
    own = labels_of(found.value).get(POLICY_LABEL)
    if (
        own
        and wishes.policy is None
        and templates
        and not any(POLICY_LABEL in labels_of(each.value) for each in templates)
    ):
        yield _Verdict(
            warnings=(f"{found.owner}: the label {POLICY_LABEL} is the object's own; its pod template needs it",),
            asks=False,
        )
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
    found = inject_sidecar(_labelled(template.value, policy), inputs)
    if found.refused:
        return _Verdict(error=f"{owner} cannot have a sidecar: {found.refused}")
    unknown = () if given else (_unknown(ObjectRef("RoutingPolicy", owner.namespace, policy)),)
    change = None if found.pod == template.value else _Change(template, found.pod, policy)
    return _Verdict(change, (*unknown, *(f"{owner}: {warning}" for warning in found.warnings)))


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
    text = apply(document.text, [edit for change in changes for edit in _edits(document, change)])
    wanted = value
    for change in changes:
        wanted = _replaced(wanted, change.found.path, change.after)
    if parse(Document(text, document.line)) != wanted:
        owners = ", ".join(sorted({str(change.found.owner) for change in changes}))
        raise InputError(
            f"{owners}: the document cannot be added to in place; write out its aliases and merge keys, "
            "and end it with a line end"
        )
    return text


def _edits(document: Document, change: _Change) -> Iterator[Edit]:
    try:
        page = open_page(document, change.found.path)
        yield from additions(page, change.found.path, change.found.value, change.after)
    except InputError as error:
        raise InputError(f"{change.found.owner}: {error}; write it out") from error


def _replaced(value: Any, path: Path, part: Any) -> Any:
    """`value` with `part` at `path`."""
    if not path:
        return part
    step, rest = path[0], path[1:]
    if is_list(value):
        return [_replaced(item, rest, part) if index == step else item for index, item in enumerate(value)]
    return {**value, step: _replaced(value[step], rest, part)}
