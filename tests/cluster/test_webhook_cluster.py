"""The admission webhook on a real API server: pods that ask get the sidecar, and nothing keeps a pod from starting."""

from __future__ import annotations

import base64
import json
import re
import signal
import ssl
import uuid
from collections.abc import Generator, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import httpx
import pytest
import yaml
from operator_world import Replica, World, free_port

from flotilla_api.names import INJECTED_ANNOTATION, POLICY_LABEL, SIDECAR_CONTAINER
from flotilla_operator.adapters.authority import SECRET_NAME, make_authority
from flotilla_operator.adapters.webhook import INJECT_PATH
from flotilla_operator.resources.sidecar import API_TOKEN_DIR, SNAPSHOT_VOLUME, TOKENS_VOLUME
from localcluster.cluster import LocalCluster
from localcluster.tools import helm_template
from stack.certificates import make_serving_certificate

CONFIGURATIONS = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations"
CHART = Path(__file__).parents[2] / "charts" / "flotilla"

Manifest = dict[str, Any]


@dataclass
class Asked:
    """A namespace whose labelled pods the API server asks a webhook about, with what the chart says of it."""

    world: World
    name: str
    """Of the configuration."""
    port: int
    """Where the API server looks for the webhook."""

    def configure(self, ca_bundle: str | None = None) -> None:
        """The configuration is there: the chart's, but for an address that this API server can dial without a node."""
        manifests = yaml.safe_load_all(helm_template(CHART, "flotilla", namespace="flotilla-system"))
        (manifest,) = (each for each in manifests if each and each["kind"] == "MutatingWebhookConfiguration")
        (webhook,) = manifest["webhooks"]
        webhook["clientConfig"] = {"url": f"https://127.0.0.1:{self.port}{INJECT_PATH}"}
        if ca_bundle:
            webhook["clientConfig"]["caBundle"] = base64.b64encode(ca_bundle.encode()).decode()
        own = {"key": "kubernetes.io/metadata.name", "operator": "In", "values": [self.world.namespace]}
        webhook["namespaceSelector"]["matchExpressions"].append(own)
        manifest["metadata"]["name"] = self.name
        self.world.create(CONFIGURATIONS, manifest)
        self.world.stack.callback(self.world.cluster.api.delete, f"{CONFIGURATIONS}/{self.name}")

    def start(self, *, port: int | None = None, configuration: str | None = None) -> Replica:
        """One more replica of the operator, ready, with a webhook at `port`."""
        more = {"WEBHOOK_PORT": str(port or self.port), "WEBHOOK_CONFIGURATION": configuration or self.name}
        return self.world.start(more=more)

    def bundle(self) -> str:
        """What the API server trusts; '' for nothing."""
        (webhook,) = self.world.get(f"{CONFIGURATIONS}/{self.name}")["webhooks"]
        return base64.b64decode(webhook["clientConfig"].get("caBundle", "")).decode()

    def authority(self) -> str:
        """What the operator's certificates are signed by."""
        secret = self.world.get(f"/api/v1/namespaces/{self.world.namespace}/secrets/{SECRET_NAME}")
        return base64.b64decode(secret["data"]["ca.crt"]).decode() if secret else ""

    def create(self, policy: str = "router", *, dry_run: bool = False) -> httpx.Response:
        """The API server's answer to a new pod that asks for the policy's sidecar."""
        pod: Manifest = {
            "metadata": {"generateName": "agent-", "labels": {POLICY_LABEL: policy}},
            "spec": {"containers": [{"name": "agent", "image": "python:3.13"}]},
        }
        path, parameters = f"/api/v1/namespaces/{self.world.namespace}/pods", {"dryRun": "All"} if dry_run else {}
        response = self.world.cluster.api.post(path, json=pod, params=parameters)
        assert response.status_code == 201, response.text
        return response

    def until_injecting(self) -> None:
        """The API server asks the webhook and gets answers."""
        self.world.until(lambda: is_injected(self.create(dry_run=True).json()), "pods to be injected")


def is_injected(pod: Manifest) -> bool:
    """Whether the sidecar is the pod's first init container."""
    containers: list[Manifest] = pod["spec"].get("initContainers") or []
    return bool(containers) and containers[0]["name"] == SIDECAR_CONTAINER


