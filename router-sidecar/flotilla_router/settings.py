"""What a router is told by its environment: every variable starts with FLOTILLA_."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal, cast, get_args

from flotilla_api import names

MAX_HEADER_BYTES = 64 * 1024
"""Largest request line and headers together; more is a 431."""
MAX_HEADERS = 100
"""Most header lines of a request; more is a 431."""
MAX_URL_BYTES = 8 * 1024
"""Longest request target; more is a 414."""
MAX_ANSWER_BYTES = 64 * 1024 * 1024
"""Largest answer that is buffered whole; more is an UpstreamError."""


Port = int
Role = Literal["Gateway", "Sidecar"]


class SettingsError(ValueError):
    """The environment does not say how to run; the message names the variable and what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterSettings:
    """Settings of one router process; each field is FLOTILLA_ and its name in capitals."""

    namespace: str
    """Namespace of the policy. Required."""
    policy: str
    """Name of the RoutingPolicy that this router serves. Required."""
    role: Role = "Gateway"
    """Gateway: clients show API keys, providers' credentials are mounted. Sidecar: only its own pod reaches the data
    listener, so nobody shows a key, and calls to external fallbacks go through the gateway. Default: Gateway."""
    data_host: str = "0.0.0.0"  # noqa: S104 - a pod listens on all of its own addresses
    """Address of the listener for clients. Default: all IPv4 addresses."""
    data_port: Port = names.GATEWAY_PORT
    """Port of the listener for clients, also with TLS. Default: 8080."""
    admin_host: str = "0.0.0.0"  # noqa: S104
    """Address of `/healthz /readyz /metrics` without keys. Default: all IPv4 addresses."""
    admin_port: Port = names.ROUTER_ADMIN_PORT
    """Port of `/healthz /readyz /metrics` without keys. Default: 9090."""
    control_url: str | None = None
    """Base URL of the control API, such as https://flotilla-control.flotilla-system.svc:9443. Default: none, the
    snapshot's file is all there is."""
    snapshot_dir: Path = Path(names.SNAPSHOT_DIR)
    """Folder of snapshot.json and control-ca.crt."""
    credentials_dir: Path = Path(names.CREDENTIALS_DIR)
    """Folder with one folder for each external fallback."""
    api_keys_dir: Path = Path(names.API_KEYS_DIR)
    """Folder in which each file holds one client's API key."""
    tls_dir: Path = Path(names.GATEWAY_TLS_DIR)
    """Folder of tls.crt and tls.key; if it is there at the start, the data listener speaks TLS."""
    control_token_dir: Path = Path(names.CONTROL_TOKEN_DIR)
    """Folder of the token that is shown to the control API."""
    gateway_token_dir: Path = Path(names.GATEWAY_TOKEN_DIR)
    """Folder of the token that a sidecar shows to its policy's gateway."""
    gateway_ca_dir: Path = Path(names.GATEWAY_CA_DIR)
    """Folder of the ca.crt by which a sidecar knows its gateway; without it the system's authorities are used."""
    request_log_dir: Path = Path(names.REQUEST_LOG_DIR)
    """Folder in which a gateway keeps what its policy's requestLog asks for."""
    drain_seconds: float = 30.0
    """After SIGTERM and settling: longest wait for requests under way, before they end in an error. Default: 30."""
    settle_seconds: float = 3.0
    """After SIGTERM: how long connections are still accepted, until clients know that this pod leaves. Default: 3."""
    first_byte_seconds: float = 10.0
    """From a new connection to the first byte of its first request, the TLS handshake as long again; then it is closed.
    Default: 10."""
    head_seconds: float = 10.0
    """From the first byte of a request to the end of its headers; longer is a 408. Default: 10."""
    body_seconds: float = 60.0
    """From a request's headers to the end of its body; longer is a 408. Default: 60."""
    keep_alive_seconds: float = 75.0
    """How long a client's connection may stay without another request. Default: 75."""
    max_connections: int = 10_000
    """Most open connections of each listener; more get a 503 and are closed. An idle one takes up to 5 KB of
    memory, with TLS 50 KB. Default: 10000."""

    @staticmethod
    def from_environment(environment: Mapping[str, str]) -> RouterSettings:
        """The settings that `environment` holds.

        Raises:
            SettingsError: a required variable is missing, or a value is not what it should be.
        """
        given: dict[str, Any] = {}
        for field in fields(RouterSettings):
            text = environment.get(f"FLOTILLA_{field.name.upper()}", "")
            if text:
                given[field.name] = _READERS[str(field.type)](f"FLOTILLA_{field.name.upper()}", text)
        for name in ("namespace", "policy"):
            if name not in given:
                raise SettingsError(f"FLOTILLA_{name.upper()} is not set: a router serves one policy of one namespace")
        return RouterSettings(**given)


def _text(variable: str, text: str) -> str:  # noqa: ARG001 - readers are alike
    return text


def _folder(variable: str, text: str) -> Path:  # noqa: ARG001
    return Path(text)


def _role(variable: str, text: str) -> Role:
    if text not in get_args(Role):
        raise SettingsError(f"{variable} is {text!r}: it must be {' or '.join(get_args(Role))}")
    return cast("Role", text)


def _url(variable: str, text: str) -> str:
    if not text.startswith(("https://", "http://")):
        raise SettingsError(f"{variable} is {text!r}: it must start with https:// or http://")
    return text.rstrip("/")


def _port(variable: str, text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise SettingsError(f"{variable} is {text!r}: it must be a port from 0 to 65535")
    return int(text)


def _count(variable: str, text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 10**9:
        raise SettingsError(f"{variable} is {text!r}: it must be a whole number, 1 or more")
    return int(text)


def _seconds(variable: str, text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0 <= seconds < 1e6:
        raise SettingsError(f"{variable} is {text!r}: it must be a number of seconds, 0 or more")
    return seconds


_READERS: dict[str, Callable[[str, str], object]] = {
    "str": _text,
    "str | None": _url,
    "Role": _role,
    "Port": _port,
    "int": _count,
    "float": _seconds,
    "Path": _folder,
}
"""By a field's annotation: the only optional text is a URL, and numbers with a point are seconds."""
