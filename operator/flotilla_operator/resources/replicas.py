"""Who says how many replicas a Deployment has, and what our manifest of it says of them. PURE.

Of a scaled Expert the number is the scaler's, or an autoscaler's. The API server sets `replicas` back to 1 when its
last owner applies without it (measured), so our manifest carries the live number until somebody else owns the field:

| spec          | live Deployment | owned by others too | manifest says       |
|---------------|-----------------|---------------------|---------------------|
| replicas      |                 |                     | spec.replicas       |
| scaling       | none            |                     | the first number    |
| scaling       | there           | no                  | the live number     |
| scaling       | there           | yes                 | nothing             |
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from flotilla_api.names import FIELD_MANAGER

from .manifest import Manifest
from .specs import Served

_REPLICAS = {"f:spec": {"f:replicas": dict[str, Any]()}}


def replicas_to_apply(served: Served, live: Manifest | None) -> int | None:
    """What our manifest of the Deployment says; None: nothing. See the table above."""
    if served.scaling is None or live is None:
        return served.replicas
    return None if replica_managers(live) - {FIELD_MANAGER} else _live_replicas(live)


def wanted_replicas(served: Served, live: Manifest | None) -> int:
    """How many replicas there should be now, whoever says so."""
    return served.replicas if served.scaling is None or live is None else _live_replicas(live)


def replica_managers(deployment: Manifest) -> frozenset[str]:
    """The field managers that own `spec.replicas`."""
    return frozenset(entry["manager"] for entry in replica_entries(deployment))


def replica_entries(deployment: Manifest) -> list[Manifest]:
    """The entries of managedFields that own `spec.replicas`, and nothing else of them."""
    entries: Iterable[Manifest] = deployment["metadata"].get("managedFields") or ()
    return [
        {"manager": entry["manager"], "operation": entry["operation"], "fieldsV1": _REPLICAS}
        for entry in entries
        if "f:replicas" in entry.get("fieldsV1", {}).get("f:spec", {}) and "manager" in entry
    ]


def _live_replicas(deployment: Manifest) -> int:
    return deployment["spec"].get("replicas", 1)