@pytest.fixture
def asked(plane: LocalCluster, tmp_path: Path) -> Iterator[Asked]:
    """A policy `router`; no operator runs yet, and there is no configuration."""
    namespace = f"test-{uuid.uuid4().hex[:8]}"
    plane.kubectl("create", "namespace", namespace)
    with ExitStack() as stack:
        world = World(plane, namespace, tmp_path, stack)
        account = f"/api/v1/namespaces/{namespace}/serviceaccounts/default"
        world.until(lambda: bool(world.get(account)), "the namespace's account")
        world.add_policy()
        yield Asked(world, f"sidecars-{namespace}", free_port())
    plane.kubectl("delete", "namespace", namespace, "--wait=false")


def test_a_pod_that_asks_is_created_with_its_sidecar(asked: Asked) -> None:
    """The operator tells the API server whom to trust; a pod comes back injected; a dry run leaves nothing."""
    asked.configure()
    asked.start()
    asked.until_injecting()
    path = f"/api/v1/namespaces/{asked.world.namespace}/pods"
    left = asked.world.get(f"{path}?labelSelector={POLICY_LABEL}")["items"]
    pod = asked.create().json()

    assert left == []
    assert asked.bundle() == asked.authority()
    live = asked.world.get(f"{path}/{pod['metadata']['name']}")
    assert live["metadata"]["annotations"][INJECTED_ANNOTATION] == "router"
    assert is_injected(live)
    sidecar, agent = live["spec"]["initContainers"][0], live["spec"]["containers"][0]
    assert sidecar["restartPolicy"] == "Always"
    assert [each["mountPath"] for each in agent["volumeMounts"]] == [API_TOKEN_DIR]
    assert {each["name"] for each in sidecar["volumeMounts"]} == {SNAPSHOT_VOLUME, TOKENS_VOLUME}
    variables = {each["name"]: each.get("value") for each in agent["env"]}
    assert variables == {"OPENAI_BASE_URL": "http://127.0.0.1:18080/v1", "OPENAI_API_KEY": "flotilla"}


def test_the_operator_owns_nothing_but_the_bundle_and_rests(asked: Asked) -> None:
    """Whoever made the configuration keeps every other field, and at rest its version stays."""
    asked.configure()
    replica = asked.start()
    asked.until_injecting()
    first = asked.world.get(f"{CONFIGURATIONS}/{asked.name}")["metadata"]
    reads = 'verb="patch"} 1.0'
    metrics = httpx.get(f"{replica.admin}/metrics").text

    (ours,) = (each for each in first["managedFields"] if each["manager"] == "flotilla")
    fields: Manifest = {"f:webhooks": {'k:{"name":"sidecars.flotilla.dev"}': {"f:clientConfig": {"f:caBundle": {}}}}}
    assert ours["fieldsV1"] == fields
    assert f'flotilla_operator_api_writes_total{{resource="mutatingwebhookconfigurations",{reads}' in metrics


def test_a_pod_that_names_no_policy_starts_and_whoever_creates_it_is_told(asked: Asked) -> None:
    """kubectl shows the warning."""
    asked.configure()
    asked.start()
    asked.until_injecting()
    response = asked.create("absent")

    assert not is_injected(response.json())
    assert f"RoutingPolicy {asked.world.namespace}/absent does not exist" in response.headers["Warning"]


def test_a_policy_counts_from_the_moment_it_is_created(asked: Asked) -> None:
    """A policy and its agents are applied in one go."""
    asked.configure()
    asked.start()
    asked.until_injecting()
    asked.world.add_policy("brand-new")

    assert is_injected(asked.create("brand-new").json())


def test_every_replica_injects(asked: Asked) -> None:
    """Whoever holds the Lease: the Service sends a review to either."""
    asked.configure()
    ports = (asked.port, free_port())
    for port in ports:
        asked.start(port=port)
    asked.until_injecting()
    trust = ssl.create_default_context(cadata=asked.bundle())
    uid = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview"}
    pod = {"metadata": {"labels": {POLICY_LABEL: "router"}}, "spec": {"containers": [{"name": "a", "image": "i"}]}}
    review = {"uid": "1", "kind": {"kind": "Pod"}, "operation": "CREATE", "namespace": asked.world.namespace}
    with httpx.Client(verify=trust, trust_env=False) as http:
        answers = [
            http.post(f"https://127.0.0.1:{port}{INJECT_PATH}", json={**uid, "request": {**review, "object": pod}})
            for port in ports
        ]

    for answer in answers:
        patch = json.loads(base64.b64decode(answer.json()["response"]["patch"]))
        assert {each["path"].split("/")[2] for each in patch} >= {"containers", "initContainers", "volumes"}


