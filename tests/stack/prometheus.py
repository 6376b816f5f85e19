"""A real Prometheus: as a process that scrapes what a test says, or as a pod that finds Flotilla's pods itself."""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import tempfile
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import yaml

from localcluster.access import ClusterAccess
from localcluster.prometheus import ensure_prometheus
from localcluster.waiting import wait_until
from stack.images import DISCOVERY_IMAGE, PROMETHEUS_IMAGE

ROOT = Path(__file__).parents[2]
EXAMPLE = ROOT / "examples" / "prometheus"
NAMESPACE = "monitoring"
NAME = "prometheus"
PORT = 9090
TARGETS = "/targets/pods.json"
READY_SECONDS = 60
_STORAGE = ["--storage.tsdb.retention.time=2h", "--storage.tsdb.min-block-duration=2h"]

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class PrometheusAccess:
    """A running server."""

    url: str

    def query(self, text: str) -> list[Manifest]:
        """The result of an instant query."""
        response = httpx.get(f"{self.url}/api/v1/query", params={"query": text}, timeout=10, trust_env=False)
        return response.raise_for_status().json()["data"]["result"]

    def value(self, text: str) -> float | None:
        """The value of a query whose result is one series; None: it has none."""
        found = self.query(text)
        return float(found[0]["value"][1]) if found else None

    def wait(self, text: str, what: str, timeout_seconds: float = 30) -> None:
        """Return once the query has a result."""
        wait_until(lambda: bool(self.query(text)), what, timeout_seconds=timeout_seconds)

    def ready(self) -> bool:
        """Whether it says so."""
        return httpx.get(f"{self.url}/-/ready", timeout=2, trust_env=False).is_success


@dataclass(frozen=True, slots=True)
class Target:
    """What a server of a test's own scrapes."""

    address: str
    """host:port."""
    path: str
    labels: Mapping[str, str]


class PrometheusProcess:
    """A server of the test's own, and what it scrapes; it can be stopped for a while."""

    def __init__(self, process: subprocess.Popen[bytes], access: PrometheusAccess, directory: Path) -> None:
        self._process = process
        self._directory = directory
        self.access = access

    def scrape(self, targets: Sequence[Target]) -> None:
        """From soon on these are the targets."""
        groups = [
            {"targets": [target.address], "labels": {**target.labels, "__metrics_path__": target.path}}
            for target in targets
        ]
        scratch = self._directory / "targets.new"
        scratch.write_text(yaml.safe_dump(groups))
        scratch.rename(self._directory / "targets.yaml")

    def stop(self) -> None:
        """It does nothing until `go_on`, and answers nobody."""
        self._process.send_signal(signal.SIGSTOP)

    def go_on(self) -> None:
        """It runs again."""
        self._process.send_signal(signal.SIGCONT)


@contextmanager
def running_prometheus(scrape_seconds: float) -> Generator[PrometheusProcess]:
    """A server on loopback that scrapes nothing yet; its data goes with the block."""
    with tempfile.TemporaryDirectory(prefix="flotilla-prometheus-") as folder:
        directory, address = Path(folder), f"127.0.0.1:{_free_port()}"
        (directory / "targets.yaml").write_text("[]")
        (directory / "prometheus.yaml").write_text(yaml.safe_dump(_process_configuration(directory, scrape_seconds)))
        log = (directory / "log").open("wb")
        process = subprocess.Popen(_command(directory, address), stdout=log, stderr=log, cwd=directory)
        running = PrometheusProcess(process, PrometheusAccess(f"http://{address}"), directory)
        try:
            wait_until(running.access.ready, "Prometheus to be ready", timeout_seconds=READY_SECONDS)
            yield running
        finally:
            running.go_on()
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()
            process.wait()
            log.close()


def start_prometheus(cluster: ClusterAccess, *, scrape_seconds: int = 1) -> PrometheusAccess:
    """A pod that scrapes Flotilla's as examples/prometheus says, only more often; one that is there stays as it is.

    The cluster's images must hold those of `make_images()`.
    """
    ensure_prometheus()
    manifests = [_namespace(), _account(), *_rights(), _configuration(scrape_seconds), _deployment(), _service()]
    cluster.kubectl("apply", "-f", "-", input=yaml.safe_dump_all(manifests))
    status = ("rollout", "status", f"deployment/{NAME}", "-n", NAMESPACE, f"--timeout={READY_SECONDS}s")
    cluster.kubectl(*status, timeout_seconds=READY_SECONDS + 10)
    found = cluster.kubectl("get", "service", NAME, "-n", NAMESPACE, "-o", "jsonpath={.spec.clusterIP}")
    return PrometheusAccess(f"http://{found}:{PORT}")


