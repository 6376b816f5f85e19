"""A local cluster's control plane: what clients see of it, and what happens to it."""

from __future__ import annotations

import ssl
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Generator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, cast

import kubernetes.client
import pytest
import yaml
from kubernetes.config import load_kube_config  # pyright: ignore[reportUnknownVariableType]

from localcluster.cluster import LocalCluster
from localcluster.controlplane import KUBELET_PORT
from localcluster.subnet import SubnetLock
from localcluster.tools import CommandError, helm_lint, helm_template, kubectl_path, python_environment

WIDGETS: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "widgets.test.flotilla.dev"},
    "spec": {
        "group": "test.flotilla.dev",
        "names": {"kind": "Widget", "plural": "widgets"},
        "scope": "Namespaced",
        "versions": [
            {
                "name": "v1",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {
                        "type": "object",
                        "properties": {
                            "spec": {
                                "type": "object",
                                "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}},
                                "x-kubernetes-validations": [
                                    {"rule": "self.min <= self.max", "message": "min must not be greater than max"}
                                ],
                            }
                        },
                    }
                },
            }
        ],
    },
}

CRASHING = """
import pathlib, sys, time
from localcluster.cluster import LocalCluster
from localcluster.config import ImageSpec, cpu_node
toolbox = ImageSpec(["/bin/sh"], {"sh": ["/bin/sh"], "sleep": ["/bin/sleep"]})
directory, seconds = pathlib.Path(sys.argv[1]), sys.argv[2]
cluster = LocalCluster.start([cpu_node("cpu-0")], {"toolbox": toolbox}, name="crash", directory=directory)
script = f"trap '' TERM; setsid sleep {seconds} & wait; sleep {seconds}"
cluster.kubectl("run", "stubborn", "--image=toolbox", "--command", "--", "sh", "-c", script)
cluster.kubectl("wait", "pod/stubborn", "--for=condition=Ready", "--timeout=60s")
print("ready", flush=True)
time.sleep(1000)
"""


def make_widget(minimum: int, maximum: int) -> str:
    spec = {"min": minimum, "max": maximum}
    body = {"apiVersion": "test.flotilla.dev/v1", "kind": "Widget", "metadata": {"name": "one"}, "spec": spec}
    return yaml.safe_dump(body)


def write_chart(directory: Path) -> Path:
    """A chart with one ConfigMap that holds a value, and a schema that wants it to be text."""
    schema = '{"properties": {"greeting": {"type": "string"}}, "type": "object"}'
    template = (
        "apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: {{ .Release.Name }}-greeting\n"
        "data:\n  greeting: {{ .Values.greeting | quote }}\n"
    )
    (directory / "templates").mkdir(parents=True)
    (directory / "templates" / "configmap.yaml").write_text(template)
    (directory / "Chart.yaml").write_text("apiVersion: v2\nname: greeter\nversion: 0.1.0\nicon: file:///none.png\n")
    (directory / "values.yaml").write_text("greeting: hello\n")
    (directory / "values.schema.json").write_text(schema)
    return directory


def commands_mentioning(text: str) -> list[str]:
    """Command lines of living processes that contain `text`."""
    found: list[str] = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
        if text in command:
            found.append(command)
    return found


def test_control_plane_is_the_version_that_go_mod_names(control_plane: LocalCluster) -> None:
    """The API server reports the version that it was built as, so that clients do not complain of a skew."""
    version = control_plane.api.get("/version").json()

    assert (version["major"], version["minor"], version["gitVersion"]) == ("1", "36", "v1.36.3")


def test_namespace_gets_its_service_account_and_ca(control_plane: LocalCluster) -> None:
    """The controllers give a new namespace what pods need, with the CA that signed the API server's certificate."""
    control_plane.kubectl("create", "namespace", "furnished")
    account, bundle = "serviceaccounts/default", "configmaps/kube-root-ca.crt"
    paths = [f"/api/v1/namespaces/furnished/{name}" for name in (account, bundle)]
    control_plane.wait_for(lambda: all(control_plane.api.get(path).is_success for path in paths), "the objects")

    published = control_plane.api.get(paths[1]).json()["data"]["ca.crt"]

    assert published == control_plane.ca_path.read_text()


