"""Whatever style a workload is written in, it gets its sidecar and keeps its text."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from random import Random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from flotilla_api.names import POLICY_LABEL
from flotilla_cli.chart import make_settings
from flotilla_cli.documents import Document, is_list, is_mapping, parse
from flotilla_cli.injection import Outcome, Source, Wishes, inject
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar
from flotilla_operator.resources.specs import parse_policy
from unit.cli.writing import Writer

Manifest = dict[str, Any]

WISHES = Wishes(make_settings({"router": {"pullSecrets": ["registry"]}}))
PATHS: dict[str, tuple[str, ...]] = {
    "Pod": (),
    "Deployment": ("spec", "template"),
    "Rollout": ("spec", "template"),
    "CronJob": ("spec", "jobTemplate", "spec", "template"),
}
WORDS = st.sampled_from(["agent", "on", "1", "", "two words", "a: b", "#", "é", "first\nsecond\n", "x\n\n y"])
NAMES = st.sampled_from(["agent", "tools", "OPENAI_BASE_URL", "OPENAI_API_KEY", "flotilla-gateway-ca", "registry"])


def lists_of(items: Any) -> st.SearchStrategy[Any]:
    return st.one_of(st.none(), st.lists(items, max_size=3))


ENTRIES = lists_of(st.fixed_dictionaries({"name": NAMES}, optional={"value": WORDS}))
CONTAINERS = st.fixed_dictionaries(
    {"name": NAMES}, optional={"env": ENTRIES, "args": st.lists(WORDS, max_size=2), "image": WORDS}
)
POD_SPECS = st.fixed_dictionaries(
    {"containers": st.lists(CONTAINERS, min_size=1, max_size=3)},
    optional={
        "initContainers": lists_of(CONTAINERS),
        "volumes": ENTRIES,
        "imagePullSecrets": ENTRIES,
        "nodeSelector": st.just({"pool": "a"}),
        "hostname": WORDS,
    },
)
METADATA = st.fixed_dictionaries(
    {"labels": st.just({POLICY_LABEL: "billing", "app": "agent"})},
    optional={"annotations": st.one_of(st.none(), st.dictionaries(NAMES, WORDS, max_size=2)), "name": NAMES},
)


def shuffled(value: Any, random: Random) -> Any:
    """With the keys of each mapping in any order."""
    if is_list(value):
        return [shuffled(each, random) for each in value]
    if not is_mapping(value):
        return value
    keys = random.sample(sorted(value), len(value))
    return {key: shuffled(value[key], random) for key in keys}


def workload(kind: str, pod: Manifest) -> Manifest:
    value = pod
    for key in reversed(PATHS[kind]):
        value = {key: value, "replicas": 2} if key == "template" else {key: value}
    return {"apiVersion": "v1", "kind": kind, **value}


def pod_of(value: Manifest, kind: str) -> Manifest:
    for key in PATHS[kind]:
        value = value[key]
    return value


def expected(value: Manifest, kind: str) -> Manifest:
    """What the pure function makes of it; Secrets for images are added only to those that a pod names."""
    spec = parse_policy({"spec": {"experts": [], "auth": {"anonymous": True}}})
    result = copy.deepcopy(value)
    pod = pod_of(result, kind)
    settings = WISHES.settings if pod["spec"].get("imagePullSecrets") else make_settings({})
    found = inject_sidecar(copy.deepcopy(pod), SidecarInputs("default", "billing", spec, settings))
    pod.update(found.pod)
    return result


def run(text: str) -> Outcome:
    return inject([Source("f", text)], WISHES)


def holds_in_order(whole: Sequence[str], parts: Sequence[str]) -> bool:
    """Whether `parts` is what is left of `whole` when something is taken out."""
    rest = iter(whole)
    return all(part in rest for part in parts)


WORKLOADS = st.tuples(st.sampled_from(sorted(PATHS)), METADATA, POD_SPECS)
STYLES = st.sampled_from([(2, 0), (2, 2), (4, 0), (4, 2), (4, 4), (3, 1)])


@given(drawn=WORKLOADS, seed=st.integers(0, 2**32), style=STYLES, newline=st.sampled_from(["\n", "\r\n"]))
def test_the_text_with_a_sidecar_means_what_the_pure_function_returns(
    drawn: tuple[str, Manifest, Manifest], seed: int, style: tuple[int, int], newline: str
) -> None:
    """And nothing is gone from the text but `null`, `~`, `[]` and `{}`; and injecting that again changes no byte."""
    kind, metadata, spec = drawn
    value = shuffled(workload(kind, {"metadata": metadata, "spec": spec}), Random(seed))
    text = Writer(Random(seed), *style).document(value).replace("\n", newline)
    assert parse(Document(text, 1)) == value

    outcome = run(text)

    assert outcome.errors == ()
    (after,) = outcome.texts
    assert parse(Document(after, 1)) == expected(value, kind)
    bare = text.replace("null", "").replace("~", "").replace("[]", "").replace("{}", "").replace(" ", "")
    assert holds_in_order(after, bare)
    assert run(after).texts == (after,)
    assert run(after).injected == ()


def without_nothing(value: Any) -> Any:
    """Without the entries of mappings that are None, [] or {}."""
    if is_list(value):
        return [without_nothing(each) for each in value]
    if not is_mapping(value):
        return value
    return {key: without_nothing(each) for key, each in value.items() if each not in (None, [], {})}


@given(drawn=WORKLOADS, seed=st.integers(0, 2**32), style=STYLES)
def test_every_line_of_a_block_document_survives_in_order(
    drawn: tuple[str, Manifest, Manifest], seed: int, style: tuple[int, int]
) -> None:
    """What is added stands on lines of its own; only a line without a value may change, to get one."""
    kind, metadata, spec = drawn
    value = without_nothing(shuffled(workload(kind, {"metadata": metadata, "spec": spec}), Random(seed)))
    text = Writer(Random(seed), *style, brackets=False).document(value)

    (after,) = run(text).texts

    assert len(after) > len(text)
    assert holds_in_order(after.split("\n"), text.split("\n"))
