"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler as plain processes on one cluster's own network."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from localcluster.access import make_client
from localcluster.credentials import Credentials
from localcluster.processes import Process, ProcessError, Program, read_tail, stop_all
from localcluster.subnet import Subnet
from localcluster.waiting import wait_until

ISSUER = "https://kubernetes.default.svc.cluster.local"
CONTROLLERS = (
    "*,-nodeipam,-cloud-node-lifecycle,-route,-attachdetach,-bootstrapsigner,-tokencleaner"
    # Endpoints may not be loopback addresses: these controllers would fail, retry and post events for ever.
    ",-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"
)
APISERVER_PORT, KUBELET_PORT = 6443, 10250
ETCD_PORT, ETCD_PEER_PORT = 2379, 2380
CONTROLLER_MANAGER_PORT, SCHEDULER_PORT = 10257, 10259
START_TIMEOUT_SECONDS = 90.0  # loaded machines need far more than the usual 6 s


class ControlPlane:
    """A running control plane. Its four programs end with the process that started it."""

    def __init__(self, *, binaries: Path, directory: Path, subnet: Subnet, name: str, held: Sequence[int] = ()) -> None:
        self.subnet = subnet
        self.url = f"https://{subnet.host}:{APISERVER_PORT}"
        self.directory = directory
        self.credentials = Credentials.create(directory / "credentials", subnet, url=self.url, cluster=name)
        self.log_directory = directory / "logs"
        self.log_directory.mkdir()
        self.api = make_client(self.credentials.administrator)
        self._binaries = binaries
        self._held = tuple(held)
        self._processes: dict[str, Process] = {}

    @classmethod
    def start(cls, *, binaries: Path, directory: Path, subnet: Subnet, name: str, held: Sequence[int] = ()) -> Self:
        """A control plane that schedules pods and gives namespaces their service account.

        Nothing but this cluster may use `subnet`; the descriptors in `held` stay open until all programs are gone.

        Raises:
            ProcessError: a program ended instead of getting ready.
            TimeoutError: one did not get ready in time.
        """
        plane = cls(binaries=binaries, directory=directory, subnet=subnet, name=name, held=held)
        try:
            plane._start("etcd", etcd_flags(subnet, directory / "etcd"))
            plane._start_apiserver()
            plane._start(
                "kube-controller-manager", controller_manager_flags(subnet, plane.credentials), grace_seconds=1.0
            )
            plane._start("kube-scheduler", scheduler_flags(subnet, plane.credentials), grace_seconds=1.0)
            plane.wait_for(plane._controllers_work, "the controller manager to give namespaces their objects")
            plane.wait_for(plane._scheduler_works, "the scheduler to be healthy")
        except BaseException:
            plane.stop()
            raise
        return plane

    def stop(self) -> None:
        """All four programs are gone."""
        self.api.close()
        stop_all(self._processes.values())

    def kill_apiserver(self) -> None:
        """SIGKILL the API server; on return its port is free and clients' connections are cut."""
        process = self._processes.pop("kube-apiserver", None)
        if process is not None:
            process.kill()

    def restart_apiserver(self) -> None:
        """The API server answers again, at the same address and with the same data; a running one is killed first."""
        self.kill_apiserver()
        self._start_apiserver()

    def pause_apiserver(self) -> None:
        """Stop the API server's clock: connections stay open, requests hang."""
        self._processes["kube-apiserver"].signal(signal.SIGSTOP)

    def resume_apiserver(self) -> None:
        """Let a paused API server go on."""
        self._processes["kube-apiserver"].signal(signal.SIGCONT)

    def restart_etcd(self) -> None:
        """SIGKILL etcd and start it again on the same data; the API server reconnects by itself."""
        self._processes["etcd"].kill()
        self._start("etcd", etcd_flags(self.subnet, self.directory / "etcd"))
        self.wait_for(self._etcd_is_healthy, "etcd to be healthy")
        self.wait_for(self._apiserver_is_ready, "the API server to find etcd again")

    @property
    def pids(self) -> dict[str, int]:
        """Process id by program."""
        return {name: process.pid for name, process in self._processes.items()}

    def start_process(self, program: Program) -> Process:
        """Run one more program as part of this cluster: it ends with it, and `wait_for` fails when it ended early."""
        process = Process.start(program, held=self._held)
        self._processes[program.name] = process
        return process

    def forget_process(self, name: str) -> Process | None:
        """The program `name`, from now on the caller's to end; None when there is none."""
        return self._processes.pop(name, None)

    def require_running(self) -> None:
        """Return if all programs run.

        Raises:
            ProcessError: one ended.
        """
        for name, process in self._processes.items():
            if process.exit_code is not None:
                tail = read_tail(process.program.log)
                raise ProcessError(f"{name} ended with exit code {process.exit_code}: {tail}")

    def wait_for(
        self, condition: Callable[[], bool], what: str, timeout_seconds: float = START_TIMEOUT_SECONDS
    ) -> None:
        """Return once `condition` holds; a refused or failed request counts as not yet.

        Raises:
            ProcessError: one of the cluster's programs ended meanwhile.
            TimeoutError: it did not come to hold; the message says `what` was awaited.
        """
        what = f"{what} (logs: {self.log_directory})"
        wait_until(condition, what, timeout_seconds=timeout_seconds, check=self.require_running)

    def _start_apiserver(self) -> None:
        self._start("kube-apiserver", apiserver_flags(self.subnet, self.credentials))
        self.wait_for(self._apiserver_is_ready, "the API server to be ready")

    def _start(self, name: str, flags: Sequence[str], grace_seconds: float = 0.0) -> None:
        log = self.log_directory / f"{name}.log"
        self.start_process(Program(name, [str(self._binaries / name), *flags], _environment(), log, grace_seconds))

    def _etcd_is_healthy(self) -> bool:
        return self.api.get(f"http://{self.subnet.host}:{ETCD_PORT}/health").is_success

    def _apiserver_is_ready(self) -> bool:
        return self.api.get("/readyz").is_success

    def _controllers_work(self) -> bool:
        """True once pods can start in `default`: they need its service account and, mounted, the CA's ConfigMap."""
        paths = ("serviceaccounts/default", "configmaps/kube-root-ca.crt")
        return all(self.api.get(f"/api/v1/namespaces/default/{path}").is_success for path in paths)

    def _scheduler_works(self) -> bool:
        return self.api.get(f"https://{self.subnet.host}:{SCHEDULER_PORT}/readyz").is_success


