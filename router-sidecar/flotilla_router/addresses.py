"""Where model servers are: one parser of `host:port` and base URLs, for checking a snapshot and for using it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv6Address
from urllib.parse import urlsplit

_LABEL = "[A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_is_host = re.compile(rf"{_LABEL}(\.{_LABEL})*").fullmatch
_is_port = re.compile("[1-9][0-9]{0,4}").fullmatch
_is_path = re.compile("(/[!-~]*)?").fullmatch
"""Printable ASCII without spaces: it becomes part of a request line."""


@dataclass(frozen=True, slots=True)
class BaseUrl:
    """An API's address."""

    secure: bool
    """Whether it is reached over TLS: by the scheme alone."""
    host: str
    """Without brackets."""
    port: int
    authority: str
    """What the Host header says."""
    path: str
    """Without a slash at the end."""


def split_address(address: str) -> tuple[str, int]:
    """Host without brackets and port of `host:port`; an IPv6 host is in brackets.

    Raises:
        ValueError: it is not one; the message says what.
    """
    host, _, port = address.rpartition(":")
    if not _is_port(port) or int(port) > 65535:
        raise ValueError(f"{address!r} is not host:port with a port from 1 to 65535")
    if host.startswith("[") and host.endswith("]"):
        return str(IPv6Address(host[1:-1])), int(port)
    if not _is_host(host):
        raise ValueError(f"{address!r} has a host that cannot be one")
    return host, int(port)


def split_url(text: str) -> BaseUrl:
    """The parts of an http or https URL of a host, with an optional port and path and nothing else.

    Raises:
        ValueError: it is not one; the message says what.
    """
    url = urlsplit(text)
    if url.scheme not in ("http", "https"):
        raise ValueError(f"{text!r} is not http or https")
    if f"{url.scheme}://{url.netloc}{url.path}" != text or not _is_path(url.path):
        raise ValueError(f"{text!r} has more than a host, a port and a path, or a character that is not allowed")
    secure = url.scheme == "https"
    has_port = _is_port(url.netloc.rpartition(":")[2])
    host, port = split_address(url.netloc if has_port else f"{url.netloc}:{443 if secure else 80}")
    return BaseUrl(secure, host, port, url.netloc, url.path.rstrip("/"))
