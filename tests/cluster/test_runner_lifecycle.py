"""Pods on a real cluster: probes, restarts, limits, and how they end."""

from __future__ import annotations

from typing import Any

import pytest
from runner_pods import Workspace, a_config_map, a_container, a_pod, a_python

from localcluster.cluster import LocalCluster
from localcluster.runner.control import container_log, container_pid, kill_container

QUICK = {"periodSeconds": 1, "failureThreshold": 1}
KEEP = "test.flotilla.dev/keep"  # a finalizer: the pod's last status stays readable


@pytest.fixture
def space(cluster: LocalCluster, namespace: str) -> Workspace:
    return Workspace(cluster, namespace)


def test_failing_startup_probe_restarts_the_container(space: Workspace) -> None:
    """A container that does not start up in time is killed and started again, and never ready."""
    probe = {"tcpSocket": {"port": 9}, **QUICK}
    space.create(a_pod("slow", a_container(startupProbe=probe, readinessProbe=probe)))

    space.wait_event("slow", "Killing", "Container main failed startup probe, will be restarted")
    space.wait("a restart", lambda: space.container("slow")["restartCount"] > 0)

    assert space.terminated("slow")["exitCode"] == 137
    assert space.has_event("slow", "Unhealthy", "Startup probe failed: dial tcp 127.")
    assert not space.has_event("slow", "Unhealthy", "Readiness probe failed")


def test_readiness_follows_a_mounted_config_map(space: Workspace) -> None:
    """A readiness probe that reads a mounted ConfigMap turns with it; the container is not restarted."""
    probe = {"exec": {"command": ["grep", "-q", "yes", "/cfg/ready"]}, **QUICK}
    mount = {"name": "cfg", "mountPath": "/cfg"}
    volumes = [{"name": "cfg", "configMap": {"name": "switch"}}]
    space.create(a_config_map("switch", ready="no"))
    space.create(a_pod("web", a_container(readinessProbe=probe, volumeMounts=[mount]), volumes=volumes))
    space.wait_event("web", "Unhealthy", "Readiness probe failed")

    turns: list[bool] = [space.is_ready("web")]
    for answer in ("yes", "no"):
        space.patch("configmaps", "switch", {"data": {"ready": answer}})
        space.wait(f"readiness to follow {answer}", lambda a=answer: space.is_ready("web") is (a == "yes"))
        turns.append(space.is_ready("web"))

    assert turns == [False, True, False]
    assert space.container("web")["restartCount"] == 0
    assert space.container("web")["started"] is True


def test_failing_liveness_probe_restarts_the_container(space: Workspace) -> None:
    """A container that stops answering is told to end, and runs again."""
    probe = {"exec": {"command": ["sh", "-c", "test ! -e /tmp/sick"]}, **QUICK}
    script = "trap 'exit 4' TERM; sleep 1; touch /tmp/sick; while :; do sleep 0.05; done"
    space.create(a_pod("web", a_container(script=script, livenessProbe=probe), terminationGracePeriodSeconds=30))

    space.wait_event("web", "Killing", "Container main failed liveness probe, will be restarted")

    assert space.wait_terminated("web")["exitCode"] == 4
    space.wait("a restart", lambda: space.container("web")["restartCount"] > 0)


def test_crash_loop(space: Workspace) -> None:
    """A container that keeps failing waits in CrashLoopBackOff and shows how it ended last."""
    space.create(a_pod("crash", a_container(script="echo no luck; exit 3")))

    space.wait("the back-off", lambda: space.waiting_reason("crash") == "CrashLoopBackOff")
    last = space.container("crash")["lastState"]["terminated"]

    assert (last["exitCode"], last["reason"]) == (3, "Error")
    assert "restarting failed container=main pod=crash_" in space.container("crash")["state"]["waiting"]["message"]
    space.wait_event("crash", "BackOff", "Back-off restarting failed container main in pod crash_")


def test_previous_log_is_kept(space: Workspace) -> None:
    """`kubectl logs --previous` shows the run before the current one."""
    script = 'test -e /state/ran && exec sleep 1000; touch /state/ran; echo "first run"; exit 1'
    mounts = [{"name": "state", "mountPath": "/state"}]
    volumes: list[dict[str, Any]] = [{"name": "state", "emptyDir": {}}]
    space.create(a_pod("twice", a_container(script=script, volumeMounts=mounts), volumes=volumes))
    space.wait(
        "the second run", lambda: "running" in space.container("twice").get("state", {}) and space.is_ready("twice")
    )
    space.wait("a restart", lambda: space.container("twice")["restartCount"] == 1)

    assert space.cluster.logs(space.namespace, "twice", previous=True) == "first run\n"


def test_container_over_its_memory_limit_is_killed(space: Workspace) -> None:
    """A container that uses more memory than its limit ends as OOMKilled with exit code 137."""
    script = "import time; hoard = bytearray(200 << 20); time.sleep(1000)"
    resources = {"limits": {"memory": "64Mi"}}
    space.create(a_pod("greedy", a_python("main", script, resources=resources), restartPolicy="Never"))

    ended = space.wait_terminated("greedy")

    assert (ended["reason"], ended["exitCode"], ended["signal"]) == ("OOMKilled", 137, 9)
    space.wait("the pod to fail", lambda: space.get("pods", "greedy")["status"]["phase"] == "Failed")


