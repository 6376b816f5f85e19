"""What a test does to a namespace and awaits of it. Every wait is for a condition, bounded by a deadline."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import httpx

from e2e.gateway import Gateway
from e2e.objects import PROVIDER_CA, PROVIDER_KEYS, Manifest, a_secret, client_keys
from flotilla_api.names import KIND_LABEL, OPERATOR_ADMIN_PORT, OWNER_LABEL
from localcluster.runner.control import kill_container
from stack.flotilla import SYSTEM_NAMESPACE, Stack, quickstart_provider_key
from stack.provider import start_provider

READY_SECONDS = 60.0
MANAGER = "e2e"
OPERATOR = "flotilla-operator"
OPERATORS = 2
"""Replicas that the chart asks for."""

_PLURALS = {
    "AcceleratorProfile": "/apis/flotilla.dev/v1alpha1/acceleratorprofiles",
    "Expert": "/apis/flotilla.dev/v1alpha1/{}/experts",
    "Fallback": "/apis/flotilla.dev/v1alpha1/{}/fallbacks",
    "RoutingPolicy": "/apis/flotilla.dev/v1alpha1/{}/routingpolicies",
    "Deployment": "/apis/apps/v1/{}/deployments",
    "Job": "/apis/batch/v1/{}/jobs",
    "Namespace": "/api/v1/namespaces",
    "ReplicaSet": "/apis/apps/v1/{}/replicasets",
    "ControllerRevision": "/apis/apps/v1/{}/controllerrevisions",
    "PodDisruptionBudget": "/apis/policy/v1/{}/poddisruptionbudgets",
    "Role": "/apis/rbac.authorization.k8s.io/v1/{}/roles",
    "RoleBinding": "/apis/rbac.authorization.k8s.io/v1/{}/rolebindings",
    "Lease": "/apis/coordination.k8s.io/v1/{}/leases",
    "Event": "/apis/events.k8s.io/v1/{}/events",
    "Pod": "/api/v1/{}/pods",
    "Service": "/api/v1/{}/services",
    "ServiceAccount": "/api/v1/{}/serviceaccounts",
    "ConfigMap": "/api/v1/{}/configmaps",
    "Secret": "/api/v1/{}/secrets",
    "ResourceQuota": "/api/v1/{}/resourcequotas",
}


@dataclass(frozen=True, slots=True)
class Space:
    """One namespace on the cluster."""

    stack: Stack
    name: str

    # Objects

    def apply(self, *manifests: Manifest) -> None:
        """`kubectl apply` of each, in this order."""
        for manifest in manifests:
            path = self.path(manifest["kind"], manifest["metadata"]["name"])
            parameters = {"fieldManager": MANAGER, "force": "true", "fieldValidation": "Strict"}
            headers = {"content-type": "application/apply-patch+yaml"}
            answer = self._api.patch(path, params=parameters, content=json.dumps(manifest), headers=headers)
            assert answer.status_code < 300, answer.text

    def merge(self, kind: str, name: str, patch: Mapping[str, Any]) -> Manifest:
        """`kubectl patch --type=merge`; the patched object."""
        headers = {"content-type": "application/merge-patch+json"}
        answer = self._api.patch(self.path(kind, name), content=json.dumps(patch), headers=headers)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def delete(self, kind: str, name: str) -> None:
        """The object is being deleted."""
        self._api.delete(self.path(kind, name)).raise_for_status()

    def get(self, kind: str, name: str) -> Manifest:
        """The live object."""
        return self._api.get(self.path(kind, name)).raise_for_status().json()

    def find(self, kind: str, name: str) -> Manifest | None:
        """The live object; None if there is none."""
        answer = self._api.get(self.path(kind, name))
        return None if answer.status_code == 404 else answer.raise_for_status().json()

    def list(self, kind: str, **labels: str) -> list[Manifest]:
        """Objects with these labels; `/` and other characters that Python's names lack come through a mapping."""
        selector = ",".join(f"{key}={value}" for key, value in labels.items())
        return self._api.get(self.path(kind), params={"labelSelector": selector}).raise_for_status().json()["items"]

    def owned(self, kind: str, owner_kind: str, owner: str) -> list[Manifest]:
        """Children, or pods, of an Expert, Fallback or RoutingPolicy."""
        return self.list(kind, **{KIND_LABEL: owner_kind, OWNER_LABEL: owner})

    def path(self, kind: str, name: str = "") -> str:
        """Where the API server has it."""
        path = _PLURALS[kind].format(f"namespaces/{self.name}")
        return f"{path}/{name}" if name else path

    # Waiting

    def wait_for(self, condition: Callable[[], object], what: str, seconds: float = READY_SECONDS) -> None:
        """`condition` holds; a refused request counts as not yet."""
        self.stack.cluster.wait_for(lambda: bool(condition()), what, seconds)

    def condition(self, kind: str, name: str, type: str) -> Manifest:  # noqa: A002 - as in a status
        """A condition that speaks of the present generation; {} as long as there is none."""
        owner = self.get(kind, name)
        conditions: list[Manifest] = owner.get("status", {}).get("conditions", [])
        found = next((each for each in conditions if each["type"] == type), Manifest())
        return found if found.get("observedGeneration") == owner["metadata"]["generation"] else {}

    def wait_condition(
        self,
        kind: str,
        name: str,
        type: str,  # noqa: A002 - as in a status
        status: str,
        reason: str | None = None,
        *,
        seconds: float = READY_SECONDS,
    ) -> Manifest:
        """The condition, as soon as it is so for the present generation.

        Raises:
            TimeoutError: it is not; the message holds what the object's status said last.
        """
        found: Manifest = {}

        def holds() -> bool:
            nonlocal found
            found = self.condition(kind, name, type)
            return found.get("status") == status and reason in (None, found.get("reason"))

        try:
            self.wait_for(holds, f"{kind} {name} to be {type}={status} {reason or ''}", seconds)
        except TimeoutError as error:
            last = json.dumps(self.get(kind, name).get("status", {}), indent=1)
            raise TimeoutError(f"{error}; its status: {last}") from None
        return found

    def wait_ready(self, kind: str, *names: str, seconds: float = READY_SECONDS) -> None:
        """All of them are Ready at their present generation."""
        for name in names:
            self.wait_condition(kind, name, "Ready", "True", seconds=seconds)

    def wait_gone(self, kind: str, name: str, seconds: float = READY_SECONDS) -> None:
        """There is no such object any more."""
        self.wait_for(lambda: self.find(kind, name) is None, f"{kind} {name} to be gone", seconds)

    # Pods and gateways

    def engines(self, expert: str, kind: str = "Expert") -> list[Engine]:
        """The ready engines of an Expert or served Fallback, sorted by pod."""
        return [_engine(self.stack, pod) for pod in self.ready_pods(kind, expert)]

    def engine(self, expert: str, kind: str = "Expert") -> Engine:
        """The one ready engine."""
        (engine,) = self.engines(expert, kind)
        return engine

    def ready_pods(self, kind: str, owner: str) -> list[Manifest]:
        """Pods of an owner that are Ready and do not end, sorted by name."""
        pods = sorted(self.owned("Pod", kind, owner), key=lambda pod: pod["metadata"]["name"])
        return [pod for pod in pods if is_ready(pod) and "deletionTimestamp" not in pod["metadata"]]

    def gateway(self, policy: str, *, key: str | None = None) -> Gateway:
        """The gateway of a policy as a client with `key` sees it; '' shows no key."""
        return Gateway.of(self.stack, self.name, policy, key)

    def add_secrets(self) -> None:
        """The Secrets that the builders' policies and external fallbacks name."""
        authority = start_provider(self.stack.cluster, quickstart_provider_key())
        self.apply(
            client_keys(),
            a_secret(PROVIDER_KEYS, apiKey=quickstart_provider_key()),
            a_secret(PROVIDER_CA, ca_crt=authority),
        )

    @property
    def _api(self) -> httpx.Client:
        return self.stack.cluster.api


