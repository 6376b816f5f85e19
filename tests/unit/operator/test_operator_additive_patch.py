"""The JSON patch of an injection: whoever applies it gets what `inject_sidecar` made, and nothing else is touched."""

from __future__ import annotations

import copy
from typing import Any

import jsonpatch  # pyright: ignore[reportMissingTypeStubs]
import pytest
from hypothesis import given
from test_operator_sidecar import PODS, an_agent, inputs

from flotilla_operator.resources.additive_patch import make_additive_patch
from flotilla_operator.resources.sidecar import inject_sidecar

Manifest = dict[str, Any]


def applied(patch: list[Manifest], pod: Manifest) -> Manifest:
    return jsonpatch.JsonPatch(patch).apply(copy.deepcopy(pod))  # pyright: ignore


@given(pod=PODS)
def test_a_patched_pod_is_the_injected_pod(pod: Manifest) -> None:
    """By an implementation of RFC 6902 that is not ours."""
    after = inject_sidecar(pod, inputs()).pod
    patch = make_additive_patch(pod, after)

    assert applied(patch, pod) == after
    assert {each["op"] for each in patch} <= {"add"}


def test_only_what_is_missing_is_sent() -> None:
    """A list that is there gets entries, so that nothing that another webhook put there is sent back."""
    agent = an_agent(
        initContainers=[{"name": "migrate", "image": "m", "env": [{"name": "A", "value": "1"}]}],
        volumes=[{"name": "data", "emptyDir": {}}],
    )
    agent["metadata"]["annotations"] = {"a": "b"}
    patch = make_additive_patch(agent, inject_sidecar(agent, inputs()).pod)

    assert [each["path"] for each in patch] == [
        "/metadata/annotations/flotilla.dev~1injected",
        "/spec/containers/0/env",
        "/spec/initContainers/0",
        "/spec/initContainers/1/env/0",
        "/spec/initContainers/1/env/1",
        "/spec/volumes/0",
        "/spec/volumes/1",
    ]


def test_an_injected_pod_needs_no_patch() -> None:
    """A webhook that is asked again has nothing to say."""
    once = inject_sidecar(an_agent(), inputs()).pod

    assert make_additive_patch(once, inject_sidecar(once, inputs()).pod) == []


def test_a_field_that_is_null_counts_as_absent() -> None:
    """The API server sends some fields so."""
    assert make_additive_patch({"a": None}, {"a": {"b": 1}}) == [{"op": "add", "path": "/a", "value": {"b": 1}}]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        pytest.param({"a": 1}, {"a": 2}, id="a value"),
        pytest.param({"a": {"b": 1}}, {"a": 1}, id="a mapping"),
        pytest.param({"a": 1, "b": 2}, {"a": 1}, id="a field less"),
        pytest.param({"a": [{"name": "x"}]}, {"a": []}, id="an entry less"),
        pytest.param({"a": [1, 2]}, {"a": [2, 1]}, id="another order"),
    ],
)
def test_what_is_not_an_addition_is_an_error(before: Manifest, after: Manifest) -> None:
    """Nothing that the caller did not mean is ever sent."""
    with pytest.raises(ValueError, match=r"changed|lost"):
        make_additive_patch(before, after)
