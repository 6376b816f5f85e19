"""What happens to pods when the runner, the API server or a node goes away; on a cluster of these tests' own."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator
from pathlib import Path

import pytest
from runner_pods import Workspace, a_container, a_pod

from localcluster.cluster import RUNNER, LocalCluster
from localcluster.config import ImageSpec, cpu_node
from localcluster.runner.control import container_log, container_pid

TOOLBOX = ImageSpec(["/bin/sh"], {"python3": [sys.executable]})


@pytest.fixture
def space(tmp_path: Path) -> Generator[Workspace]:
    nodes = [cpu_node("cpu-0"), cpu_node("cpu-1")]
    with LocalCluster.start(nodes, {"toolbox": TOOLBOX}, name="faults", directory=tmp_path / "c") as cluster:
        yield Workspace(cluster, "default")


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return "\nState:\tZ" not in Path(f"/proc/{pid}/status").read_text()


def test_nothing_outlives_a_killed_runner(space: Workspace) -> None:
    """SIGKILL of the runner ends every process of every pod, also those that detached themselves."""
    script = "setsid sleep 1000 & echo $! up; exec sleep 1000"
    space.create(a_pod("web", a_container(script=script)))
    space.wait_ready("web")
    space.wait("its start", lambda: "up" in container_log(space.state_dir, "default", "web", "main"))
    first = container_pid(space.state_dir, "default", "web", "main")
    children = Path(f"/proc/{first}/task/{first}/children").read_text().split()
    members = [first, *map(int, children)]

    runner = space.cluster.control_plane.forget_process(RUNNER)
    assert runner is not None
    runner.kill()

    assert len(members) == 2
    space.wait("the pod's processes to end", lambda: not any(map(_is_running, members)))


def test_new_runner_takes_over(space: Workspace) -> None:
    """Pods whose runner was killed run again under the next one, at the same address, with a restart counted."""
    space.create(a_pod("steady"), a_pod("done", a_container(script="exit 0"), restartPolicy="Never"))
    space.wait_ready("steady")
    space.wait("the other to be done", lambda: space.get("pods", "done")["status"]["phase"] == "Succeeded")
    address = space.get("pods", "steady")["status"]["podIP"]
    killed = space.cluster.control_plane.forget_process(RUNNER)
    assert killed is not None
    killed.kill()

    space.cluster.control_plane.start_process(killed.program)
    space.wait("a restart", lambda: space.container("steady")["restartCount"] == 1 and space.is_ready("steady"))

    assert space.terminated("steady")["reason"] == "ContainerStatusUnknown"
    assert space.get("pods", "steady")["status"]["podIP"] == address
    assert space.get("pods", "done")["status"]["phase"] == "Succeeded"
    assert space.container("done")["restartCount"] == 0


def test_pods_run_on_while_the_api_server_is_away(space: Workspace) -> None:
    """Containers are not touched when the API server restarts; what happened meanwhile is told afterwards."""
    script = "until test -e /tmp/never; do sleep 0.2; done"
    space.create(
        a_pod("steady", a_container(script=script)),
        a_pod("brief", a_container(script="sleep 2; exit 5"), restartPolicy="Never"),
    )
    space.wait_ready("steady")
    pid = container_pid(space.state_dir, "default", "steady", "main")

    space.cluster.kill_apiserver()
    space.cluster.restart_apiserver()

    assert space.wait_terminated("brief")["exitCode"] == 5
    assert _is_running(pid)
    assert container_pid(space.state_dir, "default", "steady", "main") == pid
    space.create(a_pod("new"))
    space.wait_ready("new")
    assert space.container("steady")["restartCount"] == 0


def test_pods_of_a_deleted_node_are_killed(space: Workspace) -> None:
    """When its Node goes, a pod's processes go; pods of other nodes stay."""
    for node in ("cpu-0", "cpu-1"):
        space.create(a_pod(node, nodeSelector={"kubernetes.io/hostname": node}, terminationGracePeriodSeconds=600))
    space.wait_ready("cpu-0", "cpu-1")
    pids = {node: container_pid(space.state_dir, "default", node, "main") for node in ("cpu-0", "cpu-1")}

    space.cluster.api.delete("/api/v1/nodes/cpu-0").raise_for_status()

    space.wait("the processes to end", lambda: not _is_running(pids["cpu-0"]))
    assert _is_running(pids["cpu-1"])