@dataclass(frozen=True, slots=True)
class Engine:
    """A running engine, or the provider: what reached it, and what is to go wrong next."""

    pod: Manifest
    url: str
    stack: Stack
    container: str = "engine"

    @property
    def name(self) -> str:
        """Of its pod."""
        return self.pod["metadata"]["name"]

    def inject(self, kind: str, **fault: Any) -> None:
        """The next request for an answer meets a fault, see fakes.engine.faults."""
        self._call("POST", "/sim/faults", [{"kind": kind, **fault}])

    def heal(self) -> None:
        """No fault is left."""
        self._call("DELETE", "/sim/faults")

    def requests(self, marker: str = "") -> list[Manifest]:
        """Requests for an answer that reached it, those that hold `marker` in their body; oldest first."""
        found: list[Manifest] = self._call("GET", "/sim/requests")["requests"]
        return [each for each in found if "completions" in each["path"] and marker in json.dumps(each["body"])]

    def kill(self) -> None:
        """Its process is gone without a word, as after a power failure."""
        metadata = self.pod["metadata"]
        kill_container(self.stack.cluster.directory / "runner", metadata["namespace"], self.name, self.container)

    def _call(self, method: str, path: str, body: object = None) -> Any:
        with httpx.Client(verify=False, trust_env=False, timeout=10) as client:
            return client.request(method, self.url + path, json=body).raise_for_status().json()


def _engine(stack: Stack, pod: Manifest) -> Engine:
    return Engine(pod, f"http://{pod['status']['podIP']}:8000", stack)


def provider_of(stack: Stack) -> Engine:
    """The simulated provider."""
    space = Space(stack, "providers")
    space.wait_for(lambda: any(is_ready(pod) for pod in space.list("Pod", app="provider")), "the provider")
    pod = next(pod for pod in space.list("Pod", app="provider") if is_ready(pod))
    return Engine(pod, f"https://{pod['status']['podIP']}:8443", stack, "provider")


def operators_of(stack: Stack) -> list[Manifest]:
    """The operator's pods, those that end too."""
    return [each for each in system_of(stack).list("Pod") if each["metadata"]["name"].startswith(OPERATOR)]


def operator_expositions(stack: Stack) -> list[str]:
    """What Prometheus reads of each operator that is Ready."""
    addresses = [pod["status"]["podIP"] for pod in operators_of(stack) if is_ready(pod)]
    return [
        httpx.get(f"http://{each}:{OPERATOR_ADMIN_PORT}/metrics", trust_env=False).raise_for_status().text
        for each in addresses
    ]


def scale_operator(stack: Stack, count: int) -> None:
    """That many operators are Ready, or none is left."""
    system = system_of(stack)
    system.merge("Deployment", OPERATOR, {"spec": {"replicas": count}})

    def is_scaled() -> bool:
        pods = operators_of(stack)
        return len(pods) == count and all(map(is_ready, pods))

    system.wait_for(is_scaled, f"{count} operators")


@contextmanager
def no_operator(stack: Stack) -> Generator[None]:
    """No operator runs while the block does."""
    scale_operator(stack, 0)
    try:
        yield
    finally:
        scale_operator(stack, OPERATORS)


def system_of(stack: Stack) -> Space:
    """The namespace of the operator."""
    return Space(stack, SYSTEM_NAMESPACE)


def is_ready(pod: Manifest) -> bool:
    """Whether a pod is Ready."""
    conditions: Sequence[Manifest] = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)
