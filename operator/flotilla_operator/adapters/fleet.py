"""The fleet that autoscaling measures, as the store and the routers' connections tell of it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator

from flotilla_api.names import ROUTER_ADMIN_PORT, SIDECAR_CONTAINER
from flotilla_operator.ports import Clock, OperatorError
from flotilla_operator.reconcile.types import AgentPod, Key, Manifest
from flotilla_operator.resources.pods import find_condition, is_ready, pod_address, seconds_of
from flotilla_operator.resources.sidecar import ADMIN_PORT_NAME
from flotilla_operator.scaling.fleet import Fleet, MeasuredPod, NamespacedName, Routers, ServedExpert

from .client import Client
from .kinds import AGENT_POD, ref_of
from .owned import owned_pods
from .store import Store

AgentsOf = Callable[[Key], tuple[AgentPod, ...] | None]
ConnectedTo = Callable[[Key], frozenset[str]]


class FleetView:
    """Experts that are scaled, the policies that name them, and the pods of both that answer.

    `agents` are the pods that ask for a policy's sidecar, `connected` the uids of pods whose routers call the control
    API: a sidecar counts from its first call on.
    """

    def __init__(self, store: Store, clock: Clock, *, agents: AgentsOf, connected: ConnectedTo) -> None:
        self._store = store
        self._clock = clock
        self._agents = agents
        self._connected = connected
        self._seen: dict[str, float] = {}
        """When sidecars were first seen to be connected, by uid."""

    def now(self) -> Fleet:
        """As it is known now."""
        scaled = [key for key in self._store.owners() if key.kind == "Expert" and self._is_scaled(key)]
        wanted = {key.namespace for key in scaled}
        naming: defaultdict[NamespacedName, set[str]] = defaultdict(set)
        for policy in self._store.owners():
            if policy.kind == "RoutingPolicy" and policy.namespace in wanted:
                for expert in self._experts_of(policy):
                    naming[NamespacedName(policy.namespace, expert)].add(policy.name)
        experts = {_name(key): self._served(key, frozenset(naming[_name(key)])) for key in scaled}
        policies = {
            Key("RoutingPolicy", key.namespace, policy) for key, each in experts.items() for policy in each.policies
        }
        routers = {_name(key): self._routers(key) for key in sorted(policies)}
        alive = {pod.uid for each in routers.values() for pod in each.sidecars}
        self._seen = {uid: at for uid, at in self._seen.items() if uid in alive}
        return Fleet(experts, routers)

    def _experts_of(self, policy: Key) -> set[str]:
        manifest = self._store.get(ref_of(policy))
        return experts_of(manifest) if manifest else set()

    def _is_scaled(self, key: Key) -> bool:
        expert = self._store.get(ref_of(key))
        spec: Manifest = (expert and expert.get("spec")) or {}
        return spec.get("scaling") is not None

    def _served(self, key: Key, policies: frozenset[str]) -> ServedExpert:
        pods = (_measured(pod, pod_address(pod)) for pod in owned_pods(self._store, key) if is_ready(pod))
        return ServedExpert(tuple(pods), policies)

    def _routers(self, key: Key) -> Routers:
        pods = [pod for pod in owned_pods(self._store, key) if is_ready(pod)]
        gateways = (_measured(pod, _address(pod, ROUTER_ADMIN_PORT)) for pod in pods)
        policy = self._store.get(ref_of(key))
        targets = experts_of(policy) | fallbacks_of(policy) if policy else frozenset[str]()
        return Routers(tuple(gateways), tuple(self._sidecars(key)), frozenset(targets))

    def _sidecars(self, key: Key) -> Iterator[MeasuredPod]:
        connected, now = self._connected(key), self._clock.now().timestamp()
        for agent in self._agents(key) or ():
            if agent.injected and agent.uid in connected:
                yield MeasuredPod(agent.name, "", self._seen.setdefault(agent.uid, now), agent.uid)


class SidecarLocator:
    """Finds where agents' sidecars expose their metrics: their pods are not in the store."""

    def __init__(self, client: Client) -> None:
        self._client = client

    async def locate(self, namespace: str, name: str, uid: str) -> str:
        """host:port; '' where it is not known yet, or the pod is another by now."""
        try:
            pod = await self._client.get(AGENT_POD.path(namespace, name))
        except OperatorError:
            return ""
        port = sidecar_admin_port(pod)
        has_address = bool(pod.get("status", {}).get("podIP"))
        return _address(pod, port) if port and has_address and pod["metadata"]["uid"] == uid else ""


def experts_of(policy: Manifest) -> set[str]:
    """The names of the Experts that a policy may choose, rules included."""
    return _named(policy, "experts")


def fallbacks_of(policy: Manifest) -> set[str]:
    """The names of the Fallbacks that a policy may escalate to, rules included."""
    return _named(policy, "fallbacks")


def _named(policy: Manifest, field: str) -> set[str]:
    spec: Manifest = policy.get("spec") or {}
    levels: list[Manifest] = [spec, *(spec.get("rules") or ())]
    return {entry["name"] for level in levels for entry in level.get(field) or () if "name" in entry}


def sidecar_admin_port(pod: Manifest) -> int | None:
    """Of a pod's sidecar; None: it has none that says so."""
    containers: list[Manifest] = pod.get("spec", {}).get("initContainers") or []
    ports: list[Manifest] = [
        port for each in containers if each.get("name") == SIDECAR_CONTAINER for port in each.get("ports") or ()
    ]
    return next((port["containerPort"] for port in ports if port.get("name") == ADMIN_PORT_NAME), None)


def _measured(pod: Manifest, address: str) -> MeasuredPod:
    metadata = pod["metadata"]
    return MeasuredPod(metadata["name"], address, _ready_at(pod), metadata["uid"])


def _ready_at(pod: Manifest) -> float:
    """Since when it answers; a condition without a moment has always held."""
    since: str = find_condition(pod, "Ready").get("lastTransitionTime") or ""
    return seconds_of(since) if since else 0.0


def _address(pod: Manifest, port: int) -> str:
    ip: str = pod["status"]["podIP"]
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"


def _name(key: Key) -> NamespacedName:
    return NamespacedName(key.namespace, key.name)
