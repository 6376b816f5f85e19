"""Keeps the snapshot current: from the control API by long poll, from the mounted file while that does not answer.

The digest that a poll names is the acknowledgement of what this router serves, so after a change the next poll goes out
at once. The file may lag behind the API by a minute (the kubelet syncs it), so it never brings back what the API has
already replaced.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlencode

from flotilla_api import names

POLL_SECONDS = 60.0
"""Longest wait for an answer; the control API answers after about 30 s when nothing changes."""
FILE_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 10.0
_MOST_ERROR_CHARACTERS = 512
_MOST_PROBLEMS = 16
_REMEMBERED = 64


class ControlError(Exception):
    """The control API did not answer as it should; the message says how."""


@dataclass(frozen=True, slots=True)
class Poll:
    """One request to the control API."""

    url: str
    token: str
    ca: Path
    seconds: float


@dataclass(frozen=True, slots=True)
class Answer:
    """What the control API said; body: a snapshot if the status is 200."""

    status: int
    body: bytes


Fetch = Callable[[Poll], Awaitable[Answer]]
"""Raises OSError, TimeoutError or ValueError."""


class Store(Protocol):
    """Where snapshots go."""

    @property
    def digest(self) -> str:
        """Of the snapshot in use; empty: there is none."""
        ...

    def offer(self, data: bytes) -> str | None:
        """Use a snapshot from now on, or say why not."""
        ...

    def problems(self) -> Sequence[str]:
        """What keeps this router from doing all that the snapshot asks."""
        ...

    def connected(self, error: str | None) -> None:
        """Note whether the control API answers; error: why it does not."""
        ...


def backoff_seconds(failures: int, draw: float) -> float:
    """Wait before the next poll after n failures in a row, with full jitter over its upper half. draw: in [0, 1)."""
    longest = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF_SECONDS)
    return longest * (0.5 + draw / 2)


def poll_url(base: str, path: str, digest: str, rejected: tuple[str, str] | None, problems: Sequence[str]) -> str:
    """The address of the next poll. rejected: digest and error of a snapshot that was refused."""
    query = [("digest", digest)]
    if rejected is not None:
        query += [("rejected", rejected[0]), ("error", rejected[1][:_MOST_ERROR_CHARACTERS])]
    query += [("problem", problem[:_MOST_ERROR_CHARACTERS]) for problem in problems[:_MOST_PROBLEMS]]
    return f"{base}{path}?{urlencode(query)}"


def digest_of(data: bytes) -> str:
    """The name of a snapshot's bytes."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


class SnapshotSource:
    """Brings snapshots to a store."""

    def __init__(self, store: Store, fetch: Fetch, folder: Path, token_folder: Path) -> None:
        self._store = store
        self._fetch = fetch
        self._file = folder / names.SNAPSHOT_KEY
        self._ca = folder / names.CONTROL_CA_KEY
        self._token = token_folder / names.CONTROL_TOKEN_FILE
        self._seen: tuple[int, int, int] | None = None
        self._rejected: tuple[str, str] | None = None
        self._replaced: list[str] = []
        self._connected = False

    def read_file(self) -> None:
        """Offer the mounted file if it has changed since it was last read."""
        try:
            found = self._file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._seen:
                return
            data = self._file.read_bytes()
        except OSError:
            return
        self._seen = stamp
        digest = digest_of(data)
        if digest != self._store.digest and digest not in self._replaced:
            self._offer(data)

    async def watch_file(self) -> None:
        """Follow the file for as long as the control API does not answer."""
        while True:
            if not self._connected:
                self.read_file()
            await asyncio.sleep(FILE_SECONDS)

    async def follow(self, base: str, namespace: str, policy: str, draw: Callable[[], float]) -> None:
        """Poll the control API for ever."""
        path = f"/v1/snapshots/{quote(namespace, safe='')}/{quote(policy, safe='')}"
        failures = 0
        while True:
            try:
                await self._poll(base, path)
                failures = 0
            except ControlError as error:
                failures += 1
                self._connected = False
                self._store.connected(str(error))
                await asyncio.sleep(backoff_seconds(failures, draw()))

    async def _poll(self, base: str, path: str) -> None:
        problems = tuple(self._store.problems())
        url = poll_url(base, path, self._store.digest, self._rejected, problems)
        try:
            token = self._token.read_text().strip()
        except (OSError, UnicodeDecodeError) as error:
            raise ControlError(f"the token of the control API cannot be read: {self._token}") from error
        try:
            answer = await self._fetch_unless_outdated(Poll(url, token, self._ca, POLL_SECONDS), problems)
        except (OSError, ValueError) as error:
            raise ControlError(f"the control API does not answer: {error or type(error).__name__}") from error
        if answer is None:
            return
        if answer.status not in (200, 204, 304):
            raise ControlError(f"the control API answered with status {answer.status}")
        self._connected = True
        self._store.connected(None)
        if answer.status == 200:
            await self._take(answer.body)

    async def _fetch_unless_outdated(self, poll: Poll, problems: tuple[str, ...]) -> Answer | None:
        """The answer; None when what the poll says this router misses is no longer so, and it must be said anew."""
        fetching = asyncio.ensure_future(self._fetch(poll))
        try:
            while True:
                await asyncio.wait((fetching,), timeout=FILE_SECONDS)
                if fetching.done():
                    return fetching.result()
                if tuple(self._store.problems()) != problems:
                    return None
        finally:
            fetching.cancel()

    async def _take(self, data: bytes) -> None:
        before = self._store.digest
        if digest_of(data) == before or (self._rejected is not None and digest_of(data) == self._rejected[0]):
            await asyncio.sleep(FILE_SECONDS)  # an answer that brings nothing new must not make a busy loop
            return
        self._offer(data)
        if before and self._store.digest != before:
            self._replaced = [*self._replaced, before][-_REMEMBERED:]

    def _offer(self, data: bytes) -> None:
        error = self._store.offer(data)
        self._rejected = None if error is None else (digest_of(data), error)
        if error is None:
            self._replaced = [digest for digest in self._replaced if digest != self._store.digest]
