"""The CRDs on a real API server: it takes them, and checks every fact with a message of one sentence."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any

import httpx
import pytest

from crdcases.objects import SCALED, Manifest, make_object, objects
from crdcases.rules import RULES
from crdcases.schema import Constraint, constraints
from crdcases.values import Case, accepted_cases, refused_cases
from flotilla_api.crds import KINDS, KINDS_BY_NAME, Kind, make_crd
from flotilla_api.meta import API_VERSION
from localcluster.cluster import LocalCluster

NOT_CHECKED = "some validation rules were not checked"  # the server's note that it stopped at a wrong type or length
CONSTRAINTS = constraints()
by_kind = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.name) for kind in KINDS])
by_constraint = pytest.mark.parametrize("constraint", [pytest.param(found, id=found.id) for found in CONSTRAINTS])


@pytest.fixture(scope="module")
def control_plane() -> Generator[LocalCluster]:
    """A cluster of this module's own: its tests list every object of our kinds."""
    with LocalCluster.start(name="crds", runner=False) as running:
        yield running


@pytest.fixture(scope="module")
def api(control_plane: LocalCluster) -> httpx.Client:
    """An API server that serves our kinds, with one object of each to give a status to."""
    for kind in KINDS:
        body = make_crd(kind)
        control_plane.api.post("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=body).raise_for_status()
    for kind in KINDS:
        control_plane.wait_for(lambda kind=kind: control_plane.api.get(_url(kind)).is_success, f"{kind.name}s served")
        control_plane.api.post(
            _url(kind), json=make_object(kind, objects(kind)[0]["spec"], "stored")
        ).raise_for_status()
    return control_plane.api


def _url(kind: Kind) -> str:
    return f"/apis/{API_VERSION}{'/namespaces/default' if kind.namespaced else ''}/{kind.plural}"


def _submit(api: httpx.Client, constraint: Constraint, manifest: Manifest) -> httpx.Response:
    """The server's answer to a dry run; a status goes to the object that is stored."""
    parameters = {"dryRun": "All", "fieldValidation": "Strict"}
    url = _url(constraint.kind)
    if constraint.path[:1] != ("status",):
        return api.post(url, params=parameters, json=manifest)
    headers = {"Content-Type": "application/merge-patch+json"}
    return api.patch(f"{url}/stored/status", params=parameters, headers=headers, json={"status": manifest["status"]})


def _complaints(response: httpx.Response) -> list[str]:
    """`field: message` of everything that the server found wrong; empty: it accepted."""
    if response.is_success:
        return []
    answer: dict[str, Any] = response.json()
    causes: list[dict[str, str]] = answer.get("details", {}).get("causes", [])
    found = [f"{cause['field']}: {cause['message']}" for cause in causes if NOT_CHECKED not in cause["message"]]
    return found or [answer["message"]]


def _is_shown_by(answers: list[list[str]], case: Case) -> bool:
    """Whether one of the answers is the expected complaint, and no other check of ours has a say in it.

    Kubernetes itself may add what follows from a wrong type, such as that 0.42 is not in an enum of strings either.
    """
    return any(_is_shown(complaints, case.message) for complaints in answers)


def _is_shown(complaints: list[str], message: str) -> bool:
    expected = [complaint for complaint in complaints if message in complaint]
    others = [complaint for complaint in complaints if message not in complaint]
    return len(expected) == 1 and not any(other.endswith(tuple(RULES)) for other in others)


@by_constraint
def test_crd_accepts_what_is_inside(api: httpx.Client, constraint: Constraint) -> None:
    """Every value at the limit is accepted in some object."""
    for case in accepted_cases(constraint):
        answers = [_complaints(_submit(api, constraint, manifest)) for manifest in case.candidates]

        assert [] in answers


@by_constraint
def test_crd_refuses_what_is_outside_with_one_message(api: httpx.Client, constraint: Constraint) -> None:
    """Every value beyond the limit is refused by this check and no other, in its own words."""
    for case in refused_cases(constraint):
        answers = [_complaints(_submit(api, constraint, manifest)) for manifest in case.candidates]

        assert [] not in answers
        assert _is_shown_by(answers, case), f"{case.message!r} is not what the server says: {answers}"


def test_crds_are_structural(api: httpx.Client) -> None:
    """The API server has no complaint about any of our definitions."""
    for kind in KINDS:
        url = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{kind.crd_name}"
        conditions = api.get(url).raise_for_status().json()["status"]["conditions"]

        assert {condition["type"]: condition["status"] for condition in conditions} == {
            "NamesAccepted": "True",
            "Established": "True",
        }


@by_kind
def test_objects_are_stored_as_they_were_sent(api: httpx.Client, kind: Kind) -> None:
    """The server adds no defaults and prunes nothing of an accepted spec, and the models read what it stored."""
    for manifest in objects(kind):
        response = api.post(_url(kind), params={"dryRun": "All"}, json=manifest)

        stored = response.raise_for_status().json()["spec"]
        assert stored == manifest["spec"]
        assert kind.spec.model_validate(stored).model_dump(by_alias=True, exclude_none=True) == stored


@by_kind
def test_unknown_fields_are_refused(api: httpx.Client, kind: Kind) -> None:
    """A misspelt field is an error for kubectl, which validates strictly."""
    manifest = objects(kind)[0]
    manifest["spec"]["replicaCount"] = 1

    response = api.post(_url(kind), params={"dryRun": "All", "fieldValidation": "Strict"}, json=manifest)

    assert 'unknown field "spec.replicaCount"' in response.json()["message"]


@by_kind
def test_short_names_list_the_kind(control_plane: LocalCluster, api: httpx.Client, kind: Kind) -> None:
    """kubectl knows each kind by its short name."""
    names = control_plane.kubectl("get", kind.short_name, "--output", "name").split()

    assert names == [f"{kind.name.lower()}.flotilla.dev/stored"]


def test_category_lists_all_kinds(control_plane: LocalCluster, api: httpx.Client) -> None:
    """`kubectl get flotilla` shows the objects of every kind."""
    names = control_plane.kubectl("get", "flotilla", "--output", "name").split()

    assert sorted(names) == sorted(f"{kind.name.lower()}.flotilla.dev/stored" for kind in KINDS)


COLUMNS = {
    "Expert": (
        "NAME MODEL READY REPLICAS REASON AGE PROFILE ENDPOINT COST/H RECOMMENDED",
        "stored hf://Qwen/Qwen2.5-1.5B-Instruct True 1 Ready l4 invoice-expert.agents.svc:8000 0.80 2",
    ),
    "Fallback": (
        "NAME MODEL READY REPLICAS REASON AGE ENDPOINT COST/H",
        "stored big-1 True 1 Ready invoice-expert.agents.svc:8000 0.80",
    ),
    "RoutingPolicy": (
        "NAME READY EXPERTS FALLBACKS REASON AGE ENDPOINT ROUTERS SIDECARS STRATEGY",
        "stored True 1/2 1/1 Ready http://support-gateway.agents.svc/v1 2/2 5/7 WinRate",
    ),
    "AcceleratorProfile": ("NAME RESOURCE MEMORY-GIB $/H AGE", "stored nvidia.com/gpu 24 0.80"),
}


@by_kind
def test_wide_output_shows_every_column(control_plane: LocalCluster, api: httpx.Client, kind: Kind) -> None:
    """`kubectl get -o wide` prints what a person looks for first, from spec and status."""
    if kind.status:
        status = {"status": objects(kind)[0]["status"]}
        headers = {"Content-Type": "application/merge-patch+json"}
        api.patch(f"{_url(kind)}/stored/status", headers=headers, json=status).raise_for_status()

    header, row = control_plane.kubectl("get", kind.plural, "--output", "wide").splitlines()

    expected_header, expected_row = COLUMNS[kind.name]
    assert header.split() == expected_header.split()
    age = header.split().index("AGE")
    assert [cell for index, cell in enumerate(row.split()) if index != age] == expected_row.split()


def test_scale_sets_the_replicas_of_an_expert(control_plane: LocalCluster, api: httpx.Client) -> None:
    """`kubectl scale` writes spec.replicas, and the scale carries the pods' selector."""
    kind = KINDS_BY_NAME["Expert"]
    name = "scaled"
    api.post(_url(kind), json=make_object(kind, objects(kind)[0]["spec"], name)).raise_for_status()

    control_plane.kubectl("scale", f"expert/{name}", "--replicas", "3")

    assert api.get(f"{_url(kind)}/{name}").json()["spec"]["replicas"] == 3
    assert api.get(f"{_url(kind)}/{name}/scale").json()["spec"]["replicas"] == 3
    api.delete(f"{_url(kind)}/{name}").raise_for_status()


def test_scale_does_not_touch_an_expert_that_is_scaled(control_plane: LocalCluster, api: httpx.Client) -> None:
    """`kubectl scale` and an autoscaler on the Expert are told why: two would say the number."""
    kind = KINDS_BY_NAME["Expert"]
    name = "autoscaled"
    api.post(_url(kind), json=make_object(kind, SCALED, name)).raise_for_status()

    answer = api.patch(
        f"{_url(kind)}/{name}/scale",
        headers={"Content-Type": "application/merge-patch+json"},
        json={"spec": {"replicas": 3}},
    )

    assert "set replicas or scaling, not both" in answer.text
    assert "replicas" not in api.get(f"{_url(kind)}/{name}").json()["spec"]
    api.delete(f"{_url(kind)}/{name}").raise_for_status()


def test_explain_describes_fields(control_plane: LocalCluster, api: httpx.Client) -> None:
    """`kubectl explain` gives a field's type and meaning."""
    text = control_plane.kubectl("explain", "expert.spec.model.uri")

    assert "FIELD: uri <string>" in text
    assert "hf://ORGANISATION/MODEL is downloaded when a pod starts" in " ".join(text.split())
