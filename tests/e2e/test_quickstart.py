"""The quickstart, applied as the README says."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from e2e.gateway import Gateway, text_of
from e2e.sidecars import status_of
from e2e.steps import Space
from flotilla_api.names import SIDECAR_CONTAINER
from stack.flotilla import (
    QUICKSTART,
    SIDECAR_EXAMPLES,
    Stack,
    quickstart_api_key,
    quickstart_objects,
    quickstart_policy,
)

READY_SECONDS = 90


@pytest.fixture(scope="module")
def quickstart(stack: Stack) -> Generator[Space]:
    """`kubectl apply -f examples/quickstart/`, and what it brings is Ready."""
    stack.prepare_quickstart()
    stack.apply(QUICKSTART)
    space = Space(stack, quickstart_policy()["metadata"]["namespace"])
    for kind in ("Expert", "Fallback", "RoutingPolicy"):
        space.wait_ready(kind, *_names(kind), seconds=READY_SECONDS)
    yield space
    stack.cluster.kubectl("delete", "-f", str(QUICKSTART), "--wait=false")
    stack.cluster.kubectl("delete", "namespace", space.name, "--wait=false")


@pytest.fixture
def gateway(quickstart: Space) -> Gateway:
    """The gateway as the holder of the quickstart's key sees it."""
    return quickstart.gateway(quickstart_policy()["metadata"]["name"], key=quickstart_api_key())


def _names(kind: str) -> list[str]:
    return [each["metadata"]["name"] for each in quickstart_objects() if each["kind"] == kind]


def test_everything_becomes_ready_though_the_policy_comes_first(quickstart: Space) -> None:
    """Objects are applied before what they name, and all conditions of all of them become True."""
    kinds = [each["kind"] for each in quickstart_objects()]
    assert kinds.index("RoutingPolicy") < kinds.index("Expert") < kinds.index("AcceleratorProfile")

    quickstart.wait_for(lambda: set(_conditions(quickstart).values()) == {"True"}, "all conditions to be True")
    assert len(_conditions(quickstart)) > 20
    told = {event["reason"] for event in quickstart.list("Event") if event["regarding"]["kind"] == "RoutingPolicy"}
    assert "CredentialsMissing" not in told, "what passes by itself is no warning"


def _conditions(space: Space) -> dict[tuple[str, str, str], str]:
    """The status of every condition of the quickstart's objects."""
    return {
        (kind, name, each["type"]): each["status"]
        for kind in ("Expert", "Fallback", "RoutingPolicy")
        for name in _names(kind)
        for each in space.get(kind, name)["status"]["conditions"]
    }


def test_kubectl_get_flotilla_shows_each_kind_with_its_columns(stack: Stack, quickstart: Space) -> None:
    """The category prints a table for each kind, with what a person asks first."""
    # One of two replicas is enough to be Ready: the rollout may still be on.
    quickstart.wait_for(
        lambda: quickstart.get("Expert", "general")["status"]["replicas"] == 2, "both replicas to be ready"
    )

    printed = stack.cluster.kubectl("get", "flotilla", "-n", quickstart.name)

    headings = [tuple(line.split()) for line in printed.splitlines() if line.startswith("NAME")]
    rows = {line.split()[0]: line.split() for line in printed.splitlines() if "/" in line.split(" ")[0]}
    general = next(each for each in quickstart_objects() if each["metadata"]["name"] == "general")
    assert ("NAME", "MODEL", "READY", "REPLICAS", "REASON", "AGE") in headings
    assert rows["expert.flotilla.dev/general"][1:5] == [general["spec"]["model"]["uri"], "True", "2", "Ready"]
    assert "True" in rows["routingpolicy.flotilla.dev/support"]
    assert "2/2" in rows["routingpolicy.flotilla.dev/support"]
    assert "True" in rows["fallback.flotilla.dev/big"]


