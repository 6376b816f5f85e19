"""Pods on a real cluster: Services, names, and a webhook that the API server calls through a Service."""

from __future__ import annotations

import base64
import socket
import sys
from pathlib import Path

import httpx
import pytest
from runner_pods import Json, Workspace, a_config_map, a_container, a_file_server, a_pod, a_python, from_field

from localcluster.cluster import LocalCluster
from localcluster.credentials import Authority
from localcluster.runner.control import container_log

WEBHOOK = """
import http.server, json, os, ssl
class Review(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        review = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        refused = {"message": "not on a Monday"}
        answer = {"uid": review["request"]["uid"], "allowed": False, "status": refused}
        body = json.dumps({**review, "response": answer}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
server = http.server.ThreadingHTTPServer((os.environ["IP"], 8443), Review)
tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
tls.load_cert_chain("/tls/tls.crt", "/tls/tls.key")
server.socket = tls.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""


@pytest.fixture
def space(cluster: LocalCluster, namespace: str) -> Workspace:
    return Workspace(cluster, namespace)


def _service(name: str, port: int, target: int | str) -> Json:
    spec = {"selector": {"app": name}, "ports": [{"port": port, "targetPort": target}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec}


def _serving_pod(name: str) -> Json:
    volumes = [{"name": "cfg", "configMap": {"name": name}}]
    container = {**a_file_server("main"), "volumeMounts": [{"name": "cfg", "mountPath": "/cfg"}]}
    return a_pod(name, container, metadata={"labels": {"app": "web"}}, volumes=volumes, terminationGracePeriodSeconds=5)


def _answers(address: str, tries: int = 6) -> set[str]:
    """Who answers at a Service's address, on connections of their own."""
    with httpx.Client(trust_env=False, headers={"Connection": "close"}, timeout=5.0) as client:
        return {client.get(f"http://{address}").text for _ in range(tries)}


def _is_refused(address: str) -> bool:
    try:
        socket.create_connection((address, 80), timeout=5).close()
    except ConnectionRefusedError:
        return True
    return False


def test_service_reaches_ready_pods_only(space: Workspace) -> None:
    """Connections are spread over ready pods, never go to others, and are refused when there are none."""
    space.create(a_config_map("one", ready="yes"), a_config_map("two", ready="no"))
    space.create(_service("web", 80, "http"), _serving_pod("one"), _serving_pod("two"))
    address = space.get("services", "web")["spec"]["clusterIP"]
    space.wait_ready("one")
    space.wait("the Service", lambda: not _is_refused(address))

    answers = [_answers(address)]
    space.patch("configmaps", "two", {"data": {"ready": "yes"}})
    space.wait_ready("two")
    space.wait("both to answer", lambda: _answers(address) == {"one", "two"})
    space.patch("configmaps", "one", {"data": {"ready": "no"}})
    space.wait("one to be unready", lambda: not space.is_ready("one"))
    space.wait("the other alone to answer", lambda: _answers(address) == {"two"})
    space.patch("configmaps", "two", {"data": {"ready": "no"}})
    space.wait("a refusal", lambda: _is_refused(address))

    assert answers == [{"one"}]


def test_terminating_pod_gets_no_new_connections(space: Workspace) -> None:
    """A pod that is being deleted leaves its Service at once, while it still serves what it has."""
    space.create(a_config_map("one", ready="yes"))
    pod = _serving_pod("one")
    pod["spec"]["containers"][0]["lifecycle"] = {"preStop": {"sleep": {"seconds": 3}}}
    space.create(_service("web", 80, "http"), pod)
    address = space.get("services", "web")["spec"]["clusterIP"]
    space.wait_ready("one")
    space.wait("the Service", lambda: not _is_refused(address))
    pod_address = space.get("pods", "one")["status"]["podIP"]

    space.delete("pods", "one")
    space.wait("a refusal", lambda: _is_refused(address))

    assert _answers(f"{pod_address}:8080", tries=1) == {"one"}


def test_pods_find_services_by_name(space: Workspace) -> None:
    """Every Service is known to every pod under its names, also one that is made while the pod runs."""
    script = "while :; do getent hosts late late.$NS late.$NS.svc late.$NS.svc.cluster.local; echo; sleep 0.2; done"
    space.create(a_pod("client", a_container(script=script, env=[{"name": "NS", "value": space.namespace}])))
    space.wait_ready("client")

    space.create(_service("late", 80, 80))
    address = space.get("services", "late")["spec"]["clusterIP"]

    def found() -> int:
        rounds = container_log(space.state_dir, space.namespace, "client", "main").split("\n\n")
        return max(sum(line.startswith(address) for line in text.splitlines()) for text in rounds)

    space.wait("all four names to be known", lambda: found() == 4)


