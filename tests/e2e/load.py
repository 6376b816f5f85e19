"""Clients that go on asking while something happens, and what they were answered."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count

import httpx

from e2e.gateway import Gateway, a_question, read_stream
from localcluster.waiting import wait_until

WAIT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """One request's: who answered, and '' or what went wrong."""

    model: str
    reason: str
    error: str
    stream: bool


@dataclass(slots=True)
class Load:
    """Requests under way and done; half of the clients keep their connection, half make a new one for each request."""

    gateway: Gateway
    streams: bool
    max_tokens: int
    outcomes: list[Outcome] = field(default_factory=list[Outcome])
    _stop: threading.Event = field(default_factory=threading.Event)
    _numbers: Iterator[int] = field(default_factory=count)

    @property
    def failures(self) -> list[Outcome]:
        """Requests that were not answered as they should."""
        return [outcome for outcome in self.outcomes if outcome.error]

    def wait_for_more(self, requests: int = 12) -> list[Outcome]:
        """That many more requests are over, all but a few of which began after now; they."""
        before = len(self.outcomes)
        wait_until(
            lambda: len(self.outcomes) >= before + requests,
            f"{requests} more requests; failures so far: {self.failures[:3]}",
            timeout_seconds=WAIT_SECONDS,
        )
        return self.outcomes[before:]

    def run(self, *, keep_alive: bool) -> None:
        """Ask until told to stop."""
        with self.gateway.client(keep_alive=keep_alive) as client:
            while not self._stop.is_set():
                self.outcomes.append(self._ask(client, next(self._numbers)))

    def stop(self) -> None:
        """No request is begun any more."""
        self._stop.set()

    def _ask(self, client: httpx.Client, number: int) -> Outcome:
        stream = self.streams and number % 2 == 1
        body = a_question(f"question number {number}", max_tokens=self.max_tokens, stream=stream)
        try:
            with client.stream("POST", "/chat/completions", json=body) as response:
                error = _stream_error(response) if stream else _error(response)
                headers = response.headers
        except httpx.HTTPError as failure:
            return Outcome("", "", repr(failure), stream)
        return Outcome(headers.get("x-flotilla-model", ""), headers.get("x-flotilla-reason", ""), error, stream)


def _error(response: httpx.Response) -> str:
    response.read()
    return (
        "" if response.status_code == 200 and response.json()["choices"] else f"{response.status_code} {response.text}"
    )


def _stream_error(response: httpx.Response) -> str:
    streamed = read_stream(response)
    if streamed.error:
        return f"{streamed.status} {streamed.error}"
    return "" if streamed.done and streamed.text else f"{streamed.status}: the stream ended silently"


@contextmanager
def load_on(gateway: Gateway, *, clients: int = 2, streams: bool = True, max_tokens: int = 24) -> Generator[Load]:
    """Clients ask in a loop while the block runs; afterwards every request that they began is over."""
    load = Load(gateway, streams, max_tokens)
    threads = [
        threading.Thread(target=load.run, kwargs={"keep_alive": index % 2 == 0}, name=f"client-{index}")
        for index in range(clients)
    ]
    for thread in threads:
        thread.start()
    try:
        load.wait_for_more(2 * clients)
        yield load
    finally:
        load.stop()
        for thread in threads:
            thread.join(WAIT_SECONDS)
