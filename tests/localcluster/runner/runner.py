"""The node agent: hears of changes and passes each on to the pods and Services that it concerns."""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Coroutine
from typing import Any

from localcluster.config import RunnerConfig
from localcluster.runner.agent import PodAgent
from localcluster.runner.api import Api, ApiError, Unreachable
from localcluster.runner.containers import require_namespaces
from localcluster.runner.forwarding import Forwarder
from localcluster.runner.host import Host, Known
from localcluster.runner.kubelet_server import LogServer
from localcluster.runner.model import ConfigMap, Model, NamespacedName, ObjectMeta, Pod, Secret, Service
from localcluster.runner.nodes import NodeKeeper
from localcluster.runner.probes import Prober
from localcluster.runner.provisioner import Claim, PersistentVolume, Provisioner
from localcluster.runner.routes import Endpoint, Frontend, plan_routes, select_pods, services_of
from localcluster.runner.watching import Watched

log = logging.getLogger(__name__)

KUBERNETES = NamespacedName("default", "kubernetes")
RETRY_SECONDS = 0.5
GATHER_SECONDS = 0.05  # from the first change of a Service to the update of pods' names for it and what came meanwhile


class Node(Model, frozen=True):
    """A node; only whether it is there matters."""

    metadata: ObjectMeta


