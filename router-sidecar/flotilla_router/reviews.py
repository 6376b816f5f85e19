"""A gateway's questions about sidecars' tokens: one at a time about each token, however many requests show it."""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial

from .claims import TokenClaims, claims_of, fault_of
from .control import ControlError
from .verdicts import Admitted, Refused, Unavailable, Verdict, Verdicts

REVIEW_SECONDS = 3.0
"""Longest wait for an answer."""
MOST_REVIEWS, MOST_OF_ONE_PEER = 64, 8
"""Questions under way about unknown tokens, in all and for one address; whoever shows yet another is told to come back.
As many again may be under way about known ones, which no stranger can take."""

Ask = Callable[[str, float], Awaitable[Admitted | Refused]]
"""Whose a token is, within some seconds. Raises ControlError, OSError or TimeoutError."""


class _Room:
    """How many questions are under way, and for whom."""

    def __init__(self, most: int, most_of_one: int) -> None:
        self._most = most
        self._most_of_one = most_of_one
        self._taken = Counter[str]()

    def take(self, peer: str) -> bool:
        """Whether there is room for another of this peer's, which it then has."""
        if self._taken.total() >= self._most or self._taken[peer] >= self._most_of_one:
            return False
        self._taken[peer] += 1
        return True

    def leave(self, peer: str) -> None:
        """One of this peer's is answered."""
        self._taken[peer] -= 1
        if not self._taken[peer]:
            del self._taken[peer]


@dataclass(frozen=True, slots=True)
class _Question:
    """One that is under way."""

    key: bytes
    expires: float
    """When its token does, in Unix seconds."""
    room: _Room
    peer: str


class Reviews:
    """Verdicts on tokens, from memory or from the control API."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        ask: Ask,
        *,
        namespace: str,
        now: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """namespace: the policy's."""
        self._loop = loop
        self._ask = ask
        self._namespace = namespace
        self._now = now
        self._wall = wall
        self._known = Verdicts()
        self._running: dict[bytes, asyncio.Future[Verdict]] = {}
        self._strangers = _Room(MOST_REVIEWS, MOST_OF_ONE_PEER)
        self._friends = _Room(MOST_REVIEWS, MOST_REVIEWS)
        self._tasks: set[asyncio.Task[Verdict]] = set()

    def of(self, token: bytes, peer: str) -> asyncio.Future[Verdict]:
        """The verdict on a token that is shown by the address `peer`: there already, or within REVIEW_SECONDS."""
        key = hashlib.sha256(token).digest()
        now = self._now()
        known = self._known.find(key, now)
        if known is None:
            return self._running.get(key) or self._meet(key, token, peer)
        if now < known.ask_at:
            return self._decided(known.verdict)
        review = self._running.get(key) or self._start(key, token, claims_of(token), self._friends, "")
        # Without room for the question, nobody can say: the token stays what it was.
        return self._decided(known.verdict) if review is None or now < known.wait_at else review

    def close(self) -> None:
        """Whoever waits for a verdict is told that there will be none."""
        for task in tuple(self._tasks):
            task.cancel()

    def _meet(self, key: bytes, token: bytes, peer: str) -> asyncio.Future[Verdict]:
        """Ask about a token; what cannot be a sidecar's is refused here and now, and costs the operator nothing."""
        claims = claims_of(token)
        fault = fault_of(claims, self._namespace, self._wall())
        if fault is not None:
            return self._decided(Refused(fault))
        review = self._start(key, token, claims, self._strangers, peer)
        return review or self._decided(Unavailable("too many tokens are being reviewed"))

    def _start(
        self, key: bytes, token: bytes, claims: TokenClaims | None, room: _Room, peer: str
    ) -> asyncio.Future[Verdict] | None:
        """The answer to a new question; None: there is no room for it."""
        if claims is None or not room.take(peer):
            return None
        review = self._running[key] = self._loop.create_future()
        task = self._loop.create_task(self._verdict_on(token.decode("latin-1")))
        self._tasks.add(task)
        task.add_done_callback(partial(self._settle, _Question(key, claims.exp, room, peer), review))
        return review

    def _settle(self, question: _Question, review: asyncio.Future[Verdict], task: asyncio.Task[Verdict]) -> None:
        """Remember the verdict and tell it; a task that is cancelled may never have begun."""
        self._tasks.discard(task)
        del self._running[question.key]
        question.room.leave(question.peer)
        if task.cancelled():
            review.set_result(Unavailable("the router is shutting down"))
            return
        expires_in = question.expires - self._wall()
        review.set_result(self._known.note(question.key, task.result(), self._now(), expires_in=expires_in))

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
