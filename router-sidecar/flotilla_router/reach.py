"""How a replica is reached: its origin, and the beginning of a request to it with our credentials."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from flotilla_api.snapshot import ExternalTarget, Target

from .credentials import Credential, Missing, UpstreamCredentials
from .openai import Api
from .registry import Replica
from .upstream import Origin, split_address

_PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a request goes and how it begins."""

    origin: Origin
    beginning: bytes
    """Request line, host and authorization."""


@dataclass(frozen=True, slots=True)
class _External:
    url: str
    credential: Credential
    origin: Origin
    reached: dict[Api, Reached]


class Reach:
    """Origins by address, so that connections outlive reloads."""

    def __init__(self, credentials: UpstreamCredentials) -> None:
        self._credentials = credentials
        self._served: dict[tuple[str, Api], Reached] = {}
        self._external: dict[str, _External] = {}

    def keep(self, addresses: set[str]) -> None:
        """Forget served replicas at other addresses."""
        self._served = {key: reached for key, reached in self._served.items() if key[0] in addresses}

    def of(self, target: Target, replica: Replica, api: Api) -> Reached | Missing:
        """How to reach a replica of `target` now."""
        if target.external is not None:
            return self._to_external(target.name, target.external, api)
        return self._served.get((replica.address, api)) or self._to_served(replica.address, api)

    def _to_served(self, address: str, api: Api) -> Reached:
        other = next((reached for (known, _), reached in self._served.items() if known == address), None)
        origin = other.origin if other else Origin(*split_address(address))
        beginning = f"POST /v1{_PATHS[api]} HTTP/1.1\r\nhost: {address}\r\n".encode()
        reached = self._served[address, api] = Reached(origin, beginning)
        return reached

    def has_credentials(self, name: str) -> bool:
        """Whether the files of an external fallback are there."""
        return isinstance(self._credentials.of(name), Credential)

    def _to_external(self, name: str, external: ExternalTarget, api: Api) -> Reached | Missing:
        credential = self._credentials.of(name)
        if isinstance(credential, Missing):
            return credential
        known = self._external.get(name)
        if known is None or known.credential is not credential or known.url != external.url:
            known = self._external[name] = _make_external(external.url, credential)
        return known.reached[api]


def _make_external(text: str, credential: Credential) -> _External:
    url = urlsplit(text)
    origin = Origin(url.hostname or "", url.port or (443 if credential.tls else 80), credential.tls)
    authorization = b"authorization: %b\r\n" % credential.authorization if credential.authorization else b""
    host = url.netloc.rpartition("@")[2]
    reached: dict[Api, Reached] = {}
    for api, path in _PATHS.items():
        beginning = f"POST {url.path.rstrip('/')}{path} HTTP/1.1\r\nhost: {host}\r\n".encode() + authorization
        reached[api] = Reached(origin, beginning)
    return _External(text, credential, origin, reached)
