"""Events as the API server takes them (events.k8s.io/v1)."""

from __future__ import annotations

from datetime import datetime

from flotilla_operator.reconcile.types import Event, Manifest

from .kinds import EVENT

NOTE_MAX_CHARACTERS = 1024
"""The API server's bound on an event's note."""
_INSTANCE_MAX_CHARACTERS = 128


def make_event(regarding: Manifest, event: Event, *, name: str, now: datetime, instance: str) -> Manifest:
    """`event` about the object that `regarding` refers to, in its namespace; `instance` is the replica that tells."""
    return {
        "apiVersion": EVENT.api_version,
        "kind": EVENT.kind,
        "metadata": {"name": name, "namespace": regarding["namespace"]},
        "eventTime": now.isoformat(timespec="microseconds").replace("+00:00", "Z"),
        "reportingController": "flotilla.dev/operator",
        "reportingInstance": instance[:_INSTANCE_MAX_CHARACTERS],
        "action": "Reconcile",
        "reason": event.reason,
        "note": event.message[:NOTE_MAX_CHARACTERS],
        "type": event.type,
        "regarding": regarding,
    }
