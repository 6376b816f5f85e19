"""Agents' pods: which of them ask for a policy's sidecar, which have it, and the events that tell the others why not.

They are listed again and again, not watched: kopf watches pods by one selector only, which is that of our own children,
and a list of metadata from the API server's cache costs little beside a watch of our own that has to be kept true.
"""

from __future__ import annotations

import hashlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from flotilla_api import names
from flotilla_operator.ports import Clock, NotFoundError, OperatorError, OutdatedError, RefusedError
from flotilla_operator.reconcile.sidecar_status import absence_event
from flotilla_operator.reconcile.types import AgentPod, Event, Key, Manifest, OperatorSettings
from flotilla_operator.resources.sidecar import SidecarInputs, inject_sidecar, sidecar_policy, wanted_policy
from flotilla_operator.resources.specs import InvalidSpecError, parse_policy
from flotilla_operator.telemetry import LOGGER, fields

from .client import Client
from .events import make_event
from .kinds import AGENT_POD, EVENT, ref_of
from .store import Store

LOOK_SECONDS = 10.0
"""Between two lists: soon enough for a person who wonders about a pod, and next to nothing for the API server."""
PODS_PER_SECOND = 100
"""How many are looked at in each second on average, so that thousands cost no more than a per cent or two of a core."""
READ_AT_A_LOOK = 50
"""Pods that are read whole in one look, those that say they have no sidecar first, and as many get an event: there may
be thousands."""
SILENT_SECONDS = 60.0
"""For how long a sidecar may not call: it starts within this, and finds a new leader, whose first look is the start."""
PULSE_SECONDS = 1.0
LABEL_SELECTOR = f"{names.POLICY_LABEL},!{names.KIND_LABEL}"
FIELD_SELECTOR = "status.phase!=Succeeded,status.phase!=Failed"
RUNNING_SELECTOR = "status.phase=Running"
_NAME_MAX_CHARACTERS = 220
"""Of a pod's name in an event's, which may have 253 characters."""

logger = logging.getLogger(LOGGER)


@dataclass(frozen=True, slots=True)
class Outside:
    """What looking at agents needs beside the Kubernetes API."""

    settings: OperatorSettings
    namespaces: Callable[[], Sequence[str]]
    """Those that can be read; none: all."""
    leading: Callable[[], bool]
    """Without the Lease nothing is looked at, and no event is written."""
    wake: Callable[[Key], None]
    connected: Callable[[Key], frozenset[str]]
    """The uids of the pods whose routers are connected to the policy's control API."""
    instance: str
    """Name of this replica, shown in events."""


