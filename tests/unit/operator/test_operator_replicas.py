"""Who says how many replicas an Expert has: handing the number over, and back, without a dip."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from builders import a_profile, an_expert, carried_out, deployment_of, observe, scaled_by
from flotilla_api.names import FIELD_MANAGER, SCALER_MANAGER
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.plan import plan
from flotilla_operator.reconcile.types import Manifest, Observed, Step
from flotilla_operator.resources.replicas import replica_managers, replicas_to_apply, wanted_replicas
from flotilla_operator.resources.specs import Served, parse_model

HPA = "kube-controller-manager"
SCALING = {"min": 0, "max": 8}


def _served(**spec: Any) -> Served:
    model = parse_model(an_expert(**spec))
    assert isinstance(model, Served)
    return model


def _live(replicas: int, *managers: str) -> Manifest:
    bare: Manifest = {"kind": "Deployment", "metadata": {}, "spec": {}}
    return scaled_by(bare, *managers, replicas=replicas)


@pytest.mark.parametrize(
    ("spec", "live", "said", "wanted"),
    [
        pytest.param({}, None, 1, 1, id="the default"),
        pytest.param({"replicas": 0}, None, 0, 0, id="replicas, new"),
        pytest.param({"replicas": 3}, _live(5, SCALER_MANAGER), 3, 3, id="replicas, back from the scaler"),
        pytest.param({"scaling": {"max": 8}}, None, 1, 1, id="scaling, new: min"),
        pytest.param({"scaling": {"min": 3, "max": 8}}, None, 3, 3, id="scaling, new: a larger min"),
        pytest.param({"scaling": SCALING}, None, 1, 1, id="scaling, new: one to begin with"),
        pytest.param({"scaling": SCALING}, _live(5, FIELD_MANAGER), 5, 5, id="scaling, still ours"),
        pytest.param({"scaling": SCALING}, _live(5), 5, 5, id="scaling, nobody's"),
        pytest.param({"scaling": SCALING}, _live(0, FIELD_MANAGER), 0, 0, id="scaling, still ours, at zero"),
        pytest.param({"scaling": SCALING}, _live(5, FIELD_MANAGER, SCALER_MANAGER), None, 5, id="scaling, shared"),
        pytest.param({"scaling": SCALING}, _live(0, SCALER_MANAGER), None, 0, id="scaling, the scaler's"),
        pytest.param({"scaling": SCALING}, _live(7, HPA), None, 7, id="scaling, an autoscaler's"),
    ],
)
def test_number_is_said_by_one_and_never_dropped_by_the_last(
    spec: dict[str, Any], live: Manifest | None, said: int | None, wanted: int
) -> None:
    """Our manifest carries the number until somebody else owns it."""
    served = _served(**spec)

    assert replicas_to_apply(served, live) == said
    assert wanted_replicas(served, live) == wanted


def test_managers_are_those_of_the_number_alone() -> None:
    """Who owns another field, or the status, says nothing of replicas."""
    deployment = _live(3, SCALER_MANAGER)
    deployment["metadata"]["managedFields"] += [
        {"manager": "kubectl", "operation": "Update", "fieldsV1": {"f:spec": {"f:paused": {}}}},
        {"manager": HPA, "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {"f:replicas": {}}}},
        {"operation": "Update"},
    ]

    assert replica_managers(deployment) == {SCALER_MANAGER}


def _scaled(observed: Observed, replicas: int, *managers: str) -> Observed:
    """The cluster after `managers` said how many replicas there are."""
    children = [
        scaled_by(child, *managers, replicas=replicas) if child["kind"] == "Deployment" else child
        for child in observed.children
    ]
    return replace(observed, children=tuple(children))


def _with_spec(observed: Observed, **spec: Any) -> Observed:
    return replace(observed, owner=an_expert(generation=2, **spec))


def _steps(observed: Observed) -> list[Step]:
    return list(plan(dispatch.desired(observed), observed).steps)


def test_handing_over_to_the_scaler_takes_one_write_and_keeps_the_number() -> None:
    """Nothing is written until somebody else owns the number; then it is left to them, and at rest nothing happens."""
    given = carried_out(observe(an_expert(replicas=3), a_profile()))
    handed = _with_spec(given, scaling=SCALING)
    assert _steps(handed) == []

    shared = _scaled(handed, 3, FIELD_MANAGER, SCALER_MANAGER)
    (step,) = _steps(shared)
    after = carried_out(shared)

    assert (step.verb, step.manifest["kind"], step.reason) == ("apply", "Deployment", "a field is no longer wanted")
    assert "replicas" not in step.manifest["spec"]
    assert deployment_of(after.children)["spec"]["replicas"] == 3
    assert replica_managers(deployment_of(after.children)) == {SCALER_MANAGER}
    assert _steps(after) == []
    assert _steps(_scaled(after, 8, SCALER_MANAGER)) == []
    assert _steps(_scaled(after, 0, SCALER_MANAGER)) == []


def test_going_back_to_replicas_applies_the_number_at_once() -> None:
    """It is the spec's again, whoever had it."""
    scaled = _scaled(carried_out(observe(an_expert(scaling=SCALING), a_profile())), 5, SCALER_MANAGER)

    (step,) = _steps(_with_spec(scaled, replicas=2))

    assert step.reason == "spec.replicas: 5 -> 2"
    assert step.manifest["spec"]["replicas"] == 2


