"""What a sidecar needs is away or broken: pods start all the same, local answers go on, and what is missing is said."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager

import pytest

from e2e.fixtures import new_space
from e2e.gateway import text_of
from e2e.objects import Manifest, a_policy, an_expert, an_external_fallback
from e2e.sidecars import AGENT, Sidecar, an_agent, has_sidecar, start_agent, status_of
from e2e.steps import Space, is_ready, no_operator, operators_of
from flotilla_api import metrics
from flotilla_api.names import SIDECAR_CONTAINER
from localcluster.runner.control import container_pid, kill_container
from stack.flotilla import SYSTEM_NAMESPACE, Stack

POLICY, STRICT = "assist", "strict"


@pytest.fixture(scope="module")
def fleet(stack: Stack) -> Generator[Space]:
    """Two policies over the same models; one of them wants no expert's answer where the fallback fails."""
    with new_space(stack) as space:
        space.apply(
            an_expert("sure"),
            an_expert("unsure", env={"SIM_SKILL": "0"}),
            an_external_fallback("big"),
            _policy(POLICY, "UseExpert"),
            _policy(STRICT, "Error"),
        )
        space.wait_ready("Expert", "sure", "unsure")
        for policy in (POLICY, STRICT):
            space.wait_ready("RoutingPolicy", policy)
            space.wait_condition("RoutingPolicy", policy, "ConfigPropagated", "True")
        yield space


def _policy(name: str, on_failure: str) -> Manifest:
    rule = {"name": "hard", "when": {"headers": [{"name": "x-task", "in": ["hard"]}]}, "experts": [{"name": "unsure"}]}
    escalation = {"onFallbackFailure": on_failure}
    return a_policy(name, experts=["sure"], fallbacks=["big"], rules=[rule], escalation=escalation)


@pytest.fixture(scope="module")
def sidecar(fleet: Space) -> Sidecar:
    """The sidecar of an agent."""
    return start_agent(fleet, "idle", POLICY)


def test_without_gateway_and_operator_local_answers_go_on(stack: Stack, fleet: Space, sidecar: Sidecar) -> None:
    """Escalations end as onFallbackFailure says, and metrics and headers name the cause."""
    strict = start_agent(fleet, "strict", STRICT)
    assert sidecar.ask("hard", x_task="hard").headers["x-flotilla-model"] == "big"
    escalated = sidecar.metric(metrics.ROUTER_ESCALATIONS, expert="unsure", cause="LowConfidence")

    with no_operator(stack):
        for policy in (POLICY, STRICT):
            fleet.merge("Deployment", f"{policy}-gateway", {"spec": {"replicas": 0}})
        fleet.wait_for(
            lambda: not [pod for policy in (POLICY, STRICT) for pod in fleet.gateway(policy).pods()],
            "the gateways to be gone",
        )

        local = sidecar.ask("easy")
        unsure, refused = (each.ask("hard", x_task="hard") for each in (sidecar, strict))

    assert local.headers["x-flotilla-model"] == "sure"
    assert unsure.headers["x-flotilla-model"] == "unsure"
    assert text_of(unsure).startswith("[simulated unsure]")
    assert (refused.status_code, refused.json()["error"]["code"]) == (502, "UpstreamError")
    assert sidecar.metric(metrics.ROUTER_ESCALATIONS, expert="unsure", cause="LowConfidence") == escalated + 1
    tried = sidecar.line_of(unsure.headers["x-flotilla-request-id"])["attempts"]
    assert {each["target"]: each["result"] for each in tried}["big"] == "UpstreamError"
    fleet.wait_for(
        lambda: sidecar.ask("hard", x_task="hard").headers["x-flotilla-model"] == "big", "the gateway to be back"
    )


@contextmanager
def _hung(stack: Stack) -> Generator[None]:
    """Every operator is frozen: it accepts connections and says nothing."""
    runner = stack.cluster.directory / "runner"
    pids = [container_pid(runner, SYSTEM_NAMESPACE, pod["metadata"]["name"], "operator") for pod in operators_of(stack)]
    try:
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def test_a_pod_starts_though_the_webhook_hangs(stack: Stack, fleet: Space) -> None:
    """Within seconds, and without a sidecar."""
    with _hung(stack):
        fleet.apply(an_agent("late", POLICY))
        fleet.wait_for(lambda: is_ready(fleet.get("Pod", "late")), "the pod to run")
        has_one = has_sidecar(fleet.get("Pod", "late"))

    fleet.delete("Pod", "late")
    fleet.wait_gone("Pod", "late")
    assert not has_one


def test_a_pod_that_slipped_through_is_named_until_it_is_made_anew(stack: Stack, fleet: Space) -> None:
    """Without an operator a pod starts, too; once one is back, the policy, its event and the pod's own tell of it."""
    with no_operator(stack):
        fleet.apply(an_agent("slipped", POLICY))
        fleet.wait_for(lambda: is_ready(fleet.get("Pod", "slipped")), "the pod to run")
        assert not has_sidecar(fleet.get("Pod", "slipped"))

    fleet.wait_for(lambda: _missing(fleet).startswith("slipped was created without"), "the condition")
    fleet.wait_for(lambda: _told(fleet) == {"RoutingPolicy", "Pod"}, "the events")
    fleet.delete("Pod", "slipped")
    fleet.wait_gone("Pod", "slipped")
    start_agent(fleet, "slipped", POLICY)
    fleet.wait_condition("RoutingPolicy", POLICY, "SidecarsInjected", "True", "Injected")


def _missing(space: Space) -> str:
    """What the policy says of pods that have no sidecar."""
    condition = space.condition("RoutingPolicy", POLICY, "SidecarsInjected")
    return condition["message"] if condition.get("reason") == "SidecarMissing" else ""


def _told(space: Space) -> set[str]:
    """Kinds of objects that an event says lack their sidecar."""
    found = (each for each in space.list("Event") if each["reason"] == "SidecarMissing" and "slipped" in str(each))
    return {each["regarding"]["kind"] for each in found}


def test_a_sidecar_that_dies_is_started_again_beside_its_agent(stack: Stack, fleet: Space, sidecar: Sidecar) -> None:
    """The agent goes on, and is answered as soon as the sidecar is back."""
    kill_container(stack.cluster.directory / "runner", fleet.name, sidecar.pod, SIDECAR_CONTAINER)

    fleet.wait_for(
        lambda: status_of(fleet.get("Pod", sidecar.pod), SIDECAR_CONTAINER)["restartCount"] == 1, "a restart"
    )
    fleet.wait_for(lambda: is_ready(fleet.get("Pod", sidecar.pod)), "the pod to be Ready")
    assert sidecar.ask("back?").headers["x-flotilla-model"] == "sure"
    assert status_of(fleet.get("Pod", sidecar.pod), AGENT)["restartCount"] == 0
