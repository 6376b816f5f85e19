"""Kubernetes events, posted behind the work that they report on; repeats raise a count instead of making new ones."""

from __future__ import annotations

import asyncio
import itertools
import logging
import time
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from localcluster.runner.api import MERGE, Api, ApiError, Unreachable
from localcluster.runner.model import Pod, format_time
from localcluster.runner.state import Emit

log = logging.getLogger(__name__)

BURST, REFILL_SECONDS = 25, 300.0  # events of one pod: client-go's EventSourceObjectSpamFilter
REMEMBERED = 4096


@dataclass(frozen=True, slots=True)
class Post:
    """One event about a pod, or a container of it."""

    pod: Pod
    emit: Emit
    at: float
    init: bool


@dataclass(slots=True)
class _Posted:
    name: str
    count: int
    first_at: float


@dataclass(slots=True)
class Allowance:
    """A bucket of events: full at first, one more every `REFILL_SECONDS`."""

    left: float = BURST
    at: float = 0.0

    def take(self, now: float) -> bool:
        """Whether one more may be posted now."""
        self.left = min(BURST, self.left + (now - self.at) / REFILL_SECONDS)
        self.at = now
        if self.left < 1:
            return False
        self.left -= 1
        return True


class EventPosts:
    """Posts events in order, one at a time, dropping what a pod has too many of."""

    def __init__(self, api: Api) -> None:
        self._api = api
        self._queue: asyncio.Queue[Post] = asyncio.Queue()
        self._posted: OrderedDict[tuple[str, ...], _Posted] = OrderedDict()
        self._allowances: OrderedDict[str, Allowance] = OrderedDict()
        self._serial = itertools.count(time.time_ns())

    def post(self, pod: Pod, emit: Emit) -> None:
        """The event will be posted soon."""
        init = any(container.name == emit.container for container in pod.spec.init_containers)
        self._queue.put_nowait(Post(pod, emit, time.time(), init))

    async def run(self) -> None:
        """Post until cancelled."""
        while True:
            post = await self._queue.get()
            try:
                await self._send(post)
            except (ApiError, Unreachable) as error:
                log.info("event %s of %s was not posted: %s", post.emit.reason, post.pod.key, error)

    async def _send(self, post: Post) -> None:
        key = (post.pod.metadata.uid, post.emit.container or "", post.emit.reason, post.emit.message)
        allowance = _recall(self._allowances, post.pod.metadata.uid, Allowance(at=post.at))
        if not allowance.take(post.at):
            return
        known = self._posted.get(key)
        path = f"/api/v1/namespaces/{post.pod.metadata.namespace}/events"
        if known is None:
            name = f"{post.pod.metadata.name[:200]}.{next(self._serial):x}"
            await self._api.create(path, make_event(post, name))
            _recall(self._posted, key, _Posted(name, 1, post.at))
            return
        known.count += 1
        update = {"count": known.count, "lastTimestamp": format_time(post.at)}
        await self._api.patch(f"{path}/{known.name}", update, MERGE)


def _recall(memory: OrderedDict[Any, Any], key: Any, default: Any) -> Any:
    """What is remembered under the key, by default this from now on; the oldest entries are forgotten."""
    value = memory.setdefault(key, default)
    if len(memory) > REMEMBERED:
        memory.popitem(last=False)
    return value


def make_event(post: Post, name: str) -> dict[str, Any]:
    """The Event object, as the kubelet would write it."""
    meta, emit = post.pod.metadata, post.emit
    field = "initContainers" if post.init else "containers"
    involved = {
        "apiVersion": "v1",
        "kind": "Pod",
        "namespace": meta.namespace,
        "name": meta.name,
        "uid": meta.uid,
        "resourceVersion": meta.resource_version,
        **({"fieldPath": f"spec.{field}{{{emit.container}}}"} if emit.container else {}),
    }
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": name, "namespace": meta.namespace},
        "involvedObject": involved,
        "type": "Warning" if emit.warning else "Normal",
        "reason": emit.reason,
        "message": emit.message[:1024],
        "source": {"component": "kubelet", "host": post.pod.spec.node_name},
        "reportingComponent": "kubelet",
        "reportingInstance": post.pod.spec.node_name,
        "firstTimestamp": format_time(post.at),
        "lastTimestamp": format_time(post.at),
        "count": 1,
    }