def test_another_template_leaves_the_scalers_number() -> None:
    """An edit of the model restarts the pods, as many as there are."""
    scaled = _scaled(carried_out(observe(an_expert(scaling=SCALING), a_profile())), 5, SCALER_MANAGER)
    edited = carried_out(carried_out(_with_spec(scaled, scaling=SCALING, engine={"maxNumSeqs": 8})))

    assert deployment_of(edited.children)["spec"]["replicas"] == 5
    assert "--max-num-seqs" in str(deployment_of(edited.children)["spec"]["template"])


@pytest.mark.parametrize(("spec", "guarded"), [({"scaling": SCALING}, True), ({"replicas": 3}, False)])
def test_what_depends_on_the_owner_of_the_number_is_applied_to_that_version_alone(
    spec: dict[str, Any], guarded: bool
) -> None:
    """A manifest made from an older look could drop the number, or bring an old one back."""
    given = carried_out(observe(an_expert(), a_profile()))
    edited = _with_spec(given, **spec, engine={"maxNumSeqs": 8})

    versions = {step.manifest["kind"]: step.version for step in _steps(edited) if step.verb == "apply"}

    assert versions["Deployment"] == ("7" if guarded else "")


@dataclass
class Server:
    """`spec.replicas` of one Deployment, as server-side apply treats it. Source: KEP-555, and measured."""

    replicas: int = 1
    managers: set[str] = field(default_factory=lambda: {FIELD_MANAGER})
    version: int = 1

    def apply(self, manager: str, replicas: int | None) -> None:
        """A forced apply of `replicas`, or without it."""
        self.version += 1
        if replicas is None:
            was_last = self.managers == {manager}
            self.managers -= {manager}
            self.replicas = 1 if was_last else self.replicas
        else:
            self.managers = {manager} | (self.managers if replicas == self.replicas else set())
            self.replicas = replicas

    def update(self, manager: str, replicas: int) -> None:
        """An update of the scale; one that changes nothing owns nothing."""
        if replicas != self.replicas:
            self.version += 1
            self.replicas, self.managers = replicas, {manager}

    def look(self) -> Manifest:
        """The Deployment as it is now."""
        return _live(self.replicas, *self.managers) | {"version": self.version}


class HandOver(RuleBasedStateMachine):
    """Spec edits, operators that act late, a scaler and others: the number is always somebody's word."""

    def __init__(self) -> None:
        super().__init__()
        self.server = Server()
        self.spec: dict[str, Any] = {"replicas": 1}
        self.meant = {1}
        """What the number may be: what it was last set to, and what the spec says that nobody has carried out yet."""
        self.looks: list[tuple[dict[str, Any], Manifest]] = []

    @rule(replicas=st.integers(0, 3))
    def ask_for_replicas(self, replicas: int) -> None:
        """A person says a number."""
        self.spec = {"replicas": replicas}

    @rule()
    def ask_for_scaling(self) -> None:
        """A person leaves the number to the scaler."""
        self.spec = {"scaling": SCALING}

    @rule()
    def look(self) -> None:
        """An operator observes, and is slow."""
        self.looks.append((self.spec, self.server.look()))

    @rule(data=st.data())
    def act(self, data: st.DataObject) -> None:
        """An operator carries out what it planned at one of the looks; refused where it is too old."""
        if not self.looks:
            return
        spec, live = self.looks.pop(data.draw(st.integers(0, len(self.looks) - 1)))
        replicas = replicas_to_apply(_served(**spec), live)
        if "scaling" in spec and live["version"] != self.server.version:
            return
        if "replicas" in spec:
            self.meant = {spec["replicas"]}
        self.server.apply(FIELD_MANAGER, replicas)

    @rule(replicas=st.none() | st.integers(0, 3))
    def scale(self, replicas: int | None) -> None:
        """The scaler takes the number over as it is, or sets it."""
        number = self.server.replicas if replicas is None else replicas
        self.meant = {number}
        self.server.apply(SCALER_MANAGER, number)

    @rule(replicas=st.integers(0, 3))
    def autoscale(self, replicas: int) -> None:
        """An HPA, or kubectl scale."""
        self.meant = {replicas}
        self.server.update(HPA, replicas)

    @invariant()
    def number_is_what_somebody_said(self) -> None:
        """It never falls to what the API server takes for a field without an owner."""
        assert self.server.replicas in self.meant
        assert self.server.managers


TestHandOver = HandOver.TestCase
TestHandOver.settings = settings(max_examples=200, stateful_step_count=30)
