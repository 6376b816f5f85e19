"""RoutingPolicies: which children they have, and since when their snapshot is what it is."""

from __future__ import annotations

from datetime import datetime, timedelta

from flotilla_api.control import format_time
from flotilla_api.names import PUBLISHED_KEY, SNAPSHOT_KEY, snapshot_name
from flotilla_api.policy import RoutingPolicySpec
from flotilla_operator.resources.gateway import GatewayInputs, make_gateway
from flotilla_operator.resources.snapshot import make_snapshot, models_of
from flotilla_operator.resources.specs import ExternalModel

from .engine import find_child
from .types import Manifest, Observed, PublishedSnapshot


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
