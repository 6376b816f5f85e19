"""How a replica is reached: its origin, and the beginning of a request to it with our credentials."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Protocol

from flotilla_api.causes import Boundary
from flotilla_api.control import Problem
from flotilla_api.snapshot import ExternalTarget, RoutingSnapshot, Target

from .addresses import split_address, split_url
from .credentials import Credential, Missing, UpstreamCredentials
from .openai import Api, Injection, ParsedRequest, rewrite
from .registry import Replica, TargetState
from .upstream import Origin

_LOCAL_ONLY_LINE = b"x-flotilla-boundary: LocalOnly\r\n"
_PATHS: dict[Api, str] = {"chat": "/chat/completions", "completions": "/completions"}


@dataclass(frozen=True, slots=True)
class Reached:
    """Where a request goes and how it begins."""

    origin: Origin
    beginning: bytes
    """Request line, host and authorization."""
    relayed: bool = False
    """Whether it goes through the policy's gateway, which knows the target by its own name and does the rest."""

    def head(self, passed: bytes, size: int, boundary: Boundary) -> bytes:
        """A request's head. passed: the client's header lines that go along; size: bytes of the body."""
        strict = _LOCAL_ONLY_LINE if self.relayed and boundary == "LocalOnly" else b""
        return b"%b%b%bcontent-length: %d\r\n\r\n" % (self.beginning, strict, passed, size)

    def body(self, target: Target, request: ParsedRequest, injection: Injection) -> list[bytes]:
        """A request's body; what a provider needs besides is done where it is called.

        Raises:
            BadRequest: the body is nested too deeply.
        """
        external = target.external
        if external is None or self.relayed:
            return rewrite(request, model=target.name if self.relayed else target.model, injection=injection)
        return rewrite(request, model=target.model, injection=injection, edits=external.edits, strict=True)


def reach_all(origin: Origin, base: str, lines: bytes, *, relayed: bool = False) -> dict[Api, Reached]:
    """Every API below the base URL `base`. lines: headers that all requests begin with; each ends in CRLF."""
    url = split_url(base)
    return {
        api: Reached(origin, f"POST {url.path}{path} HTTP/1.1\r\nhost: {url.authority}\r\n".encode() + lines, relayed)
        for api, path in _PATHS.items()
    }


class Outside(Protocol):
    """How targets are reached that are not pods of ours."""

    def want(self, snapshot: RoutingSnapshot) -> None:
        """From now on this snapshot's external targets can be reached, and no others."""
        ...

    def refresh(self) -> None:
        """What it takes is read anew where its files have changed."""
        ...

    def problems(self) -> list[Problem]:
        """What keeps targets from being reached."""
        ...

    def of(self, name: str, external: ExternalTarget, api: Api) -> Reached | Missing:
        """How to reach Fallback `name` now."""
        ...

    def can_reach(self, name: str, external: ExternalTarget) -> bool:
        """Whether what a call to Fallback `name` needs is there."""
        ...


class Reach:
    """Origins of a snapshot's targets; those that stay outlive reloads, and so do their connections."""

    def __init__(self, outside: Outside) -> None:
        self._outside = outside
        self._served: dict[tuple[str, Api], Reached] = {}

    def keep(self, states: Collection[TargetState]) -> None:
        """Forget all replicas but those of these targets."""
        addresses = {replica.address for state in states for replica in state.everyone()}
        self._served = {key: reached for key, reached in self._served.items() if key[0] in addresses}

    def of(self, target: Target, replica: Replica, api: Api) -> Reached | Missing:
        """How to reach a replica of `target` now."""
        if target.external is not None:
            return self._outside.of(target.name, target.external, api)
        return self._served.get((replica.address, api)) or self._to_served(replica.address, api)

    def can_reach(self, target: Target) -> bool:
        """Whether what a call to `target` needs is there; a served model needs nothing."""
        external = target.external
        return external is None or self._outside.can_reach(target.name, external)

    def _to_served(self, address: str, api: Api) -> Reached:
        other = next((reached for (known, _), reached in self._served.items() if known == address), None)
        origin = other.origin if other else Origin(*split_address(address))
        beginning = f"POST /v1{_PATHS[api]} HTTP/1.1\r\nhost: {address}\r\n".encode()
        reached = self._served[address, api] = Reached(origin, beginning)
        return reached


@dataclass(frozen=True, slots=True)
class _Provider:
    credential: Credential
    reached: dict[Api, Reached]


class Providers:
    """External targets, each reached at its own url with its own credentials. Implements Outside."""

    def __init__(self, credentials: UpstreamCredentials) -> None:
        self._credentials = credentials
        self._known: dict[tuple[str, str], _Provider] = {}
        """By folder of credentials and url: what was made for one url is never used for another."""

    def want(self, snapshot: RoutingSnapshot) -> None:
        """From now on this snapshot's external targets can be reached, and no others."""
        self._credentials.want(snapshot.targets)
        externals = {_key(target.external) for target in snapshot.targets if target.external is not None}
        self._known = {key: known for key, known in self._known.items() if key in externals}

    def refresh(self) -> None:
        """Credentials are those of the files now."""
        self._credentials.refresh()

    def problems(self) -> list[Problem]:
        """One for every credential that cannot be used."""
        return self._credentials.problems()

    def of(self, name: str, external: ExternalTarget, api: Api) -> Reached | Missing:
        """How to reach Fallback `name` now."""
        credential = self._credentials.of(name, external)
        if isinstance(credential, Missing):
            return credential
        key = _key(external)
        known = self._known.get(key)
        if known is None or known.credential is not credential:
            known = self._known[key] = _make_provider(external.url, credential)
        return known.reached[api]

    def can_reach(self, name: str, external: ExternalTarget) -> bool:
        """Whether its credentials are there."""
        return isinstance(self._credentials.of(name, external), Credential)


def _key(external: ExternalTarget) -> tuple[str, str]:
    return external.credentials, external.url


def _make_provider(text: str, credential: Credential) -> _Provider:
    url = split_url(text)
    authorization = b"authorization: %b\r\n" % credential.authorization if credential.authorization else b""
    return _Provider(credential, reach_all(Origin(url.host, url.port, credential.tls), text, authorization))
