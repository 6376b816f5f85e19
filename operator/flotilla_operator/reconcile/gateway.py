"""RoutingPolicies: which children they have, since when their snapshot is what it is, and whether it can be stored."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from flotilla_api.conditions import Reason
from flotilla_api.control import format_time
from flotilla_api.names import PUBLISHED_KEY, SNAPSHOT_KEY, snapshot_name
from flotilla_api.policy import RoutingPolicySpec
from flotilla_operator.resources.gateway import GatewayInputs, make_gateway
from flotilla_operator.resources.snapshot import make_snapshot, models_of
from flotilla_operator.resources.specs import ExternalModel

from .engine import find_child
from .types import Manifest, Observed, PublishedSnapshot, Step, StepFailure

MAX_CONFIG_MAP_BYTES = 1024 * 1024
"""What the API server takes as the data of a ConfigMap, keys and values together."""
_SHOWN_PARTS = 3


def desired_gateway(observed: Observed, spec: RoutingPolicySpec) -> tuple[Manifest, ...]:
    """The gateway's children; a reference that does not exist leaves a gap in the snapshot, never a missing gateway."""
    owner = observed.owner
    models = models_of(owner["metadata"]["namespace"], spec, observed.references)
    snapshot = make_snapshot(owner, spec, observed.references, observed.reference_pods)
    published = published_snapshot(observed, snapshot.to_json())
    inputs = GatewayInputs(
        owner=owner,
        spec=spec,
        externals={model.name: model.spec for _, model in models if isinstance(model, ExternalModel)},
        snapshot=published.data,
        published_at=published.published_at,
        control_ca=observed.control_ca,
        settings=observed.settings,
    )
    return make_gateway(inputs)


def published_snapshot(observed: Observed, data: bytes) -> PublishedSnapshot:
    """The snapshot `data`, published now unless the live ConfigMap holds just that.

    The time orders a policy's snapshots, also over a change of the leader whose successor's clock is behind.
    """
    live = find_child(observed, "ConfigMap", snapshot_name(observed.owner["metadata"]["name"])) or {}
    stored: dict[str, str] = live.get("data") or {}
    before = parse_time(stored.get(PUBLISHED_KEY, ""))
    if before is None:
        return PublishedSnapshot(data, format_time(observed.now))
    if stored.get(SNAPSHOT_KEY, "").encode() == data:
        return PublishedSnapshot(data, format_time(before))
    return PublishedSnapshot(data, format_time(max(observed.now, before + timedelta(microseconds=1))))


def parse_time(text: str) -> datetime | None:
    """The moment that `format_time` wrote; None for anything else."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else None


def snapshot_of(desired: Sequence[Manifest]) -> PublishedSnapshot | None:
    """The snapshot that a RoutingPolicy's ConfigMap holds; None where there is none."""
    maps = (manifest.get("data", {}) for manifest in desired if manifest["kind"] == "ConfigMap")
    found = next((data for data in maps if SNAPSHOT_KEY in data), None)
    return PublishedSnapshot(found[SNAPSHOT_KEY].encode(), found.get(PUBLISHED_KEY, "")) if found else None


def too_large(desired: Sequence[Manifest]) -> tuple[StepFailure, ...]:
    """A failure for a ConfigMap that the API server would not store; then none of `desired` is to be applied."""
    return tuple(
        StepFailure(Step("apply", manifest, "too large"), Reason.SNAPSHOT_TOO_LARGE, _size_message(manifest))
        for manifest in desired
        if manifest["kind"] == "ConfigMap" and _data_bytes(manifest) > MAX_CONFIG_MAP_BYTES
    )


def _data_bytes(config_map: Manifest) -> int:
    return sum(len(key.encode()) + len(value.encode()) for key, value in config_map.get("data", {}).items())


def _size_message(config_map: Manifest) -> str:
    """What takes the most room, and what to do."""
    snapshot: dict[str, Any] = json.loads(config_map["data"][SNAPSHOT_KEY])
    sizes = {f"{each['kind']} {each['name']}": len(json.dumps(each)) for each in snapshot["targets"]}
    sizes |= {f"rule {each['name']}": len(json.dumps(each)) for each in snapshot["rules"]}
    largest = sorted(sizes, key=lambda name: (-sizes[name], name))[:_SHOWN_PARTS]
    shown = ", ".join(f"{name} {sizes[name] / 1024:.0f} KiB" for name in largest)
    return (
        f"the snapshot has {_data_bytes(config_map) / 1024:.0f} KiB and a ConfigMap holds "
        f"{MAX_CONFIG_MAP_BYTES // 1024} KiB; routers keep the last one that fitted. Largest of "
        f"{len(snapshot['targets'])} models and {len(snapshot['rules'])} rules: {shown}. "
        "Name fewer experts, replicas and rules in one policy, or split it"
    )
