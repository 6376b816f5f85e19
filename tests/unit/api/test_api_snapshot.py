"""The routing snapshot: canonical, complete, and readable by routers of other releases."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from pydantic import ValidationError

from flotilla_api.snapshot import (
    SCHEMA_VERSION,
    ColdStartConfig,
    EscalationConfig,
    Route,
    RoutingSnapshot,
    Target,
    TimeoutConfig,
    TimePrice,
    TokenPrice,
    WeightedTarget,
)

FROZEN = Path(__file__).parent / "frozen"
"""What the release before autoscaling wrote, and the schema of what its routers took: they refused unknown fields."""

ESCALATION = EscalationConfig(
    on=(),
    commitTokens=12,
    commitMaxWaitSeconds=0.2,
    noSignal="Accept",
    structuredMaxWaitSeconds=5,
    structuredMaxBytes=65536,
    minConfidence=0.5,
    deadlineSeconds=20,
    onFallbackFailure="UseExpert",
)
TIMEOUTS = TimeoutConfig(
    connectSeconds=1, firstTokenSeconds=10, idleSeconds=15, totalSeconds=300, keepAliveAfterSeconds=15
)


def a_snapshot(price: TokenPrice | TimePrice | None = None) -> RoutingSnapshot:
    """A policy with one expert."""
    target = Target(
        kind="Expert",
        name="sql",
        location="Local",
        model="sql",
        apis=("chat",),
        tools=False,
        jsonSchema=True,
        price=price,
    )
    return RoutingSnapshot(
        schemaVersion=SCHEMA_VERSION,
        namespace="agents",
        policy="support",
        uid="0",
        generation=1,
        models=("auto",),
        pinnable=(),
        targets=(target,),
        route=Route(
            experts=(WeightedTarget(name="sql", weight=1),), fallbacks=(), boundary="Any", escalation=ESCALATION
        ),
        rules=(),
        timeouts=TIMEOUTS,
        maxBodyBytes=8 * 1024**2,
        anonymous=True,
    )


@pytest.mark.parametrize(
    "price",
    [None, TokenPrice(inputPerMillionUSD=0.02, outputPerMillionUSD=0.08), TimePrice(perSecondUSD=0.0000035)],
    ids=["unknown", "tokens", "time"],
)
def test_snapshot_comes_back_as_it_was(price: TokenPrice | TimePrice | None) -> None:
    """The router reads exactly what the operator wrote, also which kind of price it is."""
    snapshot = a_snapshot(price)

    assert RoutingSnapshot.model_validate_json(snapshot.to_json()) == snapshot


def test_equal_snapshots_have_equal_digests() -> None:
    """A digest says what a router serves, so it depends on nothing else."""
    first, second = a_snapshot().to_json(), a_snapshot().to_json()

    assert first == second
    assert RoutingSnapshot.digest_of(first) == "sha256:" + hashlib.sha256(second).hexdigest()


@pytest.mark.parametrize(
    "change",
    [{"schemaVersion": 2}, {"schemaVersion": None}, {"maxBodyBytes": 0}],
    ids=["version", "no version", "bound"],
)
def test_snapshot_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    """A router keeps its last good snapshot rather than guess."""
    data = json.loads(a_snapshot().to_json()) | change

    with pytest.raises(ValidationError):
        RoutingSnapshot.model_validate(data)


def test_snapshot_says_its_version_and_leaves_defaults_out() -> None:
    """What holds its default is not written, so that a field that is new says nothing to routers until it is used."""
    written = json.loads(a_snapshot().to_json())

    assert written["schemaVersion"] == 1
    assert "coldStart" not in written
    assert "wakes" not in written["targets"][0]


def test_router_ignores_what_it_does_not_know() -> None:
    """A newer operator may add fields at every level, and its snapshot still routes."""
    data = json.loads(a_snapshot().to_json()) | {"later": 1}
    data["targets"][0]["later"] = data["route"]["later"] = {"on": True}

    assert RoutingSnapshot.model_validate(data) == a_snapshot()


def test_previous_release_reads_a_snapshot_that_uses_nothing_newer() -> None:
    """After an upgrade of the operator old routers keep up with replicas, until a policy asks for something newer."""
    reader = json.loads((FROZEN / "snapshot.schema.json").read_text())
    snapshot = RoutingSnapshot.model_validate_json((FROZEN / "snapshot.json").read_bytes())
    held = snapshot.model_copy(update={"coldStart": ColdStartConfig(mode="Hold")})

    jsonschema.validate(json.loads(snapshot.to_json()), reader)
    with pytest.raises(jsonschema.ValidationError, match="coldStart"):
        jsonschema.validate(json.loads(held.to_json()), reader)


def test_defaults_are_what_they_were() -> None:
    """What is left out means the same to routers of every release."""
    before = defaults_of(json.loads((FROZEN / "snapshot.schema.json").read_text()))
    now = defaults_of(RoutingSnapshot.model_json_schema())

    assert before
    assert {field: now.get(field) for field in before} == before


def defaults_of(schema: dict[str, Any]) -> dict[tuple[str, str], Any]:
    """The default of each optional field, by its part and its name; the version is always written."""
    parts = {"RoutingSnapshot": schema, **schema["$defs"]}
    return {
        (part, name): field["default"]
        for part, body in parts.items()
        for name, field in body.get("properties", {}).items()
        if "default" in field and name != "schemaVersion"
    }
