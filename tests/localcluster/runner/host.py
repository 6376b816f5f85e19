"""What the agents of all pods share: the API server, what is known of other objects, addresses, and settings."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from localcluster.config import RunnerConfig
from localcluster.runner.addresses import AddressPool
from localcluster.runner.api import Api, ApiError
from localcluster.runner.event_posts import EventPosts
from localcluster.runner.model import (
    ConfigMap,
    NamespacedName,
    Pod,
    Secret,
    Service,
    format_time,
    parse_time,
)
from localcluster.runner.probes import Prober
from localcluster.runner.sources import References, Sources, Token, TokenKey, UnresolvedError, namespaced
from localcluster.runner.turn import Settings
from localcluster.runner.watching import Watched

S = TypeVar("S", bound=msgspec.Struct)

MIN_TOKEN_SECONDS = 600  # the API server refuses less


@dataclass(frozen=True, slots=True)
class Known:
    """Local copies of the objects that pods refer to."""

    config_maps: Watched[ConfigMap]
    secrets: Watched[Secret]
    services: Watched[Service]


class Host:
    """The one machine behind all nodes of the cluster."""

    def __init__(self, config: RunnerConfig, api: Api, prober: Prober, known: Known) -> None:
        self.config, self.api, self.prober, self.known = config, api, prober, known
        self.settings = Settings(config.images, config.backoff_base_seconds)
        self.events = EventPosts(api)
        self.addresses = AddressPool(config.pod_cidr)
        self.base_env = base_env()
        self._allocatable = {node.name: node.allocatable for node in config.nodes}
        self._headless: Mapping[NamespacedName, tuple[str, ...]] = {}

    def pod_directory(self, pod: Pod) -> Path:
        """Where the pod's volumes, roots and logs are."""
        return pod_directory(self.config.state_dir, pod)

    async def gather(self, pod: Pod, pod_ip: str, references: References, tokens: Mapping[TokenKey, Token]) -> Sources:
        """All that the pod refers to, as it is now.

        Raises:
            ApiError: the API server refused to tell.
            Unreachable: it did not answer.
        """
        return Sources(
            pod=pod,
            pod_ip=pod_ip,
            host_ip=self.config.node_address,
            allocatable=self._allocatable.get(pod.spec.node_name, {}),
            config_maps=await self._look_up(pod, references.config_maps, self.known.config_maps, ConfigMap),
            secrets=await self._look_up(pod, references.secrets, self.known.secrets, Secret),
            claims=await self._claims(pod, references.claims),
            tokens=tokens,
            services=tuple(self.known.services),
            apiserver=(self.config.apiserver_host, self.config.apiserver_port),
        )

    async def _look_up(self, pod: Pod, names: Iterable[str], known: Watched[S], kind: type[S]) -> dict[str, S]:
        """Watches lag behind: what they do not know yet is asked for before it counts as missing."""
        found: dict[str, S] = {}
        plural = f"{kind.__name__.lower()}s"
        for name in names:
            current = known.get(namespaced(pod, name))
            if current is None:
                raw = await self.api.find(f"/api/v1/namespaces/{pod.metadata.namespace}/{plural}/{name}")
                current = None if raw is None else msgspec.convert(raw, kind)
            if current is not None:
                found[name] = current
        return found

    async def _claims(self, pod: Pod, names: Iterable[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in names:
            path = f"/api/v1/namespaces/{pod.metadata.namespace}/persistentvolumeclaims/{name}"
            claim = await self.api.find(path)
            if claim is None or claim.get("status", {}).get("phase") != "Bound":
                continue
            volume = await self.api.find(f"/api/v1/persistentvolumes/{claim['spec']['volumeName']}")
            directory = _volume_directory(volume or {})
            if directory:
                found[name] = directory
        return found

    async def request_token(self, pod: Pod, key: TokenKey) -> Token:
        """A new token of the pod's service account, which dies with the pod.

        Raises:
            UnresolvedError: the API server would not give one.
            Unreachable: it did not answer.
        """
        meta, account = pod.metadata, pod.spec.service_account_name
        path = f"/api/v1/namespaces/{meta.namespace}/serviceaccounts/{account}/token"
        reference = {"apiVersion": "v1", "kind": "Pod", "name": meta.name, "uid": meta.uid}
        spec: dict[str, Any] = {
            "audiences": [key.audience] if key.audience else [],
            "expirationSeconds": max(key.expiration_seconds, MIN_TOKEN_SECONDS),
            "boundObjectRef": reference,
        }
        request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec}
        try:
            status = (await self.api.create(path, request))["status"]
        except ApiError as error:
            raise UnresolvedError(f"failed to fetch token: {error}") from error
        return Token(status["token"], time.time(), parse_time(status["expirationTimestamp"]))

    def set_headless(self, headless: Mapping[NamespacedName, tuple[str, ...]]) -> None:
        """The ready pods behind Services without an address of their own."""
        self._headless = headless

    @property
    def headless(self) -> Mapping[NamespacedName, tuple[str, ...]]:
        """The ready pods behind Services without an address of their own."""
        return self._headless


def _volume_directory(volume: Mapping[str, Any]) -> str | None:
    spec: Mapping[str, Any] = volume.get("spec", {})
    source: Mapping[str, str] = spec.get("hostPath") or spec.get("local") or {}
    return source.get("path")


def pod_directory(state_dir: Path, pod: Pod) -> Path:
    """Where the runner keeps what belongs to one pod."""
    meta = pod.metadata
    return state_dir / "pods" / f"{meta.namespace}_{meta.name}_{meta.uid}"


def base_env() -> dict[str, str]:
    """What every image sets: programs of this Python's environment come first, then the system's."""
    programs = Path(sys.executable).parent
    system = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    return {"PATH": f"{programs}:{system}", "HOME": os.environ.get("HOME", "/"), "LANG": "C.UTF-8"}


async def wait_any(event: asyncio.Event, timeout_seconds: float | None) -> None:
    """Return when the event is set or the time is over."""
    try:
        async with asyncio.timeout(timeout_seconds):
            await event.wait()
    except TimeoutError:
        return


def now_text() -> str:
    """The present time as the API writes it."""
    return format_time(time.time())
