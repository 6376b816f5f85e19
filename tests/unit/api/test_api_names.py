"""Names of children fit Kubernetes' limits and do not clash."""

from __future__ import annotations

from flotilla_api.names import (
    MANAGED_BY,
    MANAGED_BY_LABEL,
    POLICY_LABEL,
    child_labels,
    child_name,
    selector_labels,
    snapshot_name,
)

KINDS = ("Expert", "Fallback", "RoutingPolicy")
LONGEST = "a" * 50
"""As long as the CRDs allow."""


def test_names_of_children_are_dns_labels() -> None:
    """A Service's name has at most 63 characters."""
    names = [snapshot_name(LONGEST), *(child_name(kind, LONGEST) for kind in KINDS)]

    assert max(len(name) for name in names) <= 63


def test_names_of_children_differ_between_kinds() -> None:
    """An Expert and a Fallback of the same name live side by side."""
    names = [snapshot_name("big"), *(child_name(kind, "big") for kind in KINDS)]

    assert len(set(names)) == len(names)


def test_children_carry_the_selector_and_never_ask_for_a_sidecar() -> None:
    """Pods are found by their owner; a router must not get a router injected."""
    for kind in KINDS:
        labels = child_labels(kind, LONGEST)

        assert labels.items() >= selector_labels(kind, LONGEST).items()
        assert labels[MANAGED_BY_LABEL] == MANAGED_BY
        assert POLICY_LABEL not in labels
        assert all(len(value) <= 63 for value in labels.values())
