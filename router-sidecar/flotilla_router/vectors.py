"""Asks embedding Experts for the vectors of prompts. Where none comes in time, words score instead."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from flotilla_api.snapshot import Target

from .credentials import Missing
from .dispatch import Dispatcher
from .fetch import fetch
from .learned import Endpoint
from .registry import Live, Replica, pick

if TYPE_CHECKING:
    from .artifact import Remote
    from .embedders.embedding import Embedding

Asked = asyncio.Future[dict[str, "Embedding"]]
"""Vectors by the digests of the artifacts that they are for; those that could not be had are missing."""
EMBEDDING_SECONDS = 0.25
"""Longest wait for a vector, which the whole request waits for: a small encoder takes 5 to 30 ms."""
MOST_ASKED = 256
"""Questions under way; further prompts do without a vector."""

_OF_THE_PROMPT = (400, 413, 422)
"""Statuses that speak of the request, not of the server."""


class _Refused(Exception):  # noqa: N818 - it is an answer
    """The embedder makes no vector of a text."""


class Vectors:
    """One for all requests. Replicas that do not answer are left out for a while, as they are for completions."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self._dispatcher = dispatcher
        self._tasks: set[asyncio.Task[dict[str, Embedding]]] = set()

    def ask(self, live: Live, endpoints: Sequence[Endpoint], text: str) -> Asked:
        """Vectors of a clipped text, by the artifact's digest: within EMBEDDING_SECONDS, as far as there are any."""
        task = self._dispatcher.loop.create_task(self._all(live, endpoints, text))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def close(self) -> None:
        """Nothing is under way."""
        for task in tuple(self._tasks):
            task.cancel()

    async def _all(self, live: Live, endpoints: Sequence[Endpoint], text: str) -> dict[str, Embedding]:
        found = await asyncio.gather(*[self._one(live, each, text) for each in endpoints])
        pairs = zip(endpoints, found, strict=True)
        return {each.artifact: vector for each, vector in pairs if vector is not None}

    async def _one(self, live: Live, endpoint: Endpoint, text: str) -> Embedding | None:
        """The vector; None: nobody gives one."""
        dispatcher = self._dispatcher
        target, replica = self._replica(live, endpoint.name)
        if target is None or replica is None or len(self._tasks) > MOST_ASKED:
            dispatcher.telemetry.embedded("unavailable")
            return None
        replica.in_flight += 1
        try:
            vector = await self._fetch(target, replica, endpoint.remote, text)
            replica.succeeded()
            dispatcher.telemetry.embedded("ok")
        except _Refused:  # the prompt is at fault: what others ask is answered
            replica.succeeded()
            dispatcher.telemetry.embedded("refused")
            return None
        except (OSError, ValueError) as error:
            replica.failed(dispatcher.loop.time())
            dispatcher.telemetry.embedded("timeout" if isinstance(error, TimeoutError) else "failed")
            return None
        except Exception as error:  # our own mistake, about one prompt: it is scored all the same
            dispatcher.loop.call_exception_handler({"message": "a prompt got no vector", "exception": error})
            return None
        else:
            return vector
        finally:
            replica.in_flight -= 1

    def _replica(self, live: Live, name: str) -> tuple[Target | None, Replica | None]:
        """Who is asked: a healthy replica of a model in the cluster, so that no prompt leaves it for being scored."""
        state = live.states.get(("Expert", name)) or live.states.get(("Fallback", name))
        if state is None or state.target.external is not None:
            return None, None
        candidates = state.candidates(self._dispatcher.loop.time())
        return state.target, pick(candidates, self._dispatcher.draw()) if candidates else None

    async def _fetch(self, target: Target, replica: Replica, remote: Remote, text: str) -> Embedding:
        """The vector of a text.

        Raises:
            OSError: there is no answer; TimeoutError: not in time.
            _Refused: it makes no vector of this text.
            ValueError: the answer is no vector.
        """
        from .embedders.remote import PATH, longest_answer, read_vector, request_body  # noqa: PLC0415 - needs numpy

        reached = self._dispatcher.reach.of(target, replica, "chat")
        assert not isinstance(reached, Missing)
        body = request_body(target.model, text)
        head = f"POST {PATH} HTTP/1.1\r\nhost: {replica.address}\r\ncontent-type: application/json\r\n"
        request = f"{head}content-length: {len(body)}\r\n\r\n".encode() + body
        limit = longest_answer(remote.dimensions)
        response, answer = await fetch(
            self._dispatcher.upstreams, reached.origin, request, seconds=EMBEDDING_SECONDS, limit=limit
        )
        if response.status in _OF_THE_PROMPT:
            raise _Refused
        if response.status != 200:
            raise ValueError(f"it answers with status {response.status}")
        return read_vector(answer, remote.dimensions)


def vectors_in(asked: Asked | None) -> Mapping[str, Embedding]:
    """The vectors that have come, by the artifact's digest."""
    return {} if asked is None or not asked.done() or asked.cancelled() else asked.result()