class Agents:
    """Knows the pods that ask for sidecars, and wakes a policy when its own change."""

    def __init__(self, client: Client, store: Store, clock: Clock, outside: Outside) -> None:
        self._client = client
        self._store = store
        self._clock = clock
        self._outside = outside
        self._listed: set[str] = set()
        """Namespaces of which something is known; '' means all."""
        self._agents: dict[Key, tuple[AgentPod, ...]] = {}
        self._judged: dict[str, tuple[SidecarInputs, str]] = {}
        """By uid of a pod without a sidecar: the sidecar that it was judged by, and why it is refused that."""
        self._sidecars: dict[str, str | None] = {}
        """By uid of a pod whose annotation says that it has a sidecar: the policy of that sidecar. A pod's containers
        never change, so each pod is read once."""
        self._told: dict[str, str] = {}
        """By uid of a pod without a sidecar: the reason of the event that it got."""
        self._heard: dict[str, float] = {}
        """By uid of a pod with a sidecar: when (monotonic) that was last connected, or the pod first seen."""
        self._due = 0.0
        self._to_read = self._to_tell = 0

    def of(self, key: Key) -> tuple[AgentPod, ...] | None:
        """The running pods that ask for the policy's sidecar, sorted; None: they have not been listed yet."""
        return self._agents.get(key, ()) if self._listed & {"", key.namespace} else None

    async def run(self) -> None:
        """Looks for ever, while this replica leads. The store must have been filled."""
        while True:
            if not self._outside.leading():
                self._forget()
            elif self._due <= self._clock.monotonic():
                await self._look()
            await self._clock.sleep(PULSE_SECONDS)

    def _forget(self) -> None:
        for known in (self._listed, self._agents, self._judged, self._sidecars, self._told, self._heard):
            known.clear()
        self._due = 0.0

    async def _look(self) -> None:
        self._to_read = self._to_tell = READ_AT_A_LOOK
        for namespace in self._outside.namespaces() or ("",):
            try:
                await self._look_at(namespace)
            except OperatorError as error:
                logger.warning("agents' pods not seen", extra=fields(namespace=namespace, reason=str(error)))
        await self._verify()
        agents = [agent for found in self._agents.values() for agent in found]
        running = {agent.uid for agent in agents}
        self._sidecars = {uid: policy for uid, policy in self._sidecars.items() if uid in running}
        without = {agent.uid for agent in agents if not agent.injected}
        self._judged = {uid: known for uid, known in self._judged.items() if uid in without}
        self._told = {uid: known for uid, known in self._told.items() if uid in without}
        self._heard = {agent.uid: self._heard[agent.uid] for agent in agents if agent.uid in self._heard}
        self._due = self._clock.monotonic() + max(LOOK_SECONDS, len(agents) / PODS_PER_SECOND)

    async def _look_at(self, namespace: str) -> None:
        listed = await self._client.list_metadata(
            AGENT_POD, namespace, label_selector=LABEL_SELECTOR, field_selector=FIELD_SELECTOR
        )
        asking: defaultdict[Key, list[AgentPod]] = defaultdict(list)
        for metadata in listed:
            policy = wanted_policy({"metadata": metadata})
            if policy and not metadata.get("deletionTimestamp"):
                asking[Key("RoutingPolicy", metadata["namespace"], policy)].append(self._agent(metadata, policy))
        found = {key: await self._judge(key, sorted(asking[key])) for key in sorted(asking)}
        if silent := {uid for key, agents in found.items() for uid in self._silent(key, agents)}:
            silent &= await self._running(namespace)
        marked = {
            key: tuple(replace(agent, silent=agent.uid in silent) for agent in agents) for key, agents in found.items()
        }
        self._learn(namespace, marked)
        for key, agents in found.items():
            await self._tell(key, [agent for agent in agents if not agent.injected])

    def _silent(self, key: Key, agents: Sequence[AgentPod]) -> Iterator[str]:
        """The uids of those with a sidecar that has not called for a while, and may."""
        inputs = self._inputs(key)
        if not isinstance(inputs, SidecarInputs) or not inputs.enabled:
            return
        now, connected = self._clock.monotonic(), self._outside.connected(key)
        for agent in agents:
            if not agent.injected:
                continue
            if agent.uid in connected:
                self._heard[agent.uid] = now
            if now - self._heard.setdefault(agent.uid, now) > SILENT_SECONDS:
                yield agent.uid

    async def _running(self, namespace: str) -> set[str]:
        """The uids of the pods whose sidecars let the agents start; that others wait is seen in the pods."""
        listed = await self._client.list_metadata(
            AGENT_POD, namespace, label_selector=LABEL_SELECTOR, field_selector=RUNNING_SELECTOR
        )
        return {metadata["uid"] for metadata in listed}

    def _agent(self, metadata: Manifest, policy: str) -> AgentPod:
        """What is believed of a pod: its annotation, as long as its containers have not been read."""
        annotations: dict[str, str] = metadata.get("annotations") or {}
        sidecar = self._sidecars.get(metadata["uid"], annotations.get(names.INJECTED_ANNOTATION))
        return AgentPod(metadata["name"], metadata["uid"], sidecar == policy)

    async def _verify(self) -> None:
        """Some more of the pods that say they have a sidecar have been read; the next look goes by what they have."""
        said = [(key, agent) for key, found in sorted(self._agents.items()) for agent in found if agent.injected]
        for key, agent in [each for each in said if each[1].uid not in self._sidecars][: self._to_read]:
            try:
                pod = await self._client.get(AGENT_POD.path(key.namespace, agent.name))
            except NotFoundError:
                continue
            except OperatorError as error:
                logger.warning("agents' pods not read", extra=fields(namespace=key.namespace, reason=str(error)))
                return
            if pod["metadata"]["uid"] == agent.uid:
                self._sidecars[agent.uid] = sidecar_policy(pod)

    def _learn(self, namespace: str, found: Mapping[Key, tuple[AgentPod, ...]]) -> None:
        """What is known of `namespace` is what was found, and policies for which that is news are woken."""
        before = {key: agents for key, agents in self._agents.items() if namespace in ("", key.namespace)}
        news = {key for key in before.keys() | found.keys() if before.get(key) != found.get(key)}
        if namespace not in self._listed:
            self._listed.add(namespace)
            news |= {key for key in self._store.owners() if namespace in ("", key.namespace)}
        for key in before:
            del self._agents[key]
        self._agents.update(found)
        for key in sorted(news):
            if key.kind == "RoutingPolicy" and self._store.get(ref_of(key)):
                self._outside.wake(key)

    async def _judge(self, key: Key, agents: Sequence[AgentPod]) -> tuple[AgentPod, ...]:
        """The agents; those without a sidecar with the reason why they cannot have one, where there is one."""
        inputs = None if all(agent.injected for agent in agents) else self._inputs(key)
        if not isinstance(inputs, SidecarInputs) or not inputs.enabled:
            return tuple(agents)
        return tuple([each if each.injected else await self._judge_one(each, inputs) for each in agents])

    async def _judge_one(self, agent: AgentPod, inputs: SidecarInputs) -> AgentPod:
        known = self._judged.get(agent.uid)
        if known is None or known[0] != inputs:
            if self._to_read <= 0:
                return agent
            self._to_read -= 1
            known = self._judged[agent.uid] = (inputs, await self._why_refused(agent, inputs))
        return replace(agent, refused=known[1])

    async def _why_refused(self, agent: AgentPod, inputs: SidecarInputs) -> str:
        try:
            pod = await self._client.get(AGENT_POD.path(inputs.namespace, agent.name))
        except NotFoundError:
            return ""
        return inject_sidecar(pod, inputs).refused

    async def _tell(self, key: Key, agents: Sequence[AgentPod]) -> None:
        """Each of the agents, which have no sidecar, has an event that says why; the rest of many at the next look."""
        inputs = self._inputs(key) if agents else None
        if isinstance(inputs, InvalidSpecError):
            return  # which the policy's own status says
        for agent in agents:
            event = absence_event(agent, key, inputs)
            judged = inputs is None or not inputs.enabled or agent.uid in self._judged
            if not judged or self._told.get(agent.uid) == event.reason:
                continue
            if self._to_tell <= 0 or not self._outside.leading():
                return
            self._to_tell -= 1
            await self._emit(key.namespace, agent, event)
            self._told[agent.uid] = event.reason

    async def _emit(self, namespace: str, agent: AgentPod, event: Event) -> None:
        """The event is there once, also when another replica or an earlier run told it; a refused one is dropped."""
        regarding = {"apiVersion": "v1", "kind": "Pod", "namespace": namespace, "name": agent.name, "uid": agent.uid}
        name = event_name(agent, event)
        manifest = make_event(regarding, event, name=name, now=self._clock.now(), instance=self._outside.instance)
        try:
            await self._client.create(EVENT, namespace, manifest)
        except OutdatedError:
            return
        except (RefusedError, NotFoundError) as error:
            logger.warning("event dropped", extra=fields(pod=agent.name, event=event.reason, reason=str(error)))

    def _inputs(self, key: Key) -> SidecarInputs | InvalidSpecError | None:
        """What the policy's sidecars are made from; None: there is no such policy."""
        policy = self._store.get(ref_of(key))
        if policy is None:
            return None
        try:
            return SidecarInputs(key.namespace, key.name, parse_policy(policy), self._outside.settings)
        except InvalidSpecError as error:
            return error


def event_name(agent: AgentPod, event: Event) -> str:
    """The name of the only event of its reason about the pod."""
    digest = hashlib.sha256(f"{agent.uid}/{event.reason}".encode()).hexdigest()[:16]
    return f"{agent.name[:_NAME_MAX_CHARACTERS].rstrip('-.')}.{digest}"
