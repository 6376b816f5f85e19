"""Calls to the control API over our own transport: polls for snapshots, artifacts, reviews of tokens, and wakes."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from flotilla_api import names
from flotilla_api.artifact import ArtifactFault
from flotilla_api.control import ARTIFACT_PATH, PUBLISHED_HEADER, REVIEW_PATH, TOKEN_REFUSED, WAKE_PATH

from .control import Answer, ControlError, Poll, read_token
from .credentials import client_context, stamp_of
from .errors import ArtifactError
from .fetch import fetch
from .heads import ResponseHead
from .settings import RouterSettings
from .upstream import Origin, Upstreams
from .verdicts import Admitted, Refused
from .wakes import Wake

MAX_SNAPSHOT_BYTES = 16 * 1024 * 1024
_MAX_REVIEW_BYTES = _MAX_WAKE_BYTES = 64 * 1024
_MAX_ARTIFACT_BYTES = 2 * 1024 * 1024
"""A ConfigMap has 1 MiB at most."""
ARTIFACT_SECONDS = 30.0
"""Longest wait for an artifact."""


class ControlClient:
    """The control API's one client: connections outlive calls. Implements control.Fetch."""

    def __init__(self, upstreams: Upstreams) -> None:
        self._upstreams = upstreams
        self._key: object = None
        self._origin: Origin | None = None

    async def __call__(self, poll: Poll) -> Answer:
        """The answer to one poll.

        Raises:
            OSError: there is no answer, or the authority's certificate cannot be read.
            TimeoutError: it took longer than `poll.seconds`.
        """
        head, body = await self.send("GET", poll, b"", limit=MAX_SNAPSHOT_BYTES)
        published = head.value_of(PUBLISHED_HEADER.encode()).decode("latin-1")
        return Answer(head.status, body, published)

    async def send(self, method: str, poll: Poll, body: bytes, *, limit: int) -> tuple[ResponseHead, bytes]:
        """The response to one request, whole; what it raises is what `__call__` raises."""
        url = urlsplit(poll.url)
        target = f"{url.path}?{url.query}" if url.query else url.path
        lines = f"{method} {target} HTTP/1.1\r\nhost: {url.netloc}\r\nauthorization: Bearer {poll.token}\r\n"
        lines += "accept: application/json\r\n"
        if body:
            lines += "content-type: application/json\r\n"
        if method == "POST":
            lines += f"content-length: {len(body)}\r\n"
        origin = self._origin_of(url.scheme, url.hostname or "", url.port, poll.ca)
        request = lines.encode() + b"\r\n" + body
        return await fetch(self._upstreams, origin, request, seconds=poll.seconds, limit=limit)

    def _origin_of(self, scheme: str, host: str, port: int | None, ca: Path) -> Origin:
        """The same origin, and its connection, for as long as the authority stays the same."""
        key = (scheme, host, port, stamp_of((ca,)))
        if self._origin is None or key != self._key:
            tls = client_context(ca) if scheme == "https" else None
            self._origin = Origin(host, port or (443 if tls else 80), tls)
            self._key = key
        return self._origin


class TokenReviewer:
    """Asks the control API whose a token is. Implements reviews.Ask."""

    def __init__(self, client: ControlClient, base: str, settings: RouterSettings) -> None:
        path = REVIEW_PATH.format(namespace=quote(settings.namespace, safe=""), policy=quote(settings.policy, safe=""))
        self._client = client
        self._url = base + path
        self._token = settings.control_token_dir / names.CONTROL_TOKEN_FILE
        self._ca = settings.snapshot_dir / names.CONTROL_CA_KEY

    async def __call__(self, token: str, seconds: float) -> Admitted | Refused:
        """The verdict.

        Raises:
            ControlError: the answer is none.
            OSError: there is no answer, or the authority's certificate cannot be read.
            TimeoutError: it took longer than `seconds`.
        """
        poll = Poll(self._url, read_token(self._token), self._ca, seconds)
        head, body = await self._client.send(
            "POST", poll, msgspec.json.encode({"token": token}), limit=_MAX_REVIEW_BYTES
        )
        return _verdict_in(head.status, body)


