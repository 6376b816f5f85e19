"""Pods that tests of the pod runner write, and what the API server says about them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from localcluster.cluster import LocalCluster

Json = dict[str, Any]


def a_container(name: str = "main", script: str = "exec sleep 1000", **fields: Any) -> Json:
    """A container that runs a shell script."""
    return {"name": name, "image": "toolbox", "command": ["sh", "-c", script], **fields}


def a_python(name: str, script: str, **fields: Any) -> Json:
    """A container that runs a Python script."""
    return a_container(name, command=["python3", "-u", "-c", script], **fields)


def a_pod(name: str, *containers: Json, metadata: Json | None = None, **spec: Any) -> Json:
    """A pod that is killed a second after it was told to end, unless `spec` says otherwise."""
    whole = {"terminationGracePeriodSeconds": 1, "containers": list(containers) or [a_container()], **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **(metadata or {})}, "spec": whole}


def a_file_server(name: str, ready: str = "/cfg/ready") -> Json:
    """A container that answers HTTP with its pod's name on port 8080 of the pod, ready while that file says yes."""
    script = (
        "import http.server, os, signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: os._exit(0))\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        body = os.environ['POD'].encode()\n"
        f"        ready = self.path != '/ready' or 'yes' in open({ready!r}).read()\n"
        "        self.send_response(200 if ready else 503)\n"
        "        self.send_header('Content-Length', str(len(body))); self.end_headers()\n"
        "        self.wfile.write(body)\n"
        "http.server.ThreadingHTTPServer((os.environ['IP'], 8080), Answer).serve_forever()\n"
    )
    return a_python(
        name,
        script,
        env=[from_field("POD", "metadata.name"), from_field("IP", "status.podIP")],
        ports=[{"name": "http", "containerPort": 8080}],
        readinessProbe={"httpGet": {"path": "/ready", "port": "http"}, "periodSeconds": 1, "failureThreshold": 1},
    )


def from_field(name: str, path: str) -> Json:
    """A variable with a value of the downward API."""
    return {"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}}


def a_config_map(name: str, **data: str) -> Json:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


class Workspace:
    """One test's namespace on a cluster."""

    def __init__(self, cluster: LocalCluster, namespace: str) -> None:
        self.cluster, self.namespace = cluster, namespace

    @property
    def state_dir(self) -> Path:
        """What the runner keeps."""
        return self.cluster.directory / "runner"

    def create(self, *objects: Json) -> None:
        """The objects exist."""
        for body in objects:
            self.cluster.api.post(self._path(_plural(body)), json=body).raise_for_status()

    def patch(self, plural: str, name: str, body: Json) -> None:
        """The object is merged with `body`."""
        response = self.cluster.api.patch(
            f"{self._path(plural)}/{name}", json=body, headers={"Content-Type": "application/merge-patch+json"}
        )
        response.raise_for_status()

    def delete(self, plural: str, name: str, **options: Any) -> None:
        """The object is being deleted."""
        self.cluster.api.request("DELETE", f"{self._path(plural)}/{name}", json=options).raise_for_status()

    def get(self, plural: str, name: str) -> Json:
        """The object."""
        return self.cluster.api.get(f"{self._path(plural)}/{name}").raise_for_status().json()

    def exists(self, plural: str, name: str) -> bool:
        """Whether the object exists."""
        return self.cluster.api.get(f"{self._path(plural)}/{name}").status_code != 404

    def wait(self, what: str, condition: Callable[[], bool], timeout_seconds: float = 30.0) -> None:
        """Return once the condition holds."""
        self.cluster.wait_for(condition, what, timeout_seconds)

    def container(self, pod: str, name: str = "main") -> Json:
        """The status of one container; empty while there is none."""
        status = self.get("pods", pod)["status"]
        listed: list[Json] = [*status.get("initContainerStatuses", ()), *status.get("containerStatuses", ())]
        return next((s for s in listed if s["name"] == name), dict[str, Any]())

    def is_ready(self, pod: str) -> bool:
        """Whether the pod takes traffic."""
        conditions: list[Json] = self.get("pods", pod)["status"].get("conditions", [])
        return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def wait_ready(self, *pods: str) -> None:
        """Return once the pods are ready."""
        self.wait(f"{pods} to be ready", lambda: all(map(self.is_ready, pods)))

    def waiting_reason(self, pod: str, name: str = "main") -> str:
        """Why the container waits; empty when it does not."""
        return self.container(pod, name).get("state", {}).get("waiting", {}).get("reason", "")

    def terminated(self, pod: str, name: str = "main") -> Json:
        """How the container's last run ended; empty while none has."""
        status = self.container(pod, name)
        for state in ("state", "lastState"):
            if "terminated" in status.get(state, {}):
                return status[state]["terminated"]
        return {}

    def wait_terminated(self, pod: str, name: str = "main") -> Json:
        """How a run of the container ended, once one has."""
        self.wait(f"{pod}/{name} to end", lambda: bool(self.terminated(pod, name)))
        return self.terminated(pod, name)

    def has_event(self, pod: str, reason: str, message: str) -> bool:
        """Whether there is an event about the pod with this reason whose message contains that text."""
        query = {"fieldSelector": f"involvedObject.name={pod},reason={reason}"}
        events: list[Json] = self.cluster.api.get(self._path("events"), params=query).raise_for_status().json()["items"]
        return any(message in event["message"] for event in events)

    def wait_event(self, pod: str, reason: str, message: str) -> None:
        """Return once there is such an event."""
        self.wait(f"event {reason}: {message}", lambda: self.has_event(pod, reason, message))

    def _path(self, plural: str) -> str:
        group = {"jobs": "/apis/batch/v1", "deployments": "/apis/apps/v1"}.get(plural, "/api/v1")
        return f"{group}/namespaces/{self.namespace}/{plural}"


def _plural(body: Json) -> str:
    return f"{body['kind'].lower()}s"