def test_short_names_and_wide_columns(stack: Stack, quickstart: Space) -> None:
    """`kubectl get xp -o wide` tells profile, endpoint and dollars per hour."""
    printed = stack.cluster.kubectl("get", "xp", "general", "-n", quickstart.name, "-o", "wide")

    heading, row = (line.split() for line in printed.splitlines())
    wide = dict(zip(heading, row, strict=False))  # the last column is empty where nothing scales
    assert wide["PROFILE"] == "l4"
    assert wide["ENDPOINT"] == f"general-expert.{quickstart.name}.svc:8000"
    assert float(wide["COST/H"]) == 1.6


def test_auto_is_answered_by_one_of_the_experts(gateway: Gateway) -> None:
    """The quickstart's key and `model: auto` are all that a client needs."""
    answer = gateway.ask("What is a fleet?")

    assert answer.status_code == 200
    assert answer.headers["x-flotilla-model"] in {"general", "arithmetic"}
    assert answer.headers["x-flotilla-reason"] == "Static"
    assert text_of(answer)


def test_the_rule_of_the_quickstart_leads_to_its_expert(gateway: Gateway) -> None:
    """The header that the README shows chooses the expert for arithmetic."""
    answer = gateway.ask("What is 6 x 7?", x_task=_math_value())

    assert answer.headers["x-flotilla-model"] == "arithmetic"
    assert answer.headers["x-flotilla-reason"] == "Rule/arithmetic"


def _math_value() -> str:
    rule = next(each for each in quickstart_policy()["spec"]["rules"] if each["name"] == "arithmetic")
    return rule["when"]["headers"][0]["in"][0]


def test_what_is_private_never_leaves_the_cluster(gateway: Gateway) -> None:
    """A request marked as personal data may not be answered by the external fallback."""
    answer = gateway.ask("my name is ...", model="big", x_data_class="pii")

    assert answer.status_code == 403
    assert answer.json()["error"]["code"] == "boundary"


# examples/sidecar


@pytest.fixture(scope="module")
def agents(stack: Stack, quickstart: Space) -> Space:
    """`kubectl apply -f examples/sidecar/` beside the quickstart."""
    stack.apply(SIDECAR_EXAMPLES)
    return quickstart


def _tickets(quickstart: Space) -> list[str]:
    return quickstart.get("ConfigMap", "triage")["data"]["tickets.txt"].splitlines()


def _triaged(stack: Stack, agents: Space, selector: dict[str, str]) -> list[str]:
    """What a program of examples/sidecar printed; [] while it has not begun."""
    pods = [pod for pod in agents.list("Pod", **selector) if pod["status"]["phase"] != "Pending"]
    return [
        line for pod in pods for line in stack.cluster.logs(agents.name, pod["metadata"]["name"], "triage").splitlines()
    ]


def test_an_unmodified_program_in_a_job_is_answered_and_the_job_completes(stack: Stack, agents: Space) -> None:
    """Small models answer first, a large one where they are not sure; the sidecar ends after the program."""
    agents.wait_for(lambda: agents.get("Job", "triage-once").get("status", {}).get("succeeded") == 1, "the Job")

    printed = _triaged(stack, agents, {"batch.kubernetes.io/job-name": "triage-once"})
    (pod,) = agents.list("Pod", **{"batch.kubernetes.io/job-name": "triage-once"})
    ends = [status_of(pod, name)["state"]["terminated"] for name in ("triage", SIDECAR_CONTAINER)]
    assert [line.split(" -> ")[0] for line in printed] == _tickets(agents)
    assert {line.split("(by ")[1].split(",")[0] for line in printed} <= {"general", "arithmetic", "big"}
    assert [end["exitCode"] for end in ends] == [0, 0]
    assert ends[0]["finishedAt"] <= ends[1]["finishedAt"]


def test_an_unmodified_program_in_a_deployment_is_answered(stack: Stack, agents: Space) -> None:
    """It goes on asking, its policy counts its sidecar, and the README's `kubectl logs` shows who answered."""
    agents.wait_for(lambda: _triaged(stack, agents, {"app": "triage"}), "its first answer")

    printed = stack.cluster.kubectl("logs", "-n", agents.name, "deployment/triage", "-c", "triage")

    assert _tickets(agents)[0] in printed
    assert "(by " in printed
    assert "no answer" not in printed
    agents.wait_condition("RoutingPolicy", "support", "SidecarsInjected", "True", "Injected")
