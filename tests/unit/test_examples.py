"""The examples hang together."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from flotilla_api.crds import KINDS_BY_NAME
from flotilla_api.meta import API_VERSION

Manifest = dict[str, Any]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
FROM_OUTSIDE = {("Secret", "provider-ca")}
"""What the quickstart names and does not hold: the authority of a simulated provider, which is made when it starts."""


def _load(folder: str) -> list[Manifest]:
    files = sorted((EXAMPLES / folder).glob("*.yaml"))
    return [document for file in files for document in yaml.safe_load_all(file.read_text())]


QUICKSTART = _load("quickstart")
AUTOSCALING = _load("autoscaling")
LEARNED = _load("learned-routing")
OURS = [
    manifest
    for manifest in [*QUICKSTART, *AUTOSCALING, *LEARNED, *_load("accelerators")]
    if manifest["apiVersion"] == API_VERSION
]


def _identity(manifest: Manifest) -> tuple[str, str]:
    return manifest["kind"], manifest["metadata"]["name"]


def _named(manifest: Manifest) -> set[tuple[str, str]]:
    """Everything that a spec refers to."""
    spec: Manifest = manifest.get("spec", {})
    match manifest["kind"]:
        case "RoutingPolicy":
            levels = [spec, *spec.get("rules", [])]
            found = {("Expert", entry["name"]) for level in levels for entry in level.get("experts", [])}
            found |= {("Fallback", entry["name"]) for level in levels for entry in level.get("fallbacks", [])}
            return found | {("Secret", spec["auth"]["apiKeysSecretRef"]["name"])}
        case "Fallback":
            external = spec["external"]
            references = [external["credentialsSecretRef"], external.get("tls", {}).get("caSecretRef")]
            return {("Secret", reference["name"]) for reference in references if reference}
        case "Expert":
            return {("AcceleratorProfile", spec["accelerator"]["profile"])}
        case _:
            return set()


@pytest.mark.parametrize("manifest", [pytest.param(m, id="/".join(_identity(m))) for m in OURS])
def test_example_reads_back_as_it_is_written(manifest: Manifest) -> None:
    """Its spec is one of ours, in canonical form."""
    spec = KINDS_BY_NAME[manifest["kind"]].spec.model_validate(manifest["spec"])

    assert spec.model_dump(by_alias=True, exclude_none=True) == manifest["spec"]


def test_quickstart_holds_what_it_names() -> None:
    """After one `kubectl apply` no reference is missing."""
    named = {reference for manifest in QUICKSTART for reference in _named(manifest)}

    assert named - {_identity(manifest) for manifest in QUICKSTART} == FROM_OUTSIDE


def test_autoscaling_holds_what_it_names_but_for_secrets_that_the_document_makes() -> None:
    """In the example's namespace, and with the key that the Fallback reads its credentials from."""
    document = (ROOT / "docs" / "autoscaling.md").read_text()
    made = re.findall(r"kubectl create secret generic (\S+) -n agents --from-literal=(\S+?)=", document)
    (fallback,) = (manifest for manifest in AUTOSCALING if manifest["kind"] == "Fallback")
    credentials = fallback["spec"]["external"]["credentialsSecretRef"]
    named = {reference for manifest in AUTOSCALING for reference in _named(manifest)}

    assert named - {_identity(manifest) for manifest in AUTOSCALING} == {("Secret", name) for name, _ in made}
    assert (credentials["name"], credentials["key"]) in made


def test_learned_routing_is_one_policy_in_steps_beside_the_quickstart() -> None:
    """What it names is there but for the artifacts, and who may read its log has a key."""
    known = {_identity(manifest) for manifest in QUICKSTART}
    (keys,) = (manifest for manifest in QUICKSTART if _identity(manifest) == ("Secret", "support-api-keys"))

    assert {_identity(manifest) for manifest in LEARNED} == {("RoutingPolicy", "assistant")}
    assert {reference for manifest in LEARNED for reference in _named(manifest)} <= known
    assert {name for each in LEARNED for name in each["spec"]["requestLog"]["readers"]} <= set(keys["stringData"])


def test_learned_routing_goes_from_shadow_to_strategy_to_canary() -> None:
    """Each step adds what its file says, and the canary tries another artifact."""
    fields = ("shadow", "strategy", "canary")
    steps = [[field for field in fields if field in manifest["spec"]] for manifest in LEARNED]
    last = LEARNED[-1]["spec"]

    assert steps == [["shadow"], ["strategy"], ["strategy", "canary"]]
    assert last["canary"]["artifact"]["digest"] != last["strategy"]["artifact"]["digest"]


def test_quickstart_is_applied_in_the_wrong_order() -> None:
    """It shows that order does not matter: everything comes before what it needs."""
    position = {_identity(manifest): index for index, manifest in enumerate(QUICKSTART)}

    for manifest in QUICKSTART:
        for reference in _named(manifest) - FROM_OUTSIDE:
            assert position[_identity(manifest)] < position[reference]


def test_quickstart_lives_in_one_namespace() -> None:
    """References do not cross namespaces."""
    namespaces = {manifest["metadata"].get("namespace") for manifest in QUICKSTART}

    assert namespaces == {"agents", None}
    assert [m["kind"] for m in QUICKSTART if "namespace" not in m["metadata"]] == ["AcceleratorProfile"]


def test_quickstarts_profile_is_the_one_that_is_shipped() -> None:
    """The two copies of the L4 profile agree."""
    (profile,) = [manifest for manifest in QUICKSTART if manifest["kind"] == "AcceleratorProfile"]

    assert profile == yaml.safe_load((EXAMPLES / "accelerators" / "l4.yaml").read_text())