def test_unschedulable_pod_gets_the_schedulers_message(control_plane: LocalCluster) -> None:
    """Without nodes a pod stays Pending, and its condition says why in the scheduler's words."""
    control_plane.kubectl("run", "lonely", "--image=toolbox")
    path = "/api/v1/namespaces/default/pods/lonely"
    control_plane.wait_for(lambda: "conditions" in control_plane.api.get(path).json()["status"], "the scheduler")

    condition = control_plane.api.get(path).json()["status"]["conditions"][0]

    assert (condition["type"], condition["status"], condition["reason"]) == ("PodScheduled", "False", "Unschedulable")
    assert condition["message"] == "no nodes available to schedule pods"


def test_cel_rule_refuses_an_object_with_its_message(control_plane: LocalCluster) -> None:
    """A custom resource that breaks its CEL rule is refused, in the rule's words."""
    control_plane.kubectl("apply", "-f", "-", input=yaml.safe_dump(WIDGETS))
    control_plane.kubectl("wait", "--for=condition=Established", "crd/widgets.test.flotilla.dev")

    control_plane.kubectl("apply", "-f", "-", input=make_widget(1, 2))
    with pytest.raises(CommandError, match="min must not be greater than max"):
        control_plane.kubectl("apply", "-f", "-", input=make_widget(3, 2))


def test_admin_kubeconfig_works_with_the_kubernetes_package(control_plane: LocalCluster) -> None:
    """The kubeconfig is complete: the Python client verifies TLS and may do everything with it."""
    configuration = kubernetes.client.Configuration()
    load_kube_config(str(control_plane.kubeconfig), client_configuration=configuration)
    with kubernetes.client.ApiClient(configuration) as client:
        namespaces = kubernetes.client.CoreV1Api(client).list_namespace()

    assert {"default", "kube-system"} <= {item.metadata.name for item in namespaces.items if item.metadata}


def test_admin_kubeconfig_works_with_kubectl(control_plane: LocalCluster) -> None:
    """kubectl needs nothing but the environment, and finds no version skew to warn of."""
    command = [kubectl_path(), "auth", "whoami", "-o=jsonpath={.status.userInfo.groups[0]}"]
    result = subprocess.run(
        command, env=control_plane.kubectl.environment(), capture_output=True, text=True, check=True
    )

    assert (result.stdout, result.stderr) == ("system:masters", "")


def test_requests_without_credentials_are_refused(control_plane: LocalCluster) -> None:
    """RBAC is in force: who is nobody may read nothing."""
    response = control_plane.api.get("/api/v1/namespaces", headers={"Authorization": ""})

    assert response.status_code == 403


def test_service_account_token_is_valid_for_its_audience_only(control_plane: LocalCluster) -> None:
    """TokenReview accepts a bound token for the audience it was made for, and for no other."""
    token = control_plane.kubectl("create", "token", "default", "--audience=flotilla-gateway").strip()

    def review(audience: str) -> dict[str, Any]:
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token, "audiences": [audience]},
        }
        response = control_plane.api.post("/apis/authentication.k8s.io/v1/tokenreviews", json=body)
        return response.raise_for_status().json()["status"]

    assert review("flotilla-gateway")["user"]["username"] == "system:serviceaccount:default:default"
    assert "authenticated" not in review("someone-else")


def test_helm_installs_upgrades_and_uninstalls(control_plane: LocalCluster, tmp_path: Path) -> None:
    """A release goes through its life with Helm 4 from its wheel."""
    chart = write_chart(tmp_path / "greeter")
    path = "/api/v1/namespaces/greetings/configmaps/one-greeting"

    control_plane.helm_install("one", chart, namespace="greetings", values={"greeting": "good morning"})
    installed = control_plane.api.get(path).json()["data"]
    control_plane.helm.upgrade("one", chart, namespace="greetings", values={"greeting": "good evening"})
    upgraded = control_plane.api.get(path).json()["data"]
    control_plane.helm.uninstall("one", namespace="greetings")

    assert installed == {"greeting": "good morning"}
    assert upgraded == {"greeting": "good evening"}
    assert control_plane.api.get(path).status_code == 404


