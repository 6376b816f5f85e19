"""The time of each token after the first, by the router's clock."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

import pytest
from rig import (
    DONE,
    ESCALATION,
    a_snapshot,
    ask,
    chat,
    chat_event,
    chat_stream,
    expert,
    model_server,
    post,
    router,
    served_fallback,
    streams,
)

from flotilla_api.causes import Cause
from flotilla_router.attempt import Attempt
from flotilla_router.heads import ResponseHead
from flotilla_router.logs import AttemptRecord
from flotilla_router.openai import parse_request, plan_injection
from flotilla_router.registry import Replica

ROLE = b'data: {"choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'


class VirtualTime(asyncio.AbstractEventLoop):
    """A loop that is only asked for the time."""

    def __init__(self) -> None:
        self.now = 100.0

    def time(self) -> float:
        return self.now


class Silence:
    """An owner that lets the answer pass, after a while if it is below the bar."""

    def committed(self, attempt: Attempt) -> None: ...

    def passed_on(self, data: bytes) -> None: ...

    def ended(self, attempt: Attempt, problem: str | None) -> None: ...

    def answered(self, attempt: Attempt) -> None: ...

    def escalates(self, attempt: Attempt, cause: Cause) -> None:
        attempt.hold()
        attempt.release()

    def failed(self, attempt: Attempt, cause: Cause, message: str) -> None: ...

    def broke(self) -> None: ...


def an_attempt(time: VirtualTime, *, judged: bool = False, choices: int = 1) -> Attempt:
    """A streamed call whose answer is about to begin."""
    request = parse_request("chat", b'{"model":"auto","messages":[],"stream":true,"n":%d}' % choices)
    attempt = Attempt(
        owner=Silence(),
        target=expert("maths"),
        replica=Replica("127.0.0.1:1", "maths-0"),
        request=request,
        injection=plan_injection(request, judged=judged, external=False),
        config=ESCALATION.model_copy(update={"commitTokens": 1}) if judged else None,
        loop=time,
        started=time.now,
        stream=True,
        relayed=False,
        record=AttemptRecord(target="maths", endpoint="maths-0"),
    )
    attempt._open = True  # pyright: ignore[reportPrivateUsage]
    head = ResponseHead()
    head.status, head.content_type = 200, b"text/event-stream"
    attempt.on_head(head)
    return attempt


def play(attempt: Attempt, time: VirtualTime, events: Sequence[tuple[float, bytes]]) -> None:
    """Events, each after some seconds, and the end."""
    for seconds, event in events:
        time.now += seconds
        attempt.on_body(event)
    attempt.on_complete()


def a_stream(usage: tuple[int, int] | None = (10, 4)) -> list[tuple[float, bytes]]:
    """Two seconds to the first token, then three at 30 ms each and 10 ms to the end."""
    words = [(2.0, chat_event("a", logprob=-0.1)), *[(0.03, chat_event("b", logprob=-0.1))] * 3]
    return [(1.0, ROLE), *words, (0.0, chat_event(finish="stop", usage=usage)), (0.0, DONE)]


@pytest.mark.parametrize("judged", [False, True], ids=["passed on", "judged"])
def test_time_per_token_runs_from_the_first_token(judged: bool) -> None:
    """Neither the wait for it nor an event without one counts."""
    time = VirtualTime()
    attempt = an_attempt(time, judged=judged)
    play(attempt, time, a_stream())

    assert attempt.tpot_ms == pytest.approx(30)


@pytest.mark.parametrize(
    ("events", "choices"),
    [
        pytest.param(a_stream(usage=None), 1, id="nobody says how many there were"),
        pytest.param(a_stream(usage=(10, 1)), 1, id="one token"),
        pytest.param(a_stream(), 2, id="two choices share the time"),
    ],
)
def test_time_per_token_is_unknown_where_it_would_be_a_guess(events: list[tuple[float, bytes]], choices: int) -> None:
    """An unknown one is not counted."""
    time = VirtualTime()
    attempt = an_attempt(time, choices=choices)
    play(attempt, time, events)

    assert attempt.tpot_ms is None


def test_a_client_that_reads_slowly_says_nothing_of_the_model_server() -> None:
    """A pause of its making is not the model server's pace."""
    time = VirtualTime()
    attempt = an_attempt(time)
    first, *rest = a_stream()
    attempt.on_body(first[1])
    attempt.pause()
    time.now += 10
    attempt.resume()
    play(attempt, time, rest)

    assert attempt.tpot_ms is None


def test_an_answer_that_was_held_says_nothing_of_the_model_server() -> None:
    """It was not read while a fallback was asked."""
    time = VirtualTime()
    attempt = an_attempt(time, judged=True)
    play(attempt, time, [(0.1, chat_event(word, logprob=-5.0)) for word in "abcdef"] + a_stream()[-2:])

    assert attempt.tpot_ms is None


async def test_the_model_that_answers_is_the_one_whose_tokens_are_timed(tmp_path: Path) -> None:
    """Once for each stream; whole answers have no such time."""
    usage = [*chat_stream("4", "5")[:-1], chat_event(usage=(10, 2)), DONE]
    async with (
        model_server(streams(*usage)) as maths,
        router(tmp_path, a_snapshot(expert("maths", maths.address), served_fallback("big"))) as rig,
    ):
        await ask(rig.port, post(chat(stream=True)))
        line = await rig.request_line()

        assert line["tpot_ms"] >= 0
        name = "flotilla_router_time_per_output_token_seconds"
        assert rig.metric(f'{name}_count{{model="maths",policy="helpdesk"}}') == 1
        assert rig.metric(f'{name}_bucket{{le="0.04",model="maths"') <= 1
