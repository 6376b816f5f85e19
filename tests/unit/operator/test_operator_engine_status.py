"""What an Expert's status says, told as the life of one: created, started, broken, repaired, rolled, stopped."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest

from builders import (
    NOW,
    a_fallback,
    a_pod,
    a_profile,
    a_ready_pod,
    a_served_fallback,
    a_starting_pod,
    a_waiting_pod,
    ago,
    an_end,
    an_expert,
    an_unscheduled_pod,
    carried_out,
    ending,
    judge,
    observe,
    rolled_out,
    template_of,
    with_status,
)
from flotilla_api.conditions import Reason
from flotilla_api.status import ExpertStatus, FallbackStatus
from flotilla_operator.reconcile import dispatch
from flotilla_operator.reconcile.plan import conflicts
from flotilla_operator.reconcile.types import Manifest, ObjectRef, Observed, Step, StepFailure

EXPERT = an_expert()
RUNNING = rolled_out(observe(EXPERT, a_profile()))
TEMPLATE = template_of(RUNNING.children)


def conditions(observed: Observed, *failures: StepFailure) -> dict[str, str]:
    """Type -> `True` or `False Reason`."""
    found = judge(observed, *failures).status["conditions"]
    return {c["type"]: c["status"] if c["status"] == "True" else f"{c['status']} {c['reason']}" for c in found}


def message(observed: Observed, kind: str, *failures: StepFailure) -> str:
    found = judge(observed, *failures).status["conditions"]
    return next(each["message"] for each in found if each["type"] == kind)


def with_pods(*pods: Manifest, base: Observed = RUNNING, **fields: Any) -> Observed:
    return replace(base, pods=pods, **fields)


def with_deployment_condition(kind: str, status: str, reason: str, text: str) -> Observed:
    def change(child: Manifest) -> Manifest:
        if child["kind"] != "Deployment":
            return child
        condition = {"type": kind, "status": status, "reason": reason, "message": text}
        return child | {"status": child["status"] | {"conditions": [condition]}}

    return replace(RUNNING, children=tuple(change(child) for child in RUNNING.children))


REFUSED = StepFailure(
    Step("create", {"kind": "Deployment"}, "new"), Reason.INVALID_POD_TEMPLATE, "Deployment: affinity is not valid"
)
OLD = a_ready_pod(EXPERT, "old")
NO_GPU = "0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
CRASHING = a_waiting_pod(EXPERT, "CrashLoopBackOff", ended=an_end(1, "ValueError: no"), template=TEMPLATE)


LOW_ON_DISK = "The node was low on resource: ephemeral-storage. Threshold quantity: 10%, available: 9%."


def an_evicted_pod(*, ended: float) -> Manifest:
    """A pod that its node ended some seconds ago."""
    target = {"type": "DisruptionTarget", "status": "True", "lastTransitionTime": ago(ended)}
    pod = a_pod(EXPERT, "evicted", phase="Failed", reason="Evicted", message=LOW_ON_DISK, conditions=[target])
    return pod | {"metadata": pod["metadata"] | {"creationTimestamp": ago(9000)}}


def born(pod: Manifest, *, seconds_ago: float) -> Manifest:
    return pod | {"metadata": pod["metadata"] | {"creationTimestamp": ago(seconds_ago)}}


REPLACEMENT = born(a_starting_pod(EXPERT, template=TEMPLATE), seconds_ago=60)


@pytest.mark.parametrize(
    ("observed", "expected"),
    [
        pytest.param(
            observe(EXPERT),
            {
                "Accepted": "True",
                "ReferencesResolved": "False ProfileNotFound",
                "Fits": "Unknown ProfileNotFound",
                "Scheduled": "Unknown PodsPending",
                "Available": "False ProfileNotFound",
                "Progressing": "Unknown PodsPending",
                "Ready": "False ProfileNotFound",
            },
            id="its profile is not there yet",
        ),
        pytest.param(
            carried_out(observe(EXPERT, a_profile())),
            {"Scheduled": "Unknown PodsPending", "Available": "False PodsPending", "Ready": "False PodsPending"},
            id="the Deployment was just created",
        ),
        pytest.param(
            with_pods(an_unscheduled_pod(EXPERT, NO_GPU, template=TEMPLATE)),
            {
                "Scheduled": "False InsufficientAccelerators",
                "Available": "False InsufficientAccelerators",
                "Progressing": "False InsufficientAccelerators",
                "Ready": "False InsufficientAccelerators",
            },
            id="every GPU is taken",
        ),
        pytest.param(
            with_pods(an_unscheduled_pod(EXPERT, "", template=TEMPLATE)),
            {"Scheduled": "Unknown PodsPending", "Available": "False PodsPending", "Progressing": "True"},
            id="the scheduler has not looked yet",
        ),
        pytest.param(
            with_pods(a_starting_pod(EXPERT, template=TEMPLATE)),
            {"Scheduled": "True", "Available": "False Starting", "Progressing": "True", "Ready": "False Starting"},
            id="the engine loads",
        ),
        pytest.param(
            with_pods(a_ready_pod(EXPERT, template=TEMPLATE)),
            {
                "Accepted": "True",
                "ReferencesResolved": "True",
                "Fits": "Unknown ContextLengthUnknown",
                "Scheduled": "True",
                "Available": "True",
                "Progressing": "True",
                "Ready": "True",
            },
            id="it answers",
        ),
        pytest.param(
            with_pods(CRASHING),
            {
                "Scheduled": "True",
                "Available": "False CrashLoop",
                "Progressing": "False CrashLoop",
                "Ready": "False CrashLoop",
            },
            id="the engine ends again and again",
        ),
        pytest.param(
            with_pods(a_waiting_pod(EXPERT, "CreateContainerConfigError", 'secret "hf" not found', template=TEMPLATE)),
            {"ReferencesResolved": "False SecretNotFound", "Ready": "False SecretNotFound"},
            id="the token's Secret does not exist",
        ),
        pytest.param(
            with_pods(an_evicted_pod(ended=62), REPLACEMENT),
            {"Available": "False Evicted", "Progressing": "True", "Ready": "False Evicted"},
            id="its node ended it, and another replica starts",
        ),
        pytest.param(
            with_pods(an_evicted_pod(ended=62), born(CRASHING, seconds_ago=60)),
            {"Available": "False CrashLoop"},
            id="its node ended it, and the next replica crashes",
        ),
        pytest.param(
            with_pods(an_evicted_pod(ended=5000), REPLACEMENT),
            {"Available": "False Starting"},
            id="an eviction of another hour is no news",
        ),
        pytest.param(
            with_pods(an_evicted_pod(ended=62), a_ready_pod(EXPERT, template=TEMPLATE)),
            {"Available": "True", "Progressing": "True", "Ready": "True"},
            id="its node ended it, and another replica answers",
        ),
        pytest.param(
            with_pods(OLD, a_starting_pod(EXPERT, "new", template=TEMPLATE)),
            {"Available": "True", "Progressing": "True", "Ready": "False RollingOut"},
            id="a rollout: only the replicas of before answer",
        ),
        pytest.param(
            with_pods(OLD, CRASHING),
            {"Available": "True", "Progressing": "False CrashLoop", "Ready": "False CrashLoop"},
            id="a rollout that is stuck says why while the old replicas answer",
        ),
        pytest.param(
            with_pods(OLD, a_ready_pod(EXPERT, "new", template=TEMPLATE)),
            {"Available": "True", "Ready": "True"},
            id="a rollout: the first new replica answers",
        ),
        pytest.param(
            with_pods(ending(OLD), an_unscheduled_pod(EXPERT, NO_GPU, "new", template=TEMPLATE)),
            {"Scheduled": "False PodsPending", "Progressing": "True", "Ready": "False PodsPending"},
            id="a rollout in a pool with no spare GPU waits for the old replica to drain",
        ),
        pytest.param(
            with_pods(ending(a_ready_pod(EXPERT, template=TEMPLATE))),
            {"Available": "False PodsPending", "Ready": "False PodsPending"},
            id="a replica that ends does not count",
        ),
        pytest.param(
            with_deployment_condition("ReplicaFailure", "True", "FailedCreate", "exceeded quota: gpus"),
            {
                "Scheduled": "False PodsForbidden",
                "Available": "False PodsForbidden",
                "Progressing": "False PodsForbidden",
                "Ready": "False PodsForbidden",
            },
            id="a quota forbids its pods",
        ),
        pytest.param(
            replace(
                with_deployment_condition("Progressing", "False", "ProgressDeadlineExceeded", ""),
                pods=(a_starting_pod(EXPERT, template=TEMPLATE),),
            ),
            {"Progressing": "False Starting"},
            id="the Deployment's own deadline passed",
        ),
        pytest.param(
            rolled_out(observe(an_expert(replicas=0), a_profile())),
            {
                "Scheduled": "True",
                "Available": "False ScaledToZero",
                "Progressing": "True",
                "Ready": "False ScaledToZero",
            },
            id="no replica is wanted",
        ),
        pytest.param(
            replace(with_pods(OLD), references={ObjectRef("AcceleratorProfile", "", "l4"): None}),
            {"ReferencesResolved": "False ProfileNotFound", "Available": "True", "Ready": "False ProfileNotFound"},
            id="its profile was deleted while it ran",
        ),
        pytest.param(
            observe(EXPERT, a_profile(memoryGiB="much")),
            {"ReferencesResolved": "False InvalidReference", "Ready": "False InvalidReference"},
            id="its profile does not parse",
        ),
        pytest.param(
            observe(an_expert(replicas="many"), a_profile()),
            {"Accepted": "False InvalidSpec", "Ready": "False InvalidSpec"},
            id="its stored spec is of another schema",
        ),
        pytest.param(
            observe(an_expert(accelerator={"profile": "l4"}, model={"uri": "hf://a/b"}), a_profile()),
            {"Fits": "Unknown ParametersUnknown"},
            id="nobody said how many weights the model has",
        ),
        pytest.param(
            observe(an_expert(engine={"maxModelLen": 8192}), a_profile()),
            {"Fits": "True"},
            id="weights and cache of the longest request fit",
        ),
        pytest.param(
            observe(an_expert(engine={"maxNumSeqs": 4}), a_profile()),
            {"Fits": "Unknown ContextLengthUnknown"},
            id="the weights fit, and nobody said how long a request may be",
        ),
        pytest.param(
            observe(an_expert(model={"uri": "hf://a/b", "parameters": "70B"}), a_profile()),
            {"Fits": "False TooLarge", "Accepted": "True"},
            id="the model is too large, which warns and blocks nothing",
        ),
    ],
)
def test_conditions_tell_what_is_the_matter(observed: Observed, expected: dict[str, str]) -> None:
    """Each condition is True, or says with one documented word why not."""
    found = conditions(observed)

    assert {kind: found[kind] for kind in expected} == expected


def test_a_refused_workload_is_not_accepted() -> None:
    """What the API server said about the Deployment is in the status of the Expert."""
    observed = observe(EXPERT, a_profile())

    assert conditions(observed, REFUSED)["Accepted"] == "False InvalidPodTemplate"
    assert conditions(observed, REFUSED)["Ready"] == "False InvalidPodTemplate"
    assert message(observed, "Ready", REFUSED) == "Deployment: affinity is not valid"


def test_a_stranger_in_the_way_is_a_conflict() -> None:
    """The condition names the object and what to do."""
    observed = observe(EXPERT, a_profile(), strangers=frozenset({ObjectRef("Service", "agents", "invoice-expert")}))
    failures = conflicts(dispatch.desired(observed), observed)

    assert conditions(observed, *failures)["Accepted"] == "False Conflict"
    assert "Service agents/invoice-expert exists" in message(observed, "Accepted", *failures)


@pytest.mark.parametrize(
    ("observed", "kind", "text"),
    [
        pytest.param(
            with_pods(an_evicted_pod(ended=62), REPLACEMENT),
            "Ready",
            f"a node ended the replica before (Evicted): {LOW_ON_DISK}",
            id="an eviction",
        ),
        pytest.param(
            observe(EXPERT),
            "ReferencesResolved",
            "AcceleratorProfile l4 does not exist: create it or name another one",
            id="a missing profile",
        ),
        pytest.param(
            observe(EXPERT, a_profile(memoryGiB="much")),
            "ReferencesResolved",
            "AcceleratorProfile l4 does not parse: apply it again",
            id="a profile of another schema",
        ),
        pytest.param(
            observe(
                an_expert(model={"uri": "hf://a/b", "parameters": "14B"}, engine={"maxModelLen": 32768}), a_profile()
            ),
            "Fits",
            "needs about 32.3 GiB (weights 26.1, KV cache 5.3, overhead 1.0) of the 21.6 GiB that vLLM may use; "
            "raise accelerator.count, lower engine.maxModelLen, use quantised weights or a profile with more memory",
            id="a model that does not fit",
        ),
        pytest.param(
            observe(an_expert(), a_profile()),
            "Fits",
            "needs at least 3.8 GiB (weights 2.8, KV cache unknown, overhead 1.0) of the 21.6 GiB that vLLM may use; "
            "set engine.maxModelLen for an estimate of the KV cache: without it vLLM takes the model's own length",
            id="a model of unknown length",
        ),
        pytest.param(
            observe(an_expert(replicas="many"), a_profile()),
            "Accepted",
            "spec.replicas: Input should be a valid integer, unable to parse string as an integer; "
            "apply it again in the form of this version",
            id="a spec that does not parse",
        ),
        pytest.param(
            with_pods(a_ready_pod(EXPERT, template=TEMPLATE)),
            "Ready",
            "replicas of this generation answer at invoice-expert.agents.svc:8000",
            id="one that answers",
        ),
    ],
)
def test_messages_name_the_object_and_what_to_do(observed: Observed, kind: str, text: str) -> None:
    """Nobody has to guess from the message what it is about."""
    assert message(observed, kind) == text


def test_status_counts_what_runs_and_what_it_costs() -> None:
    """A pod without a node holds no GPU, so it costs nothing."""
    expert = an_expert(replicas=3, accelerator={"profile": "l4", "count": 2})
    base = rolled_out(observe(expert, a_profile()))
    template = template_of(base.children)
    pods = (
        a_ready_pod(expert, "a", template=template),
        a_starting_pod(expert, "b", template=template),
        an_unscheduled_pod(expert, NO_GPU, "c", template=template),
    )

    status = judge(replace(base, pods=pods)).status
    status.pop("conditions")

    assert status == {
        "observedGeneration": 1,
        "replicas": 3,
        "readyReplicas": 1,
        "endpoint": "invoice-expert.agents.svc:8000",
        "selector": "flotilla.dev/owner=invoice,flotilla.dev/owner-kind=Expert",
        "podHash": template["metadata"]["annotations"]["flotilla.dev/pod-hash"],
        "costPerHourUSD": "3.20",
    }


def test_statuses_are_of_the_schema() -> None:
    """The API server takes every status; no field is unknown to the CRD."""
    served = a_served_fallback()
    full = rolled_out(observe(served, a_profile()))

    ExpertStatus.model_validate(judge(with_pods(OLD)).status)
    FallbackStatus.model_validate(judge(full).status)
    FallbackStatus.model_validate(judge(observe(a_fallback())).status)


def test_nothing_changes_in_the_status_when_nothing_changes() -> None:
    """The second look at the same facts writes nothing and tells nothing, whatever the hour."""
    first = judge(with_pods(CRASHING, OLD))
    later = replace(with_pods(OLD, CRASHING), owner=with_status(EXPERT, first.status), now=NOW + timedelta(minutes=3))

    second = judge(later)

    assert first.events
    assert second.status == first.status
    assert second.events == ()


def test_a_late_start_is_looked_at_in_time() -> None:
    """No event arrives when a deadline passes, so the verdict says when to look again."""
    starting = a_starting_pod(EXPERT, template=TEMPLATE, since_seconds=30)
    late = a_starting_pod(EXPERT, template=TEMPLATE, since_seconds=1000)

    assert judge(with_pods(starting)).requeue_after_seconds == 870
    assert judge(with_pods(late)).requeue_after_seconds is None
    assert judge(with_pods(OLD)).requeue_after_seconds is None


def test_an_external_fallback_is_ready_as_soon_as_it_is_accepted() -> None:
    """There is nothing to run; the status says where requests go."""
    verdict = judge(observe(a_fallback()))

    assert conditions(observe(a_fallback())) == {"Accepted": "True", "Ready": "True"}
    assert verdict.status["model"] == "big-1"
    assert verdict.status["endpoint"] == "https://api.example.com/v1"
    assert [event.reason for event in verdict.events] == ["External"]
    assert conditions(observe(a_fallback()), REFUSED)["Ready"] == "False InvalidPodTemplate"


def test_a_served_fallback_is_told_of_as_an_expert() -> None:
    """The same engine, the same conditions; its status shows the model."""
    fallback = a_served_fallback()
    base = rolled_out(observe(fallback, a_profile()))
    pod = a_ready_pod(fallback, template=template_of(base.children))

    status = judge(replace(base, pods=(pod,))).status

    assert conditions(replace(base, pods=(pod,)))["Ready"] == "True"
    assert status["model"] == "hf://Qwen/Qwen2.5-1.5B-Instruct"
    assert status["endpoint"] == "large-fallback.agents.svc:8000"