def test_a_webhook_that_nobody_serves_keeps_no_pod_from_starting(asked: Asked) -> None:
    """No operator runs; the API server counts what slips through, which is worth an alert."""
    asked.configure(authority_of_somebody())
    counter = re.compile(
        r'^apiserver_admission_webhook_fail_open_count{name="sidecars.flotilla.dev".*} [1-9]', re.MULTILINE
    )
    asked.world.until(
        lambda: bool(asked.create(dry_run=True) and counter.search(asked.world.cluster.api.get("/metrics").text)),
        "the API server to ask in vain",
    )

    assert not is_injected(asked.create().json())


def test_a_webhook_that_hangs_keeps_no_pod_from_starting(asked: Asked) -> None:
    """Connections are accepted, and nobody answers; once it goes on, so does the injection."""
    asked.configure()
    replica = asked.start()
    asked.until_injecting()
    replica.send(signal.SIGSTOP)
    pod = asked.create().json()
    replica.send(signal.SIGCONT)

    assert not is_injected(pod)
    asked.until_injecting()


def test_a_certificate_that_the_api_server_does_not_trust_keeps_no_pod_from_starting(asked: Asked) -> None:
    """This operator looks after another configuration, so nobody mends this one."""
    asked.configure(authority_of_somebody())
    asked.start(configuration="another")

    assert not is_injected(asked.create().json())


def test_a_wrong_bundle_is_mended(asked: Asked) -> None:
    """By the operator, within seconds, whoever wrote it."""
    asked.configure(authority_of_somebody())
    asked.start()
    asked.until_injecting()

    assert asked.bundle() == asked.authority()


def test_what_another_webhook_adds_later_finds_the_sidecar(asked: Asked) -> None:
    """The API server asks again when a pod was changed after our answer."""
    asked.configure()
    asked.start()
    asked.until_injecting()
    with an_adding_webhook(asked):
        asked.world.until(
            lambda: len(asked.create(dry_run=True).json()["spec"]["containers"]) == 2, "the other webhook to be asked"
        )
        late = asked.create().json()["spec"]["containers"][1]

    assert late["name"] == "late"
    assert {each["name"] for each in late["env"]} == {"OPENAI_BASE_URL", "OPENAI_API_KEY"}


def test_without_a_configuration_nothing_listens(asked: Asked) -> None:
    """sidecar.enabled: false in the chart."""
    asked.world.start(more={"WEBHOOK_PORT": str(asked.port)})

    with pytest.raises(httpx.ConnectError):
        httpx.post(f"https://127.0.0.1:{asked.port}{INJECT_PATH}")


def authority_of_somebody() -> str:
    """A bundle that trusts none of our certificates."""
    return make_authority(datetime.now(UTC)).bundle


class _Adding(BaseHTTPRequestHandler):
    """Adds a container to every pod that has one."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        """Answers a review."""
        request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["request"]
        add = [{"op": "add", "path": "/spec/containers/-", "value": {"name": "late", "image": "i"}}]
        patch = base64.b64encode(json.dumps(add).encode()).decode()
        answer = {"uid": request["uid"], "allowed": True, "patchType": "JSONPatch", "patch": patch}
        review = {"apiVersion": "admission.k8s.io/v1", "kind": "AdmissionReview", "response": answer}
        body = json.dumps(review).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        """Nothing is logged."""


@contextmanager
def an_adding_webhook(asked: Asked) -> Generator[None]:
    """A webhook of somebody else, which the API server asks after ours: it asks by the configurations' names."""
    certificate = make_serving_certificate("localhost")
    files = {"tls.crt": certificate.certificate, "tls.key": certificate.key}
    for name, text in files.items():
        (asked.world.directory / name).write_text(text)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(asked.world.directory / "tls.crt", asked.world.directory / "tls.key")
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Adding)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = Thread(target=server.serve_forever)
    thread.start()
    name = f"zz-{asked.name}"
    authority = base64.b64encode(certificate.authority.encode()).decode()
    selector = {"matchLabels": {"kubernetes.io/metadata.name": asked.world.namespace}}
    webhook = {
        "name": "adds.example.com",
        "admissionReviewVersions": ["v1"],
        "clientConfig": {"url": f"https://localhost:{server.server_port}/", "caBundle": authority},
        "rules": [{"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}],
        "namespaceSelector": selector,
        "sideEffects": "None",
        "failurePolicy": "Ignore",
    }
    metadata = {"metadata": {"name": name}}
    asked.world.create(CONFIGURATIONS, {**metadata, "webhooks": [webhook]})
    try:
        yield
    finally:
        asked.world.cluster.api.delete(f"{CONFIGURATIONS}/{name}")
        server.shutdown()
        thread.join()
        server.server_close()
