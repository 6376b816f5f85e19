"""How a replica is reached: its origin, and the beginning of a request to it with our credentials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from flotilla_api.snapshot import ExternalTarget, Target

from .addresses import split_address, split_url
from .credentials import Credential, Missing, UpstreamCredentials
from .openai import Api
from .registry import Replica, TargetState
from .upstream import Origin

_PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a request goes and how it begins."""

    origin: Origin
    beginning: bytes
    """Request line, host and authorization."""


@dataclass(frozen=True, slots=True)
class _External:
    credential: Credential
    reached: dict[Api, Reached]


class Reach:
    """Origins of a snapshot's targets; those that stay outlive reloads, and so do their connections."""

    def __init__(self, credentials: UpstreamCredentials) -> None:
        self._credentials = credentials
        self._served: dict[tuple[str, Api], Reached] = {}
        self._external: dict[tuple[str, str], _External] = {}
        """By folder of credentials and url: what was made for one url is never used for another."""

    def keep(self, states: Collection[TargetState]) -> None:
        """Forget all but these targets and replicas."""
        addresses = {replica.address for state in states for replica in state.everyone()}
        externals = {_key(state.target.external) for state in states if state.target.external is not None}
        self._served = {key: reached for key, reached in self._served.items() if key[0] in addresses}
        self._external = {key: known for key, known in self._external.items() if key in externals}

    def of(self, target: Target, replica: Replica, api: Api) -> Reached | Missing:
        """How to reach a replica of `target` now."""
        if target.external is not None:
            return self._to_external(target.name, target.external, api)
        return self._served.get((replica.address, api)) or self._to_served(replica.address, api)

    def has_credentials(self, target: Target) -> bool:
        """Whether what a call to `target` needs is there; a served model needs nothing."""
        external = target.external
        return external is None or isinstance(self._credentials.of(target.name, external), Credential)

    def _to_served(self, address: str, api: Api) -> Reached:
        other = next((reached for (known, _), reached in self._served.items() if known == address), None)
        origin = other.origin if other else Origin(*split_address(address))
        beginning = f"POST /v1{_PATHS[api]} HTTP/1.1\r\nhost: {address}\r\n".encode()
        reached = self._served[address, api] = Reached(origin, beginning)
        return reached

    def _to_external(self, name: str, external: ExternalTarget, api: Api) -> Reached | Missing:
        credential = self._credentials.of(name, external)
        if isinstance(credential, Missing):
            return credential
        key = _key(external)
        known = self._external.get(key)
        if known is None or known.credential is not credential:
            known = self._external[key] = _make_external(external.url, credential)
        return known.reached[api]


def _key(external: ExternalTarget) -> tuple[str, str]:
    return external.credentials, external.url


def _make_external(text: str, credential: Credential) -> _External:
    url = split_url(text)
    origin = Origin(url.host, url.port, credential.tls)
    authorization = b"authorization: %b\r\n" % credential.authorization if credential.authorization else b""
    reached: dict[Api, Reached] = {}
    for api, path in _PATHS.items():
        beginning = f"POST {url.path}{path} HTTP/1.1\r\nhost: {url.authority}\r\n".encode() + authorization
        reached[api] = Reached(origin, beginning)
    return _External(credential, reached)