def _environment() -> dict[str, str]:
    """No proxies and no kubeconfig of the user's: all that these programs talk to is on loopback."""
    return {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "TZ") if key in os.environ}


def etcd_flags(subnet: Subnet, data: Path) -> list[str]:
    """A single member on loopback that trusts the operating system to write; it survives SIGKILL, not a power cut."""
    client, peer = f"http://{subnet.host}:{ETCD_PORT}", f"http://{subnet.host}:{ETCD_PEER_PORT}"
    return [
        "--name=local",
        f"--data-dir={data}",
        f"--listen-client-urls={client}",
        f"--advertise-client-urls={client}",
        f"--listen-peer-urls={peer}",
        f"--initial-advertise-peer-urls={peer}",
        f"--initial-cluster=local={peer}",
        "--unsafe-no-fsync",
        "--log-level=error",
    ]


def apiserver_flags(subnet: Subnet, credentials: Credentials) -> list[str]:
    """An API server with RBAC that signs service account tokens and reaches nodes with its own client certificate."""
    return [
        f"--etcd-servers=http://{subnet.host}:{ETCD_PORT}",
        f"--bind-address={subnet.host}",
        f"--secure-port={APISERVER_PORT}",
        f"--tls-cert-file={credentials.apiserver.cert}",
        f"--tls-private-key-file={credentials.apiserver.key}",
        f"--client-ca-file={credentials.ca}",
        f"--token-auth-file={credentials.tokens}",
        f"--service-account-issuer={ISSUER}",
        f"--service-account-key-file={credentials.service_account_public_key}",
        f"--service-account-signing-key-file={credentials.service_account_key}",
        f"--service-cluster-ip-range={subnet.service_cidr}",
        f"--kubelet-certificate-authority={credentials.ca}",
        f"--kubelet-client-certificate={credentials.kubelet_client.cert}",
        f"--kubelet-client-key={credentials.kubelet_client.key}",
        "--kubelet-preferred-address-types=InternalIP",
        "--authorization-mode=RBAC",
        "--allow-privileged",
        "--endpoint-reconciler-type=none",
        "--profiling=false",
    ]


def controller_manager_flags(subnet: Subnet, credentials: Credentials) -> list[str]:
    """All controllers that need no cloud, each with its own service account, unhurried by client-side rate limits."""
    return [
        f"--kubeconfig={credentials.controller_manager_kubeconfig}",
        f"--controllers={CONTROLLERS}",
        f"--root-ca-file={credentials.ca}",
        f"--service-account-private-key-file={credentials.service_account_key}",
        "--use-service-account-credentials",
        *_component_flags(subnet, credentials, CONTROLLER_MANAGER_PORT),
    ]


def scheduler_flags(subnet: Subnet, credentials: Credentials) -> list[str]:
    """The default scheduler."""
    return [
        f"--kubeconfig={credentials.scheduler_kubeconfig}",
        *_component_flags(subnet, credentials, SCHEDULER_PORT),
    ]


def _component_flags(subnet: Subnet, credentials: Credentials, port: int) -> list[str]:
    return [
        "--leader-elect=false",
        f"--bind-address={subnet.host}",
        f"--secure-port={port}",
        f"--tls-cert-file={credentials.components.cert}",
        f"--tls-private-key-file={credentials.components.key}",
        "--kube-api-qps=500",
        "--kube-api-burst=1000",
        "--profiling=false",
    ]