def test_webhook_behind_a_service_is_called(space: Workspace, tmp_path: Path) -> None:
    """The API server calls a webhook in a pod through `clientConfig.service` and obeys its answer."""
    authority = Authority(tmp_path, "webhook CA")
    pair = authority.issue("hook", "hook", names=[f"hook.{space.namespace}.svc"])
    secret = {"tls.crt": pair.cert.read_text(), "tls.key": pair.key.read_text()}
    container = a_python(
        "main",
        WEBHOOK,
        env=[{"name": "IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}],
        volumeMounts=[{"name": "tls", "mountPath": "/tls"}],
        readinessProbe={"tcpSocket": {"port": 8443}, "periodSeconds": 1},
    )
    volumes = [{"name": "tls", "secret": {"secretName": "hook"}}]
    space.create({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hook"}, "stringData": secret})
    space.create(a_pod("hook", container, metadata={"labels": {"app": "hook"}}, volumes=volumes))
    space.create(_service("hook", 443, 8443))
    space.wait_ready("hook")
    name = f"hook-{space.namespace}"
    path = "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations"
    space.cluster.api.post(path, json=_webhook(name, space.namespace, authority.path)).raise_for_status()
    try:
        space.wait("the webhook to refuse", lambda: "not on a Monday" in _refusal(space))
    finally:
        space.cluster.api.delete(f"{path}/{name}").raise_for_status()


def _webhook(name: str, namespace: str, ca: Path) -> Json:
    rule = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["configmaps"]}
    service = {"namespace": namespace, "name": "hook", "path": "/review"}
    hook = {
        "name": "hook.test.flotilla.dev",
        "clientConfig": {"service": service, "caBundle": base64.b64encode(ca.read_bytes()).decode()},
        "rules": [rule],
        "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": namespace}},
        "failurePolicy": "Fail",
        "sideEffects": "None",
        "admissionReviewVersions": ["v1"],
    }
    kind = {"apiVersion": "admissionregistration.k8s.io/v1", "kind": "ValidatingWebhookConfiguration"}
    return {**kind, "metadata": {"name": name}, "webhooks": [hook]}


def _refusal(space: Workspace) -> str:
    """The message with which a ConfigMap is refused; empty when it is accepted."""
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"generateName": "x-"}}
    response = space.cluster.api.post(f"/api/v1/namespaces/{space.namespace}/configmaps", json=body)
    return "" if response.is_success else response.json()["message"]


def test_containers_of_one_pod_meet_on_its_loopback(space: Workspace) -> None:
    """Two pods with a sidecar on the same loopback port each reach their own, by address and by name."""
    serve = (
        "import http.server, os, sys\n"
        "class Answer(http.server.BaseHTTPRequestHandler):\n"
        "    def do_GET(self):\n"
        "        self.send_response(200); self.end_headers(); self.wfile.write(os.environ['POD'].encode())\n"
        "http.server.ThreadingHTTPServer((sys.argv[1], 18080), Answer).serve_forever()\n"
    )
    look = f"{sys.executable} -c 'import socket; socket.create_connection((\"127.0.0.1\", 18080))'"
    pod_name = from_field("POD", "metadata.name")
    sidecar = a_python("near", serve, args=["127.0.0.1"], env=[pod_name], restartPolicy="Always")
    sidecar["startupProbe"] = {"exec": {"command": ["sh", "-c", look]}, "periodSeconds": 1}
    ask = "import os, urllib.request as u; print(*(u.urlopen(os.environ[k]).read().decode() for k in ('A', 'B')))"
    urls = [{"name": "A", "value": "http://127.0.0.1:18080"}, {"name": "B", "value": "http://localhost:18080"}]

    for name in ("one", "two"):
        agent = a_python("agent", ask, env=urls)
        space.create(a_pod(name, agent, initContainers=[sidecar], restartPolicy="Never"))

    for name in ("one", "two"):
        assert space.wait_terminated(name, "agent")["exitCode"] == 0
        assert container_log(space.state_dir, space.namespace, name, "agent").split() == [name, name]