@pytest.mark.parametrize(
    ("script", "grace_seconds", "code"),
    [
        pytest.param("trap 'sleep 1; exit 7' TERM; echo up; while :; do sleep 0.05; done", 30, 7, id="slow, within"),
        pytest.param("trap 'sleep 60' TERM; echo up; while :; do sleep 0.05; done", 1, 137, id="too slow"),
    ],
)
def test_grace_period(space: Workspace, script: str, grace_seconds: int, code: int) -> None:
    """A container has its grace period to end by itself after SIGTERM, and is killed after it."""
    pod = a_pod("slow", a_container(script=script), terminationGracePeriodSeconds=grace_seconds, restartPolicy="Never")
    space.create({**pod, "metadata": {"name": "slow", "finalizers": [KEEP]}})
    space.wait("its start", lambda: "up" in container_log(space.state_dir, space.namespace, "slow", "main"))

    space.delete("pods", "slow")

    assert space.wait_terminated("slow")["exitCode"] == code
    space.patch("pods", "slow", {"metadata": {"finalizers": []}})
    space.wait("the pod to go", lambda: not space.exists("pods", "slow"))


def test_pod_starts_and_ends_in_order(space: Workspace) -> None:
    """Init containers and sidecars start in order; at the end sidecars stop after the containers, last one first."""

    def chatty(name: str, **fields: Any) -> dict[str, Any]:
        script = (
            f"trap 'echo -{name} >> /log/order; exit' TERM; echo +{name} >> /log/order; while :; do sleep 0.05; done"
        )
        return a_container(name, script, volumeMounts=[{"name": "log", "mountPath": "/log"}], **fields)

    ready = {"startupProbe": {"exec": {"command": ["test", "-e", "/log/order"]}, **QUICK, "failureThreshold": 30}}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    space.create({"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "log"}, "spec": claim})
    init = a_container("init", "echo +init >> /log/order", volumeMounts=[{"name": "log", "mountPath": "/log"}])
    sidecars = [chatty("one", restartPolicy="Always", **ready), chatty("two", restartPolicy="Always", **ready)]
    space.create(
        a_pod(
            "ordered",
            chatty("main"),
            initContainers=[init, *sidecars],
            volumes=[{"name": "log", "persistentVolumeClaim": {"claimName": "log"}}],
            terminationGracePeriodSeconds=30,
        )
    )
    space.wait_ready("ordered")
    volume = space.get("persistentvolumeclaims", "log")["spec"]["volumeName"]
    order = space.state_dir / "volumes" / volume / "order"
    space.wait("the last to have begun", lambda: "+main" in order.read_text())

    space.delete("pods", "ordered")
    space.wait("the pod to go", lambda: not space.exists("pods", "ordered"))

    assert order.read_text().split() == ["+init", "+one", "+two", "+main", "-main", "-two", "-one"]


def test_pre_stop_hook_runs_before_sigterm(space: Workspace) -> None:
    """The hook runs inside the container while that still runs undisturbed."""
    script = "trap 'cat /tmp/hook > /dev/termination-log; exit' TERM; echo up; while :; do sleep 0.05; done"
    hook = {"preStop": {"exec": {"command": ["sh", "-c", "echo drained by $WHO > /tmp/hook"]}}}
    container = a_container(script=script, lifecycle=hook, env=[{"name": "WHO", "value": "hook"}])
    pod = a_pod("web", container, metadata={"finalizers": [KEEP]}, terminationGracePeriodSeconds=30)
    space.create(pod)
    space.wait("its start", lambda: "up" in container_log(space.state_dir, space.namespace, "web", "main"))

    space.delete("pods", "web")

    assert space.wait_terminated("web")["message"] == "drained by hook\n"
    space.patch("pods", "web", {"metadata": {"finalizers": []}})


@pytest.mark.parametrize(
    ("policy", "script", "message"),
    [
        pytest.param("File", "echo out; echo why > /dev/termination-log; exit 2", "why\n", id="the file"),
        pytest.param("FallbackToLogsOnError", "echo out; exit 2", "out\n", id="the log of a failed run"),
        pytest.param("File", "echo out; exit 2", None, id="nothing"),
    ],
)
def test_termination_message(space: Workspace, policy: str, script: str, message: str | None) -> None:
    """A container's last words are in its status."""
    container = a_container(script=script, terminationMessagePolicy=policy)
    space.create(a_pod("last-words", container, restartPolicy="Never"))

    assert space.wait_terminated("last-words").get("message") == message


def test_jobs_pod_completes_with_its_sidecar(space: Workspace) -> None:
    """A Job is complete when its container is, though a sidecar was still running."""
    script = "trap 'exit 0' TERM; while :; do sleep 0.05; done"
    sidecar = a_container("proxy", script, restartPolicy="Always")
    template = a_pod("work", a_container(script="exit 0"), initContainers=[sidecar], restartPolicy="Never")["spec"]
    job = {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "work"},
        "spec": {"template": {"spec": template}},
    }

    space.create(job)

    space.wait("the Job to complete", lambda: space.get("jobs", "work")["status"].get("succeeded") == 1)


def test_killed_container_is_restarted(space: Workspace) -> None:
    """A process that is killed from outside ends with 137 and runs again under a new process id."""
    space.create(a_pod("victim"))
    space.wait_ready("victim")
    pid = container_pid(space.state_dir, space.namespace, "victim", "main")

    kill_container(space.state_dir, space.namespace, "victim", "main")
    space.wait("a restart", lambda: space.container("victim")["restartCount"] == 1 and space.is_ready("victim"))

    assert space.terminated("victim")["exitCode"] == 137
    assert container_pid(space.state_dir, space.namespace, "victim", "main") != pid


def test_force_deleted_pod_is_killed(space: Workspace) -> None:
    """When the API server forgets a pod at once, its processes do not go on."""
    space.create(a_pod("gone", terminationGracePeriodSeconds=600))
    space.wait_ready("gone")

    space.delete("pods", "gone", gracePeriodSeconds=0)

    with pytest.raises(LookupError, match="no container main"):
        space.wait("its end", lambda: not container_pid(space.state_dir, space.namespace, "gone", "main"))
