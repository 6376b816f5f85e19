"""A whole local cluster: control plane, nodes, and the pods that run on them as local processes."""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from localcluster.access import ClusterAccess
from localcluster.binaries import ensure_binaries
from localcluster.config import ImageSpec, NodeSpec, RunnerConfig, cpu_node, gpu_node
from localcluster.controlplane import APISERVER_PORT, KUBELET_PORT, START_TIMEOUT_SECONDS, ControlPlane
from localcluster.processes import Program
from localcluster.subnet import SubnetLock
from localcluster.tools import python_environment

RUNNER = "pod-runner"
RUNNER_GRACE_SECONDS = 10.0  # pods get SIGTERM and a moment; what is left then is killed by the supervisor


def default_nodes() -> list[NodeSpec]:
    """One node for operators and gateways, and an L4 pool of two nodes with four GPUs each."""
    return [cpu_node("cpu-0"), gpu_node("l4-0"), gpu_node("l4-1")]


class LocalCluster(ClusterAccess):
    """A running cluster of this process's own; a context manager that ends it.

    It belongs to the process that started it: when that process ends, however it does, so does everything of the
    cluster.
    """

    def __init__(self, name: str, control_plane: ControlPlane, lock: SubnetLock, *, temporary: bool) -> None:
        super().__init__(control_plane.directory, control_plane.api)
        self.name = name
        self.control_plane = control_plane
        self._lock = lock
        self._temporary = temporary
        self._stopped = False

    @classmethod
    def start(
        cls,
        nodes: Sequence[NodeSpec] | None = None,
        images: Mapping[str, ImageSpec] | None = None,
        *,
        name: str = "local",
        directory: Path | None = None,
        runner: bool = True,
        restart_backoff_seconds: float = 10.0,
    ) -> Self:
        """A cluster whose nodes are Ready; `nodes` are `default_nodes()` unless given, `images` none.

        Its files go to `directory`, which must be empty or absent; without one, to a temporary directory that goes with
        the cluster. With `runner=False` there are no nodes, and nothing runs pods. A crashed container is restarted
        after `restart_backoff_seconds`, then after twice that and so on, up to 30 times that.

        Raises:
            BuildError: the control plane's programs are neither there nor could they be built.
            ProcessError: a program ended instead of getting ready.
            TimeoutError: one did not get ready in time.
        """
        binaries = ensure_binaries()
        root = (directory or Path(tempfile.mkdtemp(prefix=f"flotilla-{name}-"))).resolve()
        root.mkdir(parents=True, exist_ok=True)
        lock = SubnetLock.acquire()
        try:
            plane = ControlPlane.start(
                binaries=binaries, directory=root, subnet=lock.subnet, name=name, held=[lock.fileno()]
            )
        except BaseException:
            lock.release()
            raise
        cluster = cls(name, plane, lock, temporary=directory is None)
        if runner:
            wanted = default_nodes() if nodes is None else list(nodes)
            cluster._start_runner_or_stop(cluster._runner_config(wanted, dict(images or {}), restart_backoff_seconds))
        return cluster

    def close(self) -> None:
        """As `stop`."""
        self.stop()

    def stop(self) -> None:
        """Nothing of the cluster is left running; pods got SIGTERM first. Its temporary directory is deleted."""
        if self._stopped:
            return
        self._stopped = True
        runner = self.control_plane.forget_process(RUNNER)
        if runner is not None:
            runner.stop()
        self.control_plane.stop()
        self._lock.release()
        if self._temporary:
            shutil.rmtree(self.directory, ignore_errors=True)

    def wait_for(self, condition: Callable[[], bool], what: str, timeout_seconds: float = 60.0) -> None:
        """Return once `condition` holds; a refused request counts as not yet.

        Raises:
            ProcessError: one of the cluster's programs ended meanwhile.
            TimeoutError: it did not come to hold; the message says `what` was awaited.
        """
        self.control_plane.wait_for(condition, what, timeout_seconds)

    def kill_apiserver(self) -> None:
        """SIGKILL the API server; clients' connections are cut."""
        self.control_plane.kill_apiserver()

    def restart_apiserver(self) -> None:
        """The API server answers again, at the same address and with the same data; a running one is killed first."""
        self.control_plane.restart_apiserver()

    def _start_runner_or_stop(self, config: RunnerConfig) -> None:
        names = {node.name for node in config.nodes}
        try:
            self._start_runner(config)
            self.wait_for(lambda: self._ready_nodes() >= names, "nodes to be Ready", START_TIMEOUT_SECONDS)
        except BaseException:
            self.stop()
            raise

    def _start_runner(self, config: RunnerConfig) -> None:
        config_path = self.directory / "runner.json"
        config.write(config_path)
        argv = [sys.executable, "-m", "localcluster.runner", "--config", str(config_path)]
        log = self.control_plane.log_directory / f"{RUNNER}.log"
        self.control_plane.start_process(Program(RUNNER, argv, python_environment(), log, RUNNER_GRACE_SECONDS))

    def _runner_config(
        self, nodes: list[NodeSpec], images: dict[str, ImageSpec], backoff_seconds: float
    ) -> RunnerConfig:
        plane = self.control_plane
        state = self.directory / "runner"
        state.mkdir()
        return RunnerConfig(
            cluster=self.name,
            kubeconfig=plane.credentials.agent_kubeconfig,
            state_dir=state,
            ca_path=plane.credentials.ca,
            apiserver_host=plane.subnet.host,
            apiserver_port=APISERVER_PORT,
            service_cidr=plane.subnet.service_cidr,
            pod_cidr=plane.subnet.pod_cidr,
            node_address=plane.subnet.host,
            kubelet_port=KUBELET_PORT,
            kubelet_cert=plane.credentials.kubelet.cert,
            kubelet_key=plane.credentials.kubelet.key,
            nodes=nodes,
            images=images,
            backoff_base_seconds=backoff_seconds,
        )

    def _ready_nodes(self) -> set[str]:
        items: list[dict[str, Any]] = self.api.get("/api/v1/nodes").raise_for_status().json()["items"]
        return {node["metadata"]["name"] for node in items if _is_ready(node)}


def _is_ready(node: Mapping[str, Any]) -> bool:
    conditions: list[dict[str, str]] = node.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Ready" and condition["status"] == "True" for condition in conditions)
