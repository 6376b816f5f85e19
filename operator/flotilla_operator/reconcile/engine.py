"""Experts, and Fallbacks that are served in the cluster: which children they have."""

from __future__ import annotations

from flotilla_operator.resources.engine import make_engine, revision_name
from flotilla_operator.resources.manifest import child_of
from flotilla_operator.resources.specs import Served, find_profile

from .types import Manifest, Observed


def desired_engine(observed: Observed, served: Served) -> tuple[Manifest, ...]:
    """The engine's children; without its profile those that exist, as they are."""
    profile = find_profile(served, observed.references)
    if profile is None:
        return observed.children
    stored = find_child(observed, "ControllerRevision", revision_name(served, profile))
    live = find_child(observed, "Deployment", child_of(served.owner))
    return make_engine(served, profile, observed.settings, stored=stored, live=live)


def find_child(observed: Observed, kind: str, name: str) -> Manifest | None:
    """A live child by kind and name."""
    return next((c for c in observed.children if c["kind"] == kind and c["metadata"]["name"] == name), None)