class Runner:
    """Runs all pods of all nodes of one cluster."""

    def __init__(self, config: RunnerConfig, api: Api, prober: Prober, version: str) -> None:
        self._config = config
        self._config_maps = Watched(api, "/api/v1/configmaps", ConfigMap, self._note_config_map)
        self._secrets = Watched(api, "/api/v1/secrets", Secret, self._note_secret)
        self._services = Watched(api, "/api/v1/services", Service, self._note_service)
        self._claims = Watched(api, "/api/v1/persistentvolumeclaims", Claim, self._note_claim)
        self._volumes = Watched(api, "/api/v1/persistentvolumes", PersistentVolume, self._note_volume)
        self._nodes = Watched(api, "/api/v1/nodes", Node, self._note_node)
        self._pods = Watched(api, "/api/v1/pods", Pod, self._note_pod, fieldSelector="spec.nodeName!=")
        self._host = Host(config, api, prober, Known(self._config_maps, self._secrets, self._services))
        self._keepers = {spec.name: NodeKeeper(spec, config, api, version) for spec in config.nodes}
        self._provisioner = Provisioner(api, config.state_dir / "volumes")
        self._forwarder = Forwarder()
        self._agents: dict[NamespacedName, PodAgent] = {}
        self._running: dict[str, asyncio.Task[None]] = {}  # by uid
        self._users: defaultdict[tuple[str, NamespacedName], set[NamespacedName]] = defaultdict(set)
        self._pods_of: defaultdict[str, dict[NamespacedName, Pod]] = defaultdict(dict)  # by namespace
        self._names_changed = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def run(self) -> None:
        """Run pods until cancelled; then they get SIGTERM and a moment. A part that fails ends all, with its error."""
        sources = (self._config_maps, self._secrets, self._services, self._claims, self._volumes, self._nodes)
        try:
            for source in sources:
                self._spawn(source.run())
            for keeper in self._keepers.values():
                self._spawn(keeper.run())
            for part in (self._provisioner, self._forwarder, self._host.events, LogServer(self._config)):
                self._spawn(part.run())
            self._spawn(self._keep_names())
            for source in sources:
                await source.listed.wait()
            self._spawn(self._pods.run())
            await self._failed
        finally:
            for agent in self._agents.values():
                agent.part()
            for task in [*self._tasks, *self._running.values()]:
                task.cancel()
            await asyncio.gather(*self._tasks, *self._running.values(), return_exceptions=True)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.ensure_future(work)
        self._tasks.add(task)
        task.add_done_callback(self._note_end)

    def _note_end(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and not self._failed.done():
            self._failed.set_exception(error)

    # --- pods

    def _note_pod(self, key: NamespacedName, pod: Pod | None) -> None:
        self._index_pod(key, pod)
        agent = self._agents.get(key)
        if agent and (pod is None or agent.pod.metadata.uid != pod.metadata.uid):
            self._let_go(key, agent)
            agent = None
        if pod is None or pod.spec.node_name not in self._keepers:
            return
        if agent:
            agent.update(pod)
        else:
            self._take_on(key, pod)

    def _take_on(self, key: NamespacedName, pod: Pod) -> None:
        address = pod.status.get("podIP")
        if address:
            self._host.addresses.reserve(address)
        agent = self._agents[key] = PodAgent(pod, address or self._host.addresses.take(), self._host)
        for user in self._referents(agent):
            self._users[user].add(key)
        task = asyncio.ensure_future(agent.run())
        self._running[pod.metadata.uid] = task
        task.add_done_callback(lambda _: self._note_agent_end(agent))

    def _let_go(self, key: NamespacedName, agent: PodAgent) -> None:
        """The pod is no more in the API: what still runs of it is killed."""
        del self._agents[key]
        for user in self._referents(agent):
            self._users[user].discard(key)
            if not self._users[user]:
                del self._users[user]
        self._kill(agent)

    def _kill(self, agent: PodAgent) -> None:
        if task := self._running.get(agent.pod.metadata.uid):
            task.cancel()

    def _note_agent_end(self, agent: PodAgent) -> None:
        task = self._running.pop(agent.pod.metadata.uid)
        self._host.addresses.give_back(agent.pod_ip)
        if not task.cancelled() and (error := task.exception()):
            log.error("pod %s: a defect of the runner", agent.pod.key, exc_info=error)

    def _referents(self, agent: PodAgent) -> list[tuple[str, NamespacedName]]:
        namespace, references = agent.pod.metadata.namespace, agent.volumes.references
        named = [("ConfigMap", name) for name in references.config_maps]
        named += [("Secret", name) for name in references.secrets]
        named += [("Claim", name) for name in references.claims]
        return [(kind, NamespacedName(namespace, name)) for kind, name in named]

    def _index_pod(self, key: NamespacedName, pod: Pod | None) -> None:
        """Services that select the pod, or did so far, get new routes."""
        before = self._pods_of[key.namespace].pop(key, None)
        if pod is not None:
            self._pods_of[key.namespace][key] = pod
        of_namespace = [s for s in self._services if s.metadata.namespace == key.namespace]
        for service in {k for p in (before, pod) if p is not None for k in services_of(p, of_namespace)}:
            self._route(service)

    # --- other objects

    def _note_config_map(self, key: NamespacedName, _: ConfigMap | None) -> None:
        self._wake_users("ConfigMap", key)

    def _note_secret(self, key: NamespacedName, _: Secret | None) -> None:
        self._wake_users("Secret", key)

    def _note_claim(self, key: NamespacedName, claim: Claim | None) -> None:
        if claim is not None:
            self._provisioner.note_claim(claim)
        self._wake_users("Claim", key)

    def _note_volume(self, _: NamespacedName, volume: PersistentVolume | None) -> None:
        if volume is not None:
            self._provisioner.note_volume(volume)

    def _wake_users(self, kind: str, key: NamespacedName) -> None:
        for user in self._users.get((kind, key), ()):
            self._agents[user].note_sources_changed()

    def _note_node(self, key: NamespacedName, node: Node | None) -> None:
        """A node that goes takes its pods' processes with it."""
        keeper = self._keepers.get(key.name)
        if keeper is None:
            return
        keeper.note(node.metadata.uid if node else None)
        if node is None:
            for agent in self._agents.values():
                if agent.pod.spec.node_name == key.name:
                    self._kill(agent)

    # --- services

    def _note_service(self, key: NamespacedName, _: Service | None) -> None:
        self._route(key)
        self._names_changed.set()

    def _route(self, key: NamespacedName) -> None:
        service = self._services.get(key)
        if service is None:
            self._forwarder.set_routes(key, {})
            self._set_headless(key, ())
        elif key == KUBERNETES:
            apiserver = Endpoint(self._config.apiserver_host, self._config.apiserver_port)
            address, ports = service.spec.cluster_ip, service.spec.ports
            self._forwarder.set_routes(key, {Frontend(address, port.port): (apiserver,) for port in ports})
        elif service.spec.cluster_ip == "None":
            pods = select_pods(service, self._pods_of[key.namespace].values())
            self._set_headless(key, tuple(pod.status["podIP"] for pod in pods))
        else:
            self._forwarder.set_routes(key, plan_routes(service, self._pods_of[key.namespace].values()))

    def _set_headless(self, key: NamespacedName, addresses: tuple[str, ...]) -> None:
        if self._host.headless.get(key, ()) == addresses:
            return
        self._host.set_headless({**self._host.headless, key: addresses})
        self._names_changed.set()

    async def _keep_names(self) -> None:
        """Every pod's /etc/hosts follows the Services; many changes at once make one update."""
        while True:
            await self._names_changed.wait()
            await asyncio.sleep(GATHER_SECONDS)
            self._names_changed.clear()
            for agent in list(self._agents.values()):
                agent.volumes.write_hosts()
                await asyncio.sleep(0)


async def run(config: RunnerConfig) -> None:
    """Run the cluster's pods until cancelled.

    Raises:
        RuntimeError: containers cannot be given a root of their own here.
        OSError: the address of the kubelet's interface is taken.
    """
    require_namespaces()
    async with Api.connect(config.kubeconfig) as api, Prober.open() as prober:
        version = await _version(api)
        await Runner(config, api, prober, version).run()


async def _version(api: Api) -> str:
    while True:
        try:
            return (await api.get("/version"))["gitVersion"]
        except (ApiError, Unreachable) as error:
            log.info("waiting for the API server: %s", error)
            await asyncio.sleep(RETRY_SECONDS)
