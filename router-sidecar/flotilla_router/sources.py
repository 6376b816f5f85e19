"""Where artifacts come from, other than the control API: files, HTTP servers and OCI registries.

Everything here blocks, and runs in a thread of its own. Whatever it brings is bounded, in bytes and in time.
"""

from __future__ import annotations

import hashlib
import json
import re
import stat
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast
from urllib.parse import urlencode, urlsplit

from flotilla_api.artifact import FILES, MAX_ARTIFACT_BYTES
from flotilla_api.snapshot import ArtifactSource

MAX_FETCHED_BYTES = MAX_ARTIFACT_BYTES + 256 * 1024
"""An artifact and the blocks of its tar."""
FETCH_SECONDS = 120.0
"""For everything that one artifact takes."""
SILENCE_SECONDS = 15.0
"""Longest wait for the next bytes."""
_MAX_ANSWER_BYTES = 1024 * 1024
"""Of a registry's manifest or token."""
_PART_BYTES = 256 * 1024
_TITLE = "org.opencontainers.image.title"
_MANIFEST_TYPES = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_CHALLENGE = re.compile(r'(\w+)="([^"]*)"')

Fetched = bytes | Mapping[str, bytes]
"""A tar, or files by their names."""


class SourceError(Exception):
    """An artifact could not be brought; the message says from where, and why."""


class _Unauthorized(Exception):  # noqa: N818 - it is answered, not raised further
    def __init__(self, challenge: str) -> None:
        super().__init__(challenge)
        self.challenge = challenge


def bring(source: ArtifactSource) -> Fetched:
    """The bytes of an artifact that is in a file, at a URL or in a registry; they may be anything.

    Raises:
        SourceError: they cannot be had.
    """
    until = time.monotonic() + FETCH_SECONDS
    if source.file is not None:
        return _read_file(Path(source.file))
    if source.url is not None:
        return _get(source.url, until, MAX_FETCHED_BYTES)
    assert source.oci is not None
    return _Registry(source.oci, until).pull()


def _read_file(path: Path) -> bytes:
    try:
        found = path.stat()
        if not stat.S_ISREG(found.st_mode):
            raise SourceError(f"{path} is no file")
        if found.st_size > MAX_FETCHED_BYTES:
            raise SourceError(f"{path} is larger than 64 MiB")
        with path.open("rb") as file:
            return file.read(MAX_FETCHED_BYTES)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror or error}") from error


def _make_opener() -> urllib.request.OpenerDirector:
    """Opens http and https, and nothing else, also where a server redirects to it."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    return opener


_opener = _make_opener()


def _get(url: str, until: float, limit: int, *, accept: str = "*/*", token: str = "") -> bytes:
    """The body at a URL. The token goes to its server only, also where that redirects to another."""
    request = urllib.request.Request(url, headers={"accept": accept, "user-agent": "flotilla-router"})  # noqa: S310
    if token:
        request.add_unredirected_header("authorization", f"Bearer {token}")
    try:
        with cast("HTTPResponse", _opener.open(request, timeout=SILENCE_SECONDS)) as response:
            return _read_all(response, url, until, limit)
    except urllib.error.HTTPError as error:
        with error:
            if error.code == 401 and not token:
                raise _Unauthorized(error.headers.get("www-authenticate", "")) from error
            raise SourceError(f"{_shown(url)} answers with status {error.code}") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise SourceError(f"{_shown(url)} does not answer: {reason}") from error


def _read_all(response: HTTPResponse, url: str, until: float, limit: int) -> bytes:
    data = bytearray()
    while part := response.read1(_PART_BYTES):
        data += part
        if len(data) > limit:
            raise SourceError(f"{_shown(url)} is larger than {limit} bytes")
        if time.monotonic() > until:
            raise SourceError(f"{_shown(url)} takes longer than {FETCH_SECONDS:.0f} s")
    if response.length:
        raise SourceError(f"{_shown(url)} ends {response.length} bytes too early")
    return bytes(data)


def _shown(url: str) -> str:
    """Without what may be a secret: user, password and query."""
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


class _Registry:
    """One repository of an OCI registry, read without an account.

    Source: OCI distribution specification 1.1, "Pulling manifests" and "Pulling blobs"; the token protocol is Docker's.
    """

    def __init__(self, reference: str, until: float) -> None:
        """reference: HOST/REPOSITORY@sha256:DIGEST; plain HTTP on a loopback address only, as with other clients."""
        name, _, self._digest = reference.partition("@")
        host, _, self._repository = name.partition("/")
        plain = host.partition(":")[0] == "localhost" or host.startswith("127.")
        self._base = f"{'http' if plain else 'https'}://{host}/v2/{self._repository}"
        self._until = until
        self._token = ""

    def pull(self) -> Fetched:
        """The one layer that is a tar, or the layers that are an artifact's files."""
        manifest = self._read(f"manifests/{self._digest}", self._digest, _MAX_ANSWER_BYTES)
        layers = _layers_in(manifest, self._base)
        if len(layers) == 1:
            return self._blob(*layers[0][1:])
        return {title: self._blob(digest, size) for title, digest, size in layers if title in FILES}

    def _blob(self, digest: str, size: int) -> bytes:
        if size > MAX_FETCHED_BYTES:
            raise SourceError(f"{self._base}: layer {digest} is larger than 64 MiB")
        return self._read(f"blobs/{digest}", digest, size)

    def _read(self, path: str, digest: str, limit: int) -> bytes:
        url = f"{self._base}/{path}"
        try:
            data = _get(url, self._until, limit, accept=_MANIFEST_TYPES, token=self._token)
        except _Unauthorized as error:
            self._token = self._ask_for_token(error.challenge)
            data = _get(url, self._until, limit, accept=_MANIFEST_TYPES, token=self._token)
        if "sha256:" + hashlib.sha256(data).hexdigest() != digest:
            raise SourceError(f"{url} is not what its digest names")
        return data

    def _ask_for_token(self, challenge: str) -> str:
        terms = dict(_CHALLENGE.findall(challenge)) if challenge.lower().startswith("bearer ") else {}
        realm = terms.pop("realm", "")
        if not realm.startswith("https://" if self._base.startswith("https:") else "http"):
            raise SourceError(f"{self._base} asks for credentials, and artifacts are read without any")
        terms.setdefault("scope", f"repository:{self._repository}:pull")
        query = urlencode({key: terms[key] for key in ("service", "scope") if key in terms})
        try:
            answer = _get(f"{realm}?{query}", self._until, _MAX_ANSWER_BYTES)
            fields = cast("dict[str, object]", json.loads(answer))
            token = fields.get("token") or fields.get("access_token")
        except (_Unauthorized, ValueError, AttributeError) as error:
            raise SourceError(f"{self._base} lets nobody read without credentials") from error
        if not isinstance(token, str) or not token.isprintable():
            raise SourceError(f"{_shown(realm)} gave no token")
        return token


def _layers_in(manifest: bytes, base: str) -> list[tuple[str, str, int]]:
    """Title, digest and size of each layer."""
    try:
        layers = cast("list[dict[str, object]]", cast("dict[str, object]", json.loads(manifest))["layers"])
        titles = [cast("dict[str, object]", each.get("annotations") or {}).get(_TITLE, "") for each in layers]
        found = [(str(title), str(each["digest"]), each["size"]) for title, each in zip(titles, layers, strict=True)]
        kept = [(title, digest, size) for title, digest, size in found if isinstance(size, int) and size >= 0]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise SourceError(f"{base}: the manifest is not that of an OCI image with layers") from error
    if not kept:
        raise SourceError(f"{base}: the manifest has no layer")
    return kept
