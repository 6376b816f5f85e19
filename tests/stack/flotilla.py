"""One call each for what a user does: start a cluster, install the chart, apply files, open a client."""

from __future__ import annotations

import base64
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from openai import OpenAI

from localcluster.access import ClusterAccess
from localcluster.cluster import LocalCluster
from localcluster.config import ImageSpec, NodeSpec
from stack.images import OPERATOR_IMAGE, ROUTER_IMAGE, make_images
from stack.provider import start_provider

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "flotilla"
QUICKSTART = ROOT / "examples" / "quickstart"
SIDECAR_EXAMPLES = ROOT / "examples" / "sidecar"
SYSTEM_NAMESPACE = "flotilla-system"
INSTALL_SECONDS = 120

Manifest = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Stack:
    """A local cluster with Flotilla on it."""

    cluster: ClusterAccess

    def install(self, values: Mapping[str, Any] | None = None) -> None:
        """The chart is installed from this tree and its operator is ready."""
        self.cluster.helm_install(
            "flotilla",
            CHART,
            namespace=SYSTEM_NAMESPACE,
            values={**chart_values(), **(values or {})},
            wait_seconds=INSTALL_SECONDS,
        )

    def prepare_quickstart(self) -> None:
        """The namespace of the quickstart exists, and its provider answers with a certificate that Secret names."""
        fallback = _only("Fallback")
        namespace = fallback["metadata"]["namespace"]
        reference = fallback["spec"]["external"]["tls"]["caSecretRef"]
        authority = start_provider(self.cluster, quickstart_provider_key())
        self.cluster.kubectl("create", "namespace", namespace)
        literal = f"--from-literal={reference['key']}={authority}"
        self.cluster.kubectl("create", "secret", "generic", reference["name"], "-n", namespace, literal)

    def apply(self, path: Path) -> str:
        """What `kubectl apply -f path` prints."""
        return self.cluster.kubectl("apply", "-f", str(path))

    def get(self, kind: str, namespace: str, name: str) -> Manifest:
        """The live object."""
        return yaml.safe_load(self.cluster.kubectl("get", kind, name, "-n", namespace, "-o", "json"))

    def gateway_address(self, namespace: str, policy: str) -> str:
        """Base URL of a policy's gateway, reachable from this machine."""
        service = self.get("service", namespace, f"{policy}-gateway")["spec"]
        port = service["ports"][0]
        return f"{port['name']}://{service['clusterIP']}:{port['port']}/v1"

    def wait_for_gateway(self, namespace: str, policy: str, timeout_seconds: float) -> None:
        """All of a policy's routers are of its current template: none of those that answer is about to be replaced."""
        status = ("rollout", "status", f"deployment/{policy}-gateway", "-n", namespace)
        self.cluster.kubectl(*status, f"--timeout={timeout_seconds:.0f}s", timeout_seconds=timeout_seconds + 10)

    @contextmanager
    def client(self, namespace: str, policy: str, api_key: str) -> Generator[OpenAI]:
        """The OpenAI SDK, pointed at a policy's gateway."""
        with OpenAI(
            base_url=self.gateway_address(namespace, policy), api_key=api_key, max_retries=0, timeout=60
        ) as client:
            yield client


def chart_values() -> Manifest:
    """Values of the chart on a local cluster: images that it knows, and an autoscaler that looks more often."""
    return {
        "images": {"operator": {"repository": OPERATOR_IMAGE}, "router": {"repository": ROUTER_IMAGE}},
        "scaling": {"interval": "5s"},
    }


@contextmanager
def running_stack(
    *,
    name: str,
    engine_env: Mapping[str, str] | None = None,
    more_images: Mapping[str, ImageSpec] | None = None,
    nodes: Sequence[NodeSpec] | None = None,
    restart_backoff_seconds: float = 10.0,
) -> Generator[Stack]:
    """A cluster that ends with the block; Flotilla is not installed yet.

    `nodes` are those of `LocalCluster.start`, which see also for `restart_backoff_seconds`.
    """
    images = {**make_images(engine_env), **(more_images or {})}
    with LocalCluster.start(nodes, images, name=name, restart_backoff_seconds=restart_backoff_seconds) as cluster:
        yield Stack(cluster)


def quickstart_objects() -> list[Manifest]:
    """Every object of examples/quickstart, in the order in which `kubectl apply -f` sends them."""
    texts = [path.read_text() for path in sorted(QUICKSTART.glob("*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def quickstart_policy() -> Manifest:
    """The quickstart's RoutingPolicy."""
    return _only("RoutingPolicy")


def quickstart_api_key() -> str:
    """An API key that the quickstart's gateway accepts."""
    name = quickstart_policy()["spec"]["auth"]["apiKeysSecretRef"]["name"]
    return next(iter(_secret_data(name).values()))


def quickstart_provider_key() -> str:
    """The API key that the quickstart's gateway shows to the provider."""
    return _secret_value(_only("Fallback")["spec"]["external"]["credentialsSecretRef"])


def _only(kind: str) -> Manifest:
    (found,) = (manifest for manifest in quickstart_objects() if manifest["kind"] == kind)
    return found


def _secret_value(reference: Mapping[str, str]) -> str:
    return _secret_data(reference["name"])[reference["key"]]


def _secret_data(name: str) -> dict[str, str]:
    secrets = (o for o in quickstart_objects() if o["kind"] == "Secret" and o["metadata"]["name"] == name)
    secret = next(secrets)
    plain: dict[str, str] = dict(secret.get("stringData", {}))
    encoded: dict[str, str] = secret.get("data", {})
    return plain | {key: base64.b64decode(value).decode() for key, value in encoded.items()}
