"""The routing snapshot: canonical, complete, and readable only in the version that it says."""

from __future__ import annotations

import hashlib
import json
from typing import Any

import pytest
from pydantic import ValidationError

from flotilla_api.snapshot import (
    EscalationConfig,
    Route,
    RoutingSnapshot,
    Target,
    TimeoutConfig,
    TimePrice,
    TokenPrice,
    WeightedTarget,
)

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
    "change", [{"schemaVersion": 2}, {"apiKey": "secret"}, {"maxBodyBytes": 0}], ids=["version", "unknown", "bound"]
)
def test_snapshot_of_another_shape_is_refused(change: dict[str, Any]) -> None:
    """A router keeps its last good snapshot rather than guess."""
    data = json.loads(a_snapshot().to_json()) | change

    with pytest.raises(ValidationError):
        RoutingSnapshot.model_validate(data)
