"""What the API server is told about a pod, and what a new runner reads back."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from pod_builders import START, Life, a_container, a_life, a_pod

from localcluster.runner.model import Pod
from localcluster.runner.probing import ProbeKind
from localcluster.runner.state import Exited, Probed, Terminated
from localcluster.runner.status import make_status, read_state
from localcluster.runner.status_writer import make_patch


def _condition(status: dict[str, Any], kind: str) -> dict[str, Any]:
    return next(condition for condition in status["conditions"] if condition["type"] == kind)


def test_status_of_a_running_pod() -> None:
    """A pod whose only container runs without probes is Running and Ready at its address."""
    life = a_life()
    life.runs("main")

    status = life.status()

    assert (status["phase"], status["podIP"], status["podIPs"]) == ("Running", "127.96.128.1", [{"ip": "127.96.128.1"}])
    assert {c["type"] for c in status["conditions"] if c["status"] == "True"} == {
        *("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
    }
    assert status["containerStatuses"][0]["state"] == {"running": {"startedAt": "1970-01-12T13:46:40Z"}}


def test_unready_containers_are_named() -> None:
    """Ready is false with the kubelet's message while a readiness probe has not passed."""
    life = a_life(a_container("a"), a_container("b", readinessProbe={"tcpSocket": {"port": 1}}))
    life.runs("a", "b")

    ready = _condition(life.status(), "Ready")

    assert (ready["status"], ready["reason"]) == ("False", "ContainersNotReady")
    assert ready["message"] == "containers with unready status: [b]"


def test_unfinished_init_containers_are_named() -> None:
    """Until init containers are through, the pod is Pending and says which ones are left."""
    life = a_life(initContainers=[a_container("one"), a_container("two")])
    life.runs("one")
    life.exits("one")

    status = life.status()

    assert status["phase"] == "Pending"
    assert _condition(status, "Initialized")["message"] == "containers with incomplete status: [two]"
    assert status["initContainerStatuses"][0]["ready"] is True
    assert status["containerStatuses"][0]["state"] == {"waiting": {"reason": "PodInitializing"}}


def test_unready_sidecar_makes_the_pod_unready() -> None:
    """A sidecar's readiness counts like a container's."""
    sidecar = a_container("proxy", restartPolicy="Always", readinessProbe={"tcpSocket": {"port": 1}})
    life = a_life(initContainers=[sidecar])
    life.runs("proxy", "main")
    before = _condition(life.status(), "Ready")["status"]
    life.happens(Probed("proxy", 0, ProbeKind.READINESS, True))

    assert (before, _condition(life.status(), "Ready")["status"]) == ("False", "True")


def test_termination_is_told_in_full() -> None:
    """Exit code, signal, reason and message of a container that ended are in its state."""
    life = a_life(restartPolicy="Never")
    life.runs("main")
    life.happens(Exited("main", Terminated(137, "OOMKilled", START, START + 2, "localcluster://x", 9, "last words")))

    assert life.status()["containerStatuses"][0]["state"]["terminated"] == {
        "exitCode": 137,
        "reason": "OOMKilled",
        "signal": 9,
        "message": "last words",
        "startedAt": "1970-01-12T13:46:40Z",
        "finishedAt": "1970-01-12T13:46:42Z",
        "containerID": "localcluster://x",
    }


@pytest.mark.parametrize(
    ("codes", "phase", "reason"),
    [
        pytest.param((0, 0), "Succeeded", "PodCompleted", id="all completed"),
        pytest.param((0, 1), "Failed", "PodFailed", id="one failed"),
    ],
)
def test_phase_of_a_finished_pod(codes: tuple[int, int], phase: str, reason: str) -> None:
    """A pod that is over is Succeeded only if every container was."""
    life = a_life(a_container("a"), a_container("b"), restartPolicy="Never")
    life.runs("a", "b")
    for name, code in zip("ab", codes, strict=True):
        life.exits(name, code)

    assert life.status()["phase"] == phase
    assert _condition(life.status(), "Ready")["reason"] == reason


def test_transition_time_stays_while_a_condition_does() -> None:
    """Only a condition that turns gets a new time."""
    life = a_life(a_container(readinessProbe={"tcpSocket": {"port": 1}}))
    life.runs("main")
    before = life.status()["conditions"]
    life.happens(Probed("main", 0, ProbeKind.READINESS, True))

    after = make_status(life.pod, life.state, host_ip="127.0.0.1", previous=before, now=START + 60)

    assert _condition(after, "Ready")["lastTransitionTime"] == "1970-01-12T13:47:40Z"
    assert _condition(after, "Initialized")["lastTransitionTime"] == "1970-01-12T13:46:40Z"


def test_readiness_gate_is_awaited() -> None:
    """A pod with a readiness gate is Ready only when somebody has set that condition."""
    life = a_life(readinessGates=[{"conditionType": "example.com/gate"}])
    life.runs("main")
    gate = {"type": "example.com/gate", "status": "True"}
    with_gate = make_status(life.pod, life.state, host_ip="127.0.0.1", previous=[gate], now=START)

    assert _condition(life.status(), "Ready")["reason"] == "ReadinessGatesNotReady"
    assert _condition(with_gate, "Ready")["status"] == "True"


def test_patch_takes_back_reasons_that_no_longer_hold() -> None:
    """Conditions are merged by the API server, so a reason that has gone must be deleted explicitly."""
    life = a_life()
    life.runs("main")

    patch = make_patch(life.pod, life.status())

    assert patch["metadata"] == {"uid": "u1"}
    assert all(condition["reason"] is None for condition in patch["status"]["conditions"])


def _reported(life: Life) -> Pod:
    """The pod as the API server returns it."""
    return msgspec.structs.replace(life.pod, status=life.status())


def test_new_runner_restarts_what_the_old_one_ran() -> None:
    """Processes die with their runner; the next one counts a restart and keeps the pod's address."""
    life = a_life(initContainers=[a_container("init")])
    life.runs("init")
    life.exits("init")
    life.runs("main")

    resumed = read_state(_reported(life), "127.96.128.7", START + 60)
    main = resumed.containers["main"]

    assert resumed.pod_ip == "127.96.128.1"
    assert isinstance(resumed.containers["init"].status, Terminated)
    assert isinstance(main.status, Terminated)
    assert (main.status.exit_code, main.status.reason) == (137, "ContainerStatusUnknown")


def test_new_runner_leaves_finished_pods_alone() -> None:
    """A pod that had succeeded stays so."""
    life = a_life(restartPolicy="Never")
    life.runs("main")
    life.exits("main")
    pod = _reported(life)

    again = Life(pod, read_state(pod, "127.96.128.7", START))

    assert again.actions == []
    assert again.status()["phase"] == "Succeeded"


def test_pod_without_status_starts_afresh() -> None:
    """A container that never ran has nothing to resume."""
    assert read_state(a_pod(), "127.96.128.7", START).containers["main"].runs == 0