def test_helm_refuses_values_that_break_the_schema(control_plane: LocalCluster, tmp_path: Path) -> None:
    """Helm's own message reaches the caller."""
    with pytest.raises(CommandError, match="greeting"):
        control_plane.helm_install(
            "two", write_chart(tmp_path / "greeter"), namespace="greetings", values={"greeting": 7}
        )


def test_helm_template_renders_offline(tmp_path: Path) -> None:
    """A chart renders without a cluster, with its defaults."""
    rendered = helm_template(write_chart(tmp_path / "greeter"), "three")

    assert yaml.safe_load(rendered) == {
        "apiVersion": "v1",
        "kind": "ConfigMap",
        "metadata": {"name": "three-greeting"},
        "data": {"greeting": "hello"},
    }


def test_helm_lint_reports_what_is_wrong(tmp_path: Path) -> None:
    """A clean chart has no findings; one whose template does not parse has one that names the file."""
    chart = write_chart(tmp_path / "greeter")
    clean = helm_lint(chart)
    (chart / "templates" / "configmap.yaml").write_text("{{ .Values.greeting")

    findings = helm_lint(chart)

    assert clean == []
    assert any("templates/configmap.yaml" in finding for finding in findings)


class KubeletLogs(BaseHTTPRequestHandler):
    """Answers as a kubelet does, with the path that it was asked for and the certificate that it was shown."""

    def do_GET(self) -> None:
        peer = cast(ssl.SSLSocket, self.connection).getpeercert() or {}
        shown = [value for part in cast(Any, peer["subject"]) for key, value in part if key == "commonName"]
        body = f"{self.path} {shown[0]}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Silent."""


@pytest.fixture
def kubelet(control_plane: LocalCluster) -> Generator[None]:
    """A kubelet endpoint on the address that the cluster keeps for its nodes; it asks for a client certificate."""
    credentials, address = control_plane.control_plane.credentials, control_plane.control_plane.subnet.host
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(credentials.ca))
    context.load_cert_chain(credentials.kubelet.cert, credentials.kubelet.key)
    context.verify_mode = ssl.CERT_REQUIRED
    with ThreadingHTTPServer((address, KUBELET_PORT), KubeletLogs) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield
        server.shutdown()
        thread.join()


