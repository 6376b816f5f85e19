"""A gateway's questions about sidecars' tokens: one at a time about each token, however many requests show it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable
from functools import partial

from .control import ControlError
from .verdicts import Admitted, Refused, Unavailable, Verdict, Verdicts, expiry_of

REVIEW_SECONDS = 3.0
"""Longest wait for an answer."""
MOST_REVIEWS = 64
"""Questions under way; whoever shows yet another unknown token is told to come back."""

Ask = Callable[[str, float], Awaitable[Admitted | Refused]]
"""Whose a token is, within some seconds. Raises ControlError, OSError or TimeoutError."""


class Reviews:
    """Verdicts on tokens, from memory or from the control API."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ask: Ask,
        *,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._loop = loop
        self._ask = ask
        self._now = now
        self._wall = wall
        self._known = Verdicts()
        self._running: dict[bytes, asyncio.Future[Verdict]] = {}
        self._tasks: set[asyncio.Task[Verdict]] = set()

    def of(self, token: bytes) -> asyncio.Future[Verdict]:
        """The verdict on a token: there already, or within REVIEW_SECONDS."""
        key = hashlib.sha256(token).digest()
        known, due = self._known.find(key, self._now())
        if known is not None:
            if due and key not in self._running and len(self._running) < MOST_REVIEWS:
                self._start(key, token)
            return self._decided(known)
        return self._running.get(key) or self._begin(key, token)

    def close(self) -> None:
        """Whoever waits for a verdict is told that there will be none."""
        for task in tuple(self._tasks):
            task.cancel()

    def _begin(self, key: bytes, token: bytes) -> asyncio.Future[Verdict]:
        if len(self._running) >= MOST_REVIEWS:
            return self._decided(Unavailable("too many tokens are being reviewed"))
        return self._start(key, token)

    def _start(self, key: bytes, token: bytes) -> asyncio.Future[Verdict]:
        text = token.decode("latin-1")
        expires = expiry_of(text)
        if expires is None:
            return self._decided(Refused("it is no ServiceAccount token"))
        review = self._running[key] = self._loop.create_future()
        task = self._loop.create_task(self._verdict_on(text))
        self._tasks.add(task)
        task.add_done_callback(partial(self._settle, key, expires, review))
        return review

    def _settle(self, key: bytes, expires: float, review: asyncio.Future[Verdict], task: asyncio.Task[Verdict]) -> None:
        """Remember the verdict and tell it; a task that is cancelled may never have begun."""
        self._tasks.discard(task)
        del self._running[key]
        verdict = Unavailable("the router is shutting down") if task.cancelled() else task.result()
        self._known.note(key, verdict, self._now(), expires_in=expires - self._wall())
        review.set_result(verdict)

    def _decided(self, verdict: Verdict) -> asyncio.Future[Verdict]:
        review: asyncio.Future[Verdict] = self._loop.create_future()
        review.set_result(verdict)
        return review

    async def _verdict_on(self, token: str) -> Verdict:
        try:
            async with asyncio.timeout(REVIEW_SECONDS):
                return await self._ask(token, REVIEW_SECONDS)
        except TimeoutError:
            return Unavailable("the control API does not answer in time")
        except (ControlError, OSError) as error:
            return Unavailable(str(error))
        except Exception as error:  # our own mistake, on one token: whoever waits is told all the same
            self._loop.call_exception_handler({"message": "a token could not be reviewed", "exception": error})
            return Unavailable("the router failed on this token")
