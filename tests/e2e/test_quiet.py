"""The operator is heard only when something changed: events on transitions, no write at rest."""

from __future__ import annotations

from collections import Counter

from e2e.gateway import sample_sum
from e2e.objects import Manifest, a_policy, an_expert, an_external_fallback
from e2e.steps import OPERATOR, Space, operator_expositions, system_of
from flotilla_api import metrics
from stack.flotilla import Stack

OWNERS = {"Expert", "Fallback", "RoutingPolicy"}
CHILDREN = {"Deployment", "Service", "ServiceAccount", "ConfigMap", "Role", "RoleBinding", "PodDisruptionBudget"}
WATCHED = OWNERS | CHILDREN | {"ControllerRevision", "Event"}


def _events(space: Space, name: str) -> Counter[str]:
    """How often each reason was told about an object."""
    found = Counter[str]()
    for event in space.list("Event"):
        if event["regarding"]["name"] == name and event["regarding"]["kind"] in OWNERS:
            series: Manifest = event.get("series") or {}
            found[event["reason"]] += series.get("count", 1)
    return found


def _operator_writes(stack: Stack) -> float:
    """Writes of all operator replicas, their Lease's apart."""
    texts = operator_expositions(stack)
    every = sum(sample_sum(text, metrics.OPERATOR_API_WRITES, {}) for text in texts)
    return every - sum(sample_sum(text, metrics.OPERATOR_API_WRITES, {"resource": "leases"}) for text in texts)


def _renewals(stack: Stack, count: int) -> None:
    """The Lease has been renewed `count` more times: the operator lives, and that much time has passed for it."""
    system = system_of(stack)
    seen = {_renewed(system)}

    def renewed() -> bool:
        seen.add(_renewed(system))
        return len(seen) > count

    system.wait_for(renewed, f"{count} renewals of the Lease")


def _renewed(system: Space) -> str:
    return system.get("Lease", OPERATOR)["spec"]["renewTime"]


def _versions(space: Space) -> dict[tuple[str, str], str]:
    return {
        (kind, each["metadata"]["name"]): each["metadata"]["resourceVersion"]
        for kind in WATCHED
        for each in space.list(kind)
        if kind != "Event" or each["regarding"]["kind"] in OWNERS  # Kubernetes' own controllers tell of theirs
    }


def test_events_tell_transitions_and_nothing_else(space: Space) -> None:
    """A failure and a recovery are told once each, however often the object is looked at in between."""
    space.apply(an_expert("told", engine={"image": "registry.example.com/none:1"}))
    space.wait_condition("Expert", "told", "Ready", "False", "ImagePullFailed")
    for number in range(3):  # each of these wakes the Expert's key
        space.merge("Deployment", "told-expert", {"metadata": {"annotations": {"example.com/poke": str(number)}}})
    space.apply(an_expert("told"))
    space.wait_ready("Expert", "told")

    for number in range(3):
        space.merge("Deployment", "told-expert", {"metadata": {"annotations": {"example.com/poke": f"again {number}"}}})
    _renewals(space.stack, 1)

    space.wait_for(lambda: _events(space, "told")["Ready"], "the event of the recovery")
    counted = _events(space, "told")
    assert counted["ImagePullFailed"] == 1
    assert counted["Ready"] == 1


def test_an_event_is_about_the_expert_and_repeats_its_condition(space: Space) -> None:
    """`kubectl describe expert` shows the failure as a warning with the condition's message."""
    space.apply(an_expert("told", model={"uri": "hf://acme/missing-1b"}))
    condition = space.wait_condition("Expert", "told", "Ready", "False", "DownloadFailed")

    space.wait_for(lambda: _events(space, "told")["DownloadFailed"], "the event of the failure")

    (event,) = (each for each in space.list("Event") if each["reason"] == "DownloadFailed")
    assert (event["type"], event["regarding"]["kind"], event["regarding"]["name"]) == ("Warning", "Expert", "told")
    assert event["note"] == condition["message"]
    assert "DownloadFailed" in space.stack.cluster.kubectl("describe", "expert", "told", "-n", space.name)


def test_nothing_is_written_at_rest(stack: Stack, space: Space) -> None:
    """Over a quiet while no object changes its version, and the operator counts no write but of its Lease."""
    space.apply(
        an_expert("small"), an_external_fallback("big"), a_policy("assist", experts=["small"], fallbacks=["big"])
    )
    space.wait_ready("Expert", "small")
    space.wait_ready("RoutingPolicy", "assist")
    space.wait_condition("RoutingPolicy", "assist", "ConfigPropagated", "True")
    space.wait_for(lambda: _settled(stack, space), "the beginnings to be over")

    versions, writes = _versions(space), _operator_writes(stack)
    _renewals(stack, 4)

    assert _versions(space) == versions
    assert _operator_writes(stack) == writes


def _settled(stack: Stack, space: Space) -> bool:
    """No write between two renewals of the Lease, and no namespace of another test is on its way out."""
    namespaces = stack.cluster.api.get("/api/v1/namespaces").raise_for_status().json()["items"]
    if any(each["status"]["phase"] == "Terminating" for each in namespaces):
        return False
    writes = _operator_writes(stack)
    versions = _versions(space)
    _renewals(stack, 1)
    return _operator_writes(stack) == writes and _versions(space) == versions