def restart_prometheus(cluster: ClusterAccess) -> None:
    """Its pod is another one, without what the old one knew."""
    cluster.kubectl("delete", "pod", "-n", NAMESPACE, "-l", f"app={NAME}")
    status = ("rollout", "status", f"deployment/{NAME}", "-n", NAMESPACE, f"--timeout={READY_SECONDS}s")
    cluster.kubectl(*status, timeout_seconds=READY_SECONDS + 10)


def pod_url() -> str:
    """How pods call the server that `start_prometheus` starts."""
    return f"http://{NAME}.{NAMESPACE}.svc:{PORT}"


def scrape_configs(scrape_seconds: float) -> list[Manifest]:
    """Those of examples/prometheus, with another interval, and targets from a file: see `discovery`."""
    given: Manifest = yaml.safe_load((EXAMPLE / "scrape-configs.yaml").read_text())
    interval = _interval(scrape_seconds)
    changed: Manifest = {"scrape_interval": interval, "scrape_timeout": interval}
    changed["file_sd_configs"] = [{"files": [TARGETS], "refresh_interval": "1s"}]
    configs: list[Manifest] = given["scrape_configs"]
    return [{**{k: v for k, v in each.items() if k != "kubernetes_sd_configs"}, **changed} for each in configs]


def _process_configuration(directory: Path, scrape_seconds: float) -> Manifest:
    interval = _interval(scrape_seconds)
    job = {
        "job_name": "test",
        "file_sd_configs": [{"files": [str(directory / "targets.yaml")], "refresh_interval": "1s"}],
    }
    return {"global": {"scrape_interval": interval, "scrape_timeout": interval}, "scrape_configs": [job]}


def _interval(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _command(directory: Path, address: str) -> list[str]:
    options = [f"--config.file={directory / 'prometheus.yaml'}", f"--storage.tsdb.path={directory / 'data'}"]
    return [str(ensure_prometheus()), *options, f"--web.listen-address={address}", *_STORAGE]


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def _namespace() -> Manifest:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}}


def _account() -> Manifest:
    return {"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": NAME, "namespace": NAMESPACE}}


def _rights() -> list[Manifest]:
    return list(yaml.safe_load_all((EXAMPLE / "rbac.yaml").read_text()))


def _configuration(scrape_seconds: int) -> Manifest:
    content = {
        "global": {"external_labels": {"cluster": "local"}},
        "scrape_configs": scrape_configs(scrape_seconds),
    }
    return {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "data": {"prometheus.yaml": yaml.safe_dump(content)},
    }


def _deployment() -> Manifest:
    labels = {"app": NAME}
    template = {"metadata": {"labels": labels}, "spec": _pod_spec()}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"replicas": 1, "selector": {"matchLabels": labels}, "template": template},
    }


def _pod_spec() -> Manifest:
    options = ["--config.file=/etc/prometheus/prometheus.yaml", "--storage.tsdb.path=/prometheus"]
    container: Manifest = {
        "name": NAME,
        "image": PROMETHEUS_IMAGE,
        "args": [*options, f"--web.listen-address=$(POD_IP):{PORT}", *_STORAGE],
        "env": [{"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        "ports": [{"name": "http", "containerPort": PORT}],
        "readinessProbe": {"httpGet": {"path": "/-/ready", "port": "http"}, "periodSeconds": 1},
        "volumeMounts": [
            {"name": "configuration", "mountPath": "/etc/prometheus"},
            {"name": "data", "mountPath": "/prometheus"},
        ],
    }
    targets = {"name": "targets", "mountPath": str(Path(TARGETS).parent)}
    container["volumeMounts"].append(targets)
    discovery = {"name": "discovery", "image": DISCOVERY_IMAGE, "args": [TARGETS], "volumeMounts": [targets]}
    volumes: list[Manifest] = [{"name": "configuration", "configMap": {"name": NAME}}]
    volumes += [{"name": name, "emptyDir": {}} for name in ("data", "targets")]
    return {
        "serviceAccountName": NAME,
        "terminationGracePeriodSeconds": 5,
        "containers": [container, discovery],
        "volumes": volumes,
    }


def _service() -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": NAMESPACE},
        "spec": {"selector": {"app": NAME}, "ports": [{"name": "http", "port": PORT, "targetPort": "http"}]},
    }
