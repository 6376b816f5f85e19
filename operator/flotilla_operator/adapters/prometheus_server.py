"""One Prometheus server's HTTP API: bounded in time and size, and shown credentials that may be rotated."""

from __future__ import annotations

import asyncio
import base64
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Self

import aiohttp

from flotilla_operator.scaling.answers import read_error

ANSWER_MAX_BYTES = 64 * 2**20
"""Five times the largest answer about 1,000 experts with ten engines each."""
CONNECTIONS = 4
"""A server evaluates 20 queries at a time by default, and others ask too."""
_CHUNK_BYTES = 2**18
_ERROR_MAX_BYTES = 2**16


@dataclass(frozen=True, slots=True)
class PrometheusSettings:
    """Where the server is, and what it wants to be shown. Files are read again at each tick: Secrets are rotated."""

    url: str
    """What comes before /api/v1."""
    timeout_seconds: float = 10.0
    """For all queries of a tick together."""
    token_file: str = ""
    """Holds a bearer token."""
    username_file: str = ""
    password_file: str = ""
    ca_file: str = ""
    """Authorities that sign the server's certificate; '': the system's."""


class NoAnswerError(Exception):
    """There is no answer that could be read; the message says why, and holds no secret."""


@dataclass(frozen=True, slots=True)
class Credentials:
    """What the server is shown, and whom it is believed for."""

    authorization: str
    """Header; '': none."""
    authorities: str
    """PEM; '': the system's."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A successful one."""

    body: bytes
    date: float | None
    """By the server's clock, in seconds since the epoch, cut to whole seconds; None: it does not say."""


class PrometheusServer:
    """Sends queries. An async context manager: its connections end with the block."""

    def __init__(self, settings: PrometheusSettings, answer_max_bytes: int = ANSWER_MAX_BYTES) -> None:
        self._settings = settings
        self._answer_max_bytes = answer_max_bytes
        self._root = f"{settings.url.rstrip('/')}/api/v1"
        self._session: aiohttp.ClientSession | None = None
        self._slots = asyncio.Semaphore(CONNECTIONS)
        self._tls: tuple[str, ssl.SSLContext] | None = None
        """For the authorities that it was made from."""

    async def __aenter__(self) -> Self:
        connector = aiohttp.TCPConnector(limit=CONNECTIONS)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session:
            await self._session.close()
            self._session = None

    async def credentials(self) -> Credentials:
        """As the files are now.

        Raises:
            NoAnswerError: a file cannot be read.
        """
        try:
            return await asyncio.to_thread(read_credentials, self._settings)
        except (OSError, UnicodeDecodeError) as error:
            raise NoAnswerError(f"the credentials for Prometheus cannot be read: {error}") from error

    async def get(
        self, path: str, parameters: Mapping[str, str], credentials: Credentials, *, deadline: float
    ) -> Answer:
        """The answer to one query; `deadline` is by the event loop's clock.

        Raises:
            NoAnswerError: none in time, one that is no success, or one that is too large.
        """
        try:
            async with asyncio.timeout_at(deadline), self._slots:
                return await self._get(path, parameters, credentials)
        except TimeoutError as error:
            raise NoAnswerError(
                f"Prometheus did not answer all queries within {self._settings.timeout_seconds:g} s"
            ) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise NoAnswerError(f"Prometheus cannot be asked: {str(error) or type(error).__name__}") from error

    async def _get(self, path: str, parameters: Mapping[str, str], credentials: Credentials) -> Answer:
        assert self._session, "outside of the context manager's block"
        headers = {"Authorization": credentials.authorization} if credentials.authorization else {}
        url, tls = f"{self._root}/{path}", self._context(credentials.authorities)
        # Thanos answers with what it has where a store is down, unless it is told not to.
        asked = {**parameters, "partial_response": "false"}
        async with self._session.get(url, params=asked, headers=headers, ssl=tls, allow_redirects=False) as response:
            if response.status != 200:
                raise NoAnswerError(await _refusal(response))
            body = await _read(response, self._answer_max_bytes)
            if body is None:
                raise NoAnswerError(f"Prometheus' answer is larger than {self._answer_max_bytes} bytes")
            return Answer(body, _date(response.headers.get("Date", "")))

    def _context(self, authorities: str) -> ssl.SSLContext | bool:
        if not authorities:
            return True
        if self._tls is None or self._tls[0] != authorities:
            self._tls = (authorities, ssl.create_default_context(cadata=authorities))
        return self._tls[1]


def read_credentials(settings: PrometheusSettings) -> Credentials:
    """What the files hold. Blocks.

    Raises:
        OSError: one cannot be read.
    """
    token, username, password, authorities = (
        Path(name).read_text().strip() if name else ""
        for name in (settings.token_file, settings.username_file, settings.password_file, settings.ca_file)
    )
    if settings.username_file:
        pair = base64.b64encode(f"{username}:{password}".encode()).decode()
        return Credentials(f"Basic {pair}", authorities)
    return Credentials(f"Bearer {token}" if token else "", authorities)


async def _refusal(response: aiohttp.ClientResponse) -> str:
    status = response.status
    if 300 <= status < 400:
        return f"Prometheus answered with a redirect ({status}): set the address that it leads to"
    if status in (401, 403):
        return f"Prometheus refused the credentials ({status})"
    said = read_error(await _read(response, _ERROR_MAX_BYTES) or b"")
    return f"Prometheus answered {status}" + (f": {said}" if said else "")


async def _read(response: aiohttp.ClientResponse, most: int) -> bytes | None:
    """The body; None: it is larger than `most` bytes, and what came of it is dropped."""
    body = bytearray()
    async for chunk in response.content.iter_chunked(_CHUNK_BYTES):
        body += chunk
        if len(body) > most:
            return None
    return bytes(body)


def _date(text: str) -> float | None:
    try:
        return parsedate_to_datetime(text).timestamp()
    except ValueError:
        return None
