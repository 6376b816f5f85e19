"""Secrets from mounted files: clients' API keys, providers' credentials, the gateway's certificate.

Kubernetes replaces a mounted Secret's files as a whole, so a change shows in the files' times, sizes or inodes;
`refresh` is cheap and called every few seconds. No secret is ever logged or put into a message.
"""

from __future__ import annotations

import hashlib
import hmac
import ssl
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from flotilla_api import names
from flotilla_api.control import Problem, ProblemKind
from flotilla_api.snapshot import ExternalTarget, Target

from .addresses import split_url

Stamp = tuple[tuple[str, int, int, int], ...]
"""Name, time, size and inode of files."""


def stamp_of(paths: Iterable[Path]) -> Stamp:
    """What changes when any of the files does; files that are not there are left out."""
    return tuple(_stamps(paths))


def _stamps(paths: Iterable[Path]) -> Iterable[tuple[str, int, int, int]]:
    for path in paths:
        try:
            found = path.stat()
        except OSError:
            continue
        yield path.name, found.st_mtime_ns, found.st_size, found.st_ino


def bearer_token(authorization: bytes) -> bytes:
    """The token of an `Authorization: Bearer` header; empty if it is another scheme."""
    if authorization.startswith(b"Bearer "):
        return authorization[7:].strip()
    scheme, _, token = authorization.strip().partition(b" ")
    return token.strip() if scheme.lower() == b"bearer" else b""


class ApiKeys:
    """Clients' keys: every file of the folder is a name and its key."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stamp: Stamp = ()
        self._digests: dict[str, bytes] = {}
        self.refresh()

    def refresh(self) -> None:
        """Keys are those of the files now."""
        files = self._files()
        stamp = stamp_of(files)
        if stamp != self._stamp:
            self._digests = dict(self._read(files))
            self._stamp = stamp

    @property
    def any(self) -> bool:
        """Whether there is a key at all."""
        return bool(self._digests)

    def client_of(self, key: bytes) -> str | None:
        """The name of a key's holder; None if no one holds it. Takes the same time for every wrong key."""
        digest = hashlib.sha256(key).digest()
        found = None
        for name, expected in self._digests.items():
            if hmac.compare_digest(digest, expected):
                found = name
        return found

    def _files(self) -> list[Path]:
        try:
            return sorted(path for path in self._folder.iterdir() if not path.name.startswith("."))
        except OSError:
            return []

    def _read(self, files: list[Path]) -> Iterable[tuple[str, bytes]]:
        for path in files:
            try:
                key = path.read_bytes().strip()
            except OSError:
                continue
            if key:
                yield path.name, hashlib.sha256(key).digest()


def read_secret(path: Path) -> bytes | None:
    """What a file holds for an Authorization header; empty: that is not one line of ASCII; None: it cannot be read."""
    try:
        secret = path.read_bytes().strip()
    except OSError:
        return None
    return secret if secret.isascii() and b"\n" not in secret and b"\r" not in secret else b""


@dataclass(frozen=True, slots=True)
class Credential:
    """What a call to an external fallback needs, as it is now."""

    authorization: bytes | None
    """Value of the Authorization header; None: the fallback has no credentials."""
    tls: ssl.SSLContext | None
    """None: plain HTTP, because the url says so."""


@dataclass(frozen=True, slots=True)
class Missing:
    """A credential that cannot be used, and why."""

    problem: str


_Key = tuple[str, str, bool, bool]


def _key(external: ExternalTarget) -> _Key:
    """What a credential is bound to, its folder first."""
    return external.credentials, external.url, external.hasCredentials, external.hasCa


class UpstreamCredentials:
    """Credentials of the snapshot's external fallbacks."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._wanted: dict[_Key, Target] = {}
        self._stamps: dict[_Key, Stamp] = {}
        self._found: dict[_Key, Credential | Missing] = {}
        self._system_tls: ssl.SSLContext | None = None

    def want(self, targets: Iterable[Target]) -> None:
        """From now on the credentials of these targets are known, and no others."""
        self._wanted = {_key(each.external): each for each in targets if each.external is not None}
        self._stamps = {key: stamp for key, stamp in self._stamps.items() if key in self._wanted}
        self._found = {key: found for key, found in self._found.items() if key in self._wanted}
        self.refresh()

    def refresh(self) -> None:
        """Credentials are those of the files now."""
        for key, target in self._wanted.items():
            folder = self._folder / key[0]
            stamp = stamp_of((folder / names.CREDENTIAL_FILE, folder / names.CA_FILE))
            if self._stamps.get(key) != stamp:
                self._stamps[key] = stamp
                self._found[key] = self._read(target, folder)

    def of(self, name: str, external: ExternalTarget) -> Credential | Missing:
        """What is known of the credential of Fallback `name`."""
        return self._found.get(_key(external)) or Missing(f"Fallback {name}: its credentials are no longer kept")

    def problems(self) -> list[Problem]:
        """One for every credential that cannot be used."""
        found = ((target.name, self._found.get(key)) for key, target in self._wanted.items())
        return [
            Problem(ProblemKind.CREDENTIAL, name, each.problem) for name, each in found if isinstance(each, Missing)
        ]

    def _read(self, target: Target, folder: Path) -> Credential | Missing:
        external = target.external
        assert external is not None
        authorization = None
        if external.hasCredentials:
            key = read_secret(folder / names.CREDENTIAL_FILE)
            if key is None:
                return Missing(f"Fallback {target.name}: its API key is not mounted")
            if not key:
                return Missing(f"Fallback {target.name}: its API key is empty or not one line of ASCII")
            authorization = b"Bearer " + key
        try:
            return Credential(authorization, self._context(external, folder))
        except (OSError, ValueError):
            return Missing(f"Fallback {target.name}: its CA certificate is missing or not in PEM format")

    def _context(self, external: ExternalTarget, folder: Path) -> ssl.SSLContext | None:
        if not split_url(external.url).secure:
            return None
        if external.hasCa:
            return client_context(folder / names.CA_FILE)
        if self._system_tls is None:
            self._system_tls = client_context(None)
        return self._system_tls


def client_context(ca: Path | None) -> ssl.SSLContext:
    """A context that verifies certificates and names against `ca`, or against the system's authorities.

    Raises:
        OSError: the file is missing or holds no certificate.
    """
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class ServerCertificate:
    """The gateway's certificate, renewed live."""

    def __init__(self, folder: Path) -> None:
        """Read the certificate if the folder is there: whoever mounts one never gets plain HTTP.

        Raises:
            OSError: the folder holds no usable certificate.
        """
        self._files = (folder / "tls.crt", folder / "tls.key")
        self._stamp: Stamp = ()
        self.context: ssl.SSLContext | None = None
        """What the data listener uses; None: there was no folder at the start."""
        if folder.is_dir():
            self.context = _server_context(self._files)
            self._stamp = stamp_of(self._files)

    def refresh(self) -> str | None:
        """New connections see the certificate of the files now; the reason if it is bad and the old one stays."""
        stamp = stamp_of(self._files)
        if self.context is None or stamp == self._stamp:
            return None
        self._stamp = stamp
        try:
            _server_context(self._files)
            self.context.load_cert_chain(*self._files)
        except (OSError, ValueError) as error:
            return f"the gateway's new certificate cannot be used, the old one stays: {error}"
        return None


def _server_context(files: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(["http/1.1"])
    context.load_cert_chain(*files)
    return context