class Waker:
    """Has experts of the policy woken. Implements wakes.Ask."""

    def __init__(self, client: ControlClient, settings: RouterSettings) -> None:
        self._client = client
        self._settings = settings
        self._token = settings.control_token_dir / names.CONTROL_TOKEN_FILE
        self._ca = settings.snapshot_dir / names.CONTROL_CA_KEY

    async def __call__(self, wake: Wake, seconds: float) -> None:
        """The operator knows that the expert is asked for.

        Raises:
            ControlError: it does not take the wake, or there is no control API.
            OSError: there is no answer, or the authority's certificate cannot be read.
            TimeoutError: it took longer than `seconds`.
        """
        base, settings = self._settings.control_url, self._settings
        if base is None:
            raise ControlError("this router has no control API (FLOTILLA_CONTROL_URL) that could wake an expert")
        path = WAKE_PATH.format(namespace=quote(settings.namespace, safe=""), expert=quote(wake.expert, safe=""))
        query = {"policy": settings.policy} | ({"waits": "1"} if wake.waits else {})
        url = f"{base}{path}?{urlencode(query)}"
        poll = Poll(url, read_token(self._token), self._ca, seconds)
        head, _ = await self._client.send("POST", poll, b"", limit=_MAX_WAKE_BYTES)
        if head.status != 202:
            raise ControlError(f"the control API answered with status {head.status}")


class ArtifactFetcher:
    """Gets artifacts that are in ConfigMaps. Implements artifacts.AskControl."""

    def __init__(self, client: ControlClient, settings: RouterSettings) -> None:
        self._client = client
        self._settings = settings
        self._token = settings.control_token_dir / names.CONTROL_TOKEN_FILE
        self._ca = settings.snapshot_dir / names.CONTROL_CA_KEY

    async def __call__(self, digest: str) -> bytes:
        """The tar of the artifact with this digest.

        Raises:
            ControlError: the control API does not have it, or there is no control API.
            ArtifactError: the ConfigMap holds another one.
            OSError: there is no answer, or the authority's certificate cannot be read.
            TimeoutError: it took longer than ARTIFACT_SECONDS.
        """
        base, settings = self._settings.control_url, self._settings
        if base is None:
            raise ControlError("this router has no control API (FLOTILLA_CONTROL_URL) that could send it")
        path = ARTIFACT_PATH.format(
            namespace=quote(settings.namespace, safe=""), policy=quote(settings.policy, safe=""), digest=digest
        )
        poll = Poll(base + path, read_token(self._token), self._ca, ARTIFACT_SECONDS)
        head, body = await self._client.send("GET", poll, b"", limit=_MAX_ARTIFACT_BYTES)
        if head.status == 404:
            raise ControlError("the ConfigMap does not exist")
        if head.status == 409:
            raise ArtifactError(ArtifactFault.DIGEST_MISMATCH, f"The ConfigMap does not hold the artifact {digest}.")
        if head.status != 200:
            raise ControlError(f"the control API answered with status {head.status}")
        return body


class _Pod(msgspec.Struct):
    pod: str


class _Reason(msgspec.Struct):
    reason: str
    message: str


class _Refusal(msgspec.Struct):
    error: _Reason


def _refused(error: _Reason) -> Refused:
    if error.reason != TOKEN_REFUSED:
        raise ControlError(f"the control API does not let this gateway ask: {error.message}")
    return Refused(error.message)


def _verdict_in(status: int, body: bytes) -> Admitted | Refused:
    try:
        if status == 200:
            return Admitted(msgspec.json.decode(body, type=_Pod).pod)
        if status == 403:
            return _refused(msgspec.json.decode(body, type=_Refusal).error)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ControlError(f"the control API's verdict cannot be read: {error}") from error
    raise ControlError(f"the control API answered with status {status}")