@pytest.mark.usefixtures("kubelet")
def test_logs_come_from_the_nodes_kubelet_endpoint(control_plane: LocalCluster) -> None:
    """The API server asks the node for a pod's log, verifies its certificate and shows its own."""
    node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "logging"}}
    status = {
        "addresses": [{"type": "InternalIP", "address": control_plane.control_plane.subnet.host}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": KUBELET_PORT}},
    }
    control_plane.api.post("/api/v1/nodes", json=node).raise_for_status()
    patch_type = {"Content-Type": "application/merge-patch+json"}
    control_plane.api.patch(
        "/api/v1/nodes/logging/status", json={"status": status}, headers=patch_type
    ).raise_for_status()
    overrides = '{"spec": {"nodeName": "logging"}}'
    control_plane.kubectl("run", "logger", "--image=toolbox", f"--overrides={overrides}")

    answer = control_plane.logs("default", "logger")

    control_plane.kubectl("delete", "pod/logger", "node/logging", "--force", "--grace-period=0")
    assert answer == "/containerLogs/default/logger/logger kube-apiserver-kubelet-client"


def test_dump_holds_objects_events_and_logs_but_no_secrets(control_plane: LocalCluster, tmp_path: Path) -> None:
    """A dump shows what was there, down to the programs' logs, and gives no secret away."""
    control_plane.kubectl("create", "configmap", "evidence", "--from-literal=key=in-plain-sight")
    control_plane.kubectl("create", "secret", "generic", "password", "--from-literal=key=hidden")

    dumped = control_plane.dump(tmp_path / "dump")

    objects = (dumped / "objects.yaml").read_text()
    assert "in-plain-sight" in objects
    assert "kind: Secret" not in objects
    assert (dumped / "programs" / "kube-apiserver.log").stat().st_size > 0


def test_killed_apiserver_comes_back_with_its_data_and_address() -> None:
    """SIGKILL cuts clients off; after the restart the same URL serves the same objects, and controllers go on."""
    with LocalCluster.start(name="test-restart", runner=False) as cluster:
        cluster.kubectl("create", "configmap", "kept", "--from-literal=key=value")
        before = cluster.url

        cluster.kill_apiserver()
        with pytest.raises(CommandError, match="refused"):
            cluster.kubectl("get", "configmap", "kept")
        cluster.restart_apiserver()

        assert cluster.url == before
        assert cluster.kubectl("get", "configmap", "kept", "-o=jsonpath={.data.key}") == "value"
        cluster.kubectl("create", "namespace", "later")
        account = "/api/v1/namespaces/later/serviceaccounts/default"
        cluster.wait_for(lambda: cluster.api.get(account).is_success, "the controllers to go on")


def test_etcd_keeps_its_data_over_a_kill(control_plane: LocalCluster) -> None:
    """An etcd that was killed has lost nothing that was acknowledged."""
    control_plane.kubectl("create", "configmap", "durable", "--from-literal=key=value")

    control_plane.control_plane.restart_etcd()

    assert control_plane.kubectl("get", "configmap", "durable", "-o=jsonpath={.data.key}") == "value"


def test_paused_apiserver_hangs_and_resumes(control_plane: LocalCluster) -> None:
    """A paused API server does not answer, and none of its programs counts as ended; resumed, it does."""
    control_plane.control_plane.pause_apiserver()
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            control_plane.kubectl("get", "namespaces", timeout_seconds=1)
        control_plane.control_plane.require_running()
    finally:
        control_plane.control_plane.resume_apiserver()

    assert "default" in control_plane.kubectl("get", "namespaces")


def test_two_clusters_run_at_once_and_share_nothing(control_plane: LocalCluster) -> None:
    """A second cluster has a network and data of its own."""
    with LocalCluster.start(name="test-second", runner=False) as second:
        second.kubectl("create", "configmap", "only-here")

        assert second.url != control_plane.url
        assert control_plane.kubectl("get", "configmap", "only-here", "--ignore-not-found") == ""
        assert control_plane.kubectl("get", "service", "kubernetes", "-o=jsonpath={.spec.clusterIP}") != second.kubectl(
            "get", "service", "kubernetes", "-o=jsonpath={.spec.clusterIP}"
        )


def test_stop_leaves_no_process_and_no_file() -> None:
    """After the block nothing of the cluster runs, and its temporary directory is gone."""
    with LocalCluster.start(name="test-stop", runner=False) as cluster:
        directory = cluster.directory
        running = commands_mentioning(str(directory))

    assert len(running) >= 4
    assert commands_mentioning(str(directory)) == []
    assert not directory.exists()


def test_cluster_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    """SIGKILL of the parent ends every program of its cluster and frees its network."""
    code = (
        "import pathlib, time; from localcluster.cluster import LocalCluster\n"
        f"c = LocalCluster.start(directory=pathlib.Path({str(tmp_path / 'cluster')!r}), name='crash', runner=False)\n"
        "print(c.control_plane.subnet.number, flush=True); time.sleep(1000)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], env=python_environment(), stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    number = int(parent.stdout.readline())
    running = commands_mentioning(str(tmp_path))

    parent.kill()
    parent.communicate()

    assert len(running) >= 4
    while commands_mentioning(str(tmp_path)) or not SubnetLock.is_free(number):
        time.sleep(0.02)


def test_pods_end_with_the_process_that_started_their_cluster(tmp_path: Path) -> None:
    """After a SIGKILL of the parent neither the programs nor a pod that ignores SIGTERM and forks away are left."""
    sleep = f"{uuid.uuid4().int % 10**9}.5"
    parent = subprocess.Popen(
        [sys.executable, "-c", CRASHING, str(tmp_path / "cluster"), sleep],
        env=python_environment(),
        stdout=subprocess.PIPE,
        text=True,
    )
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    while not any(command.startswith(f"sleep {sleep}") for command in commands_mentioning(sleep)):
        time.sleep(0.02)

    parent.kill()
    parent.communicate()

    while commands_mentioning(f"sleep {sleep}") or commands_mentioning(str(tmp_path)):
        time.sleep(0.02)
