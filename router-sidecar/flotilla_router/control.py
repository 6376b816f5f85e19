"""Keeps the snapshot current: from the control API by long poll, from the mounted file while that does not answer.

The digest that a poll names is the acknowledgement of what this router serves, so after a change the next poll goes out
at once. The file may lag behind the API by minutes (the kubelet syncs it), so it is used only if it was published after
what the API brought. What the API brings is used in any case.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import quote, urlencode

from flotilla_api import names
from flotilla_api.control import PROBLEMS_MAX, Problem
from flotilla_api.snapshot import RoutingSnapshot

POLL_SECONDS = 60.0
"""Longest wait for an answer; the control API answers after about 30 s when nothing changes."""
FILE_SECONDS = 1.0
EARLY_SECONDS = 1.0
"""An answer that brings nothing new and comes sooner is followed by a pause of one to two times this."""
FIRST_BACKOFF_SECONDS = 0.25
LONGEST_BACKOFF_SECONDS = 10.0
_MOST_ERROR_CHARACTERS = 512


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
    published_at: str = ""
    """When the snapshot was published; later ones sort after it. Empty: it does not say."""


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

    def problems(self) -> Sequence[Problem]:
        """What keeps this router from doing all that the snapshot asks."""
        ...

    def connected(self, error: str | None) -> None:
        """Note whether the control API answers; error: why it does not."""
        ...


def backoff_seconds(failures: int, draw: float) -> float:
    """Wait before the next poll after n failures in a row, with full jitter over its upper half. draw: in [0, 1)."""
    longest = min(FIRST_BACKOFF_SECONDS * 2.0 ** min(failures - 1, 16), LONGEST_BACKOFF_SECONDS)
    return longest * (0.5 + draw / 2)


def poll_url(base: str, path: str, digest: str, rejected: tuple[str, str] | None, problems: Sequence[Problem]) -> str:
    """The address of the next poll. rejected: digest and error of a snapshot that was refused."""
    query = [("digest", digest)]
    if rejected is not None:
        query += [("rejected", rejected[0]), ("error", rejected[1][:_MOST_ERROR_CHARACTERS])]
    query += [("problem", problem.to_query()[:_MOST_ERROR_CHARACTERS]) for problem in problems[:PROBLEMS_MAX]]
    return f"{base}{path}?{urlencode(query)}"


def read_token(path: Path) -> str:
    """The token that is shown to the control API.

    Raises:
        ControlError: it cannot be read.
    """
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ControlError(f"the token of the control API cannot be read: {path}") from error


class SnapshotSource:
    """Brings snapshots to a store."""

    def __init__(
        self,
        store: Store,
        fetch: Fetch,
        folder: Path,
        token_folder: Path,
        *,
        now: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._store = store
        self._fetch = fetch
        self._file = folder / names.SNAPSHOT_KEY
        self._published = folder / names.PUBLISHED_KEY
        self._ca = folder / names.CONTROL_CA_KEY
        self._token = token_folder / names.CONTROL_TOKEN_FILE
        self._now = now
        self._sleep = sleep
        self._seen: tuple[int, int, int] | None = None
        self._rejected: tuple[str, str] | None = None
        self._brought_at: str | None = None
        """When the last snapshot that the API brought was published; None: it has brought none."""
        self._connected = False

    def read_file(self) -> None:
        """Offer the mounted file if it has changed since it was last read and is no older than what the API brought."""
        try:
            found = self._file.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            if stamp == self._seen:
                return
            published_at = self._read_published()
            data = self._file.read_bytes()
            if self._read_published() != published_at:
                return  # the kubelet is replacing the files: they are looked at again
        except OSError:
            return
        self._seen = stamp
        outdated = self._brought_at is not None and published_at <= self._brought_at
        if not outdated and RoutingSnapshot.digest_of(data) != self._store.digest:
            self._offer(data)

    def _read_published(self) -> str:
        """When the mounted snapshot was published; empty: nobody says."""
        try:
            return self._published.read_text().strip()
        except (FileNotFoundError, UnicodeDecodeError):
            return ""

    async def watch_file(self) -> None:
        """Follow the file for as long as the control API does not answer."""
        while True:
            if not self._connected:
                self._survive(self.read_file)
            await self._sleep(FILE_SECONDS)

    async def follow(self, base: str, namespace: str, policy: str, draw: Callable[[], float]) -> None:
        """Poll the control API for ever."""
        path = f"/v1/snapshots/{quote(namespace, safe='')}/{quote(policy, safe='')}"
        failures = 0
        while True:
            started = self._now()
            try:
                news = await self._poll(base, path)
                failures = 0
            except Exception as error:
                failures += 1
                self._lost(error)
                await self._sleep(backoff_seconds(failures, draw()))
                continue
            if not news and self._now() - started < EARLY_SECONDS:
                await self._sleep(EARLY_SECONDS * (1 + draw()))

    def _lost(self, error: Exception) -> None:
        """The file takes over; whatever went wrong, the next poll may do better."""
        self._connected = False
        if isinstance(error, ControlError):
            self._store.connected(str(error))
            return
        self._store.connected(f"a poll of the control API crashed: {error!r}")
        _report(error)

    def _survive(self, call: Callable[[], None]) -> None:
        try:
            call()
        except Exception as error:
            _report(error)

    async def _poll(self, base: str, path: str) -> bool:
        """Whether there may be more to say or to hear at once."""
        problems = tuple(self._store.problems())
        url = poll_url(base, path, self._store.digest, self._rejected, problems)
        token = read_token(self._token)
        try:
            answer = await self._fetch_unless_outdated(Poll(url, token, self._ca, POLL_SECONDS), problems)
        except (OSError, ValueError) as error:
            raise ControlError(f"the control API does not answer: {error or type(error).__name__}") from error
        if answer is None:
            return True
        if answer.status not in (200, 204, 304):
            raise ControlError(f"the control API answered with status {answer.status}")
        self._connected = True
        self._store.connected(None)
        return answer.status == 200 and self._take(answer)

    async def _fetch_unless_outdated(self, poll: Poll, problems: tuple[Problem, ...]) -> Answer | None:
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

    def _take(self, answer: Answer) -> bool:
        """Whether the answer brought anything that this router did not have."""
        digest = RoutingSnapshot.digest_of(answer.body)
        if digest == self._store.digest or (self._rejected is not None and digest == self._rejected[0]):
            return False
        if self._offer(answer.body):
            self._brought_at = answer.published_at
        return True

    def _offer(self, data: bytes) -> bool:
        """Whether the snapshot is in use now."""
        error = self._store.offer(data)
        self._rejected = None if error is None else (RoutingSnapshot.digest_of(data), error)
        return error is None


def _report(error: Exception) -> None:
    """A mistake of our own reaches the log, with its trace, by the loop's handler."""
    context = {"message": "the snapshot could not be brought", "exception": error}
    asyncio.get_running_loop().call_exception_handler(context)
