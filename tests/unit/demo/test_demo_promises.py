"""The demo fails when a promise is broken."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from demo.asking import Answer, Ending
from demo.promises import Disruption, broken_by_deletion, broken_by_kill, broken_by_questions
from demo.questions import Question


def an_answer(
    *,
    stream: bool = False,
    model: str = "small",
    attempts: int = 1,
    events: int = 0,
    ending: Ending = Ending.COMPLETE,
    error: str = "",
) -> Answer:
    """One request of a disruption."""
    return Answer(Question("q", "?", stream), model, "-", attempts, "r", 1.0, events, "text", ending, error)


def a_disruption(*answers: Answer, running: int | None = None) -> Disruption:
    """Pods of `small`; all requests were running unless said otherwise."""
    return Disruption("small", ["small-0"], len(answers) if running is None else running, answers)


DRAINED = an_answer(stream=True, events=9)
CUT = an_answer(stream=True, events=9, ending=Ending.ERROR_EVENT, error="the model server failed")
ELSEWHERE = an_answer(model="big", attempts=2)


@pytest.mark.parametrize(
    ("broken", "disruption"),
    [
        pytest.param(broken_by_deletion, a_disruption(DRAINED, an_answer()), id="draining pods finish what runs"),
        pytest.param(broken_by_kill, a_disruption(CUT, ELSEWHERE), id="error event after commit, an answer before"),
    ],
)
def test_kept_promises_have_no_line(broken: Callable[[Disruption], Iterator[str]], disruption: Disruption) -> None:
    """What happened as promised needs no word."""
    assert list(broken(disruption)) == []


@pytest.mark.parametrize(
    ("disruption", "line"),
    [
        pytest.param(
            a_disruption(an_answer(ending=Ending.FAILED, error="Connection error.")),
            "q was not finished by its draining pod: failed: Connection error.",
            id="a request failed",
        ),
        pytest.param(
            a_disruption(ELSEWHERE),
            "q was answered by big in 2 attempts: its pod did not drain",
            id="somebody else had to answer",
        ),
        pytest.param(
            a_disruption(DRAINED, running=0),
            "only 0 of 1 requests were running when the pods were deleted",
            id="nothing was in flight",
        ),
    ],
)
def test_a_request_that_a_drain_did_not_finish_breaks_the_promise(disruption: Disruption, line: str) -> None:
    """The line names the request and what became of it."""
    assert list(broken_by_deletion(disruption)) == [line]


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        pytest.param(
            an_answer(stream=True, events=9, ending=Ending.SILENT),
            "q was committed and did not end in an error event: silent",
            id="a stream ends silently",
        ),
        pytest.param(
            an_answer(stream=True, events=9),
            "q was committed and did not end in an error event: complete",
            id="a stream outlived the kill",
        ),
        pytest.param(
            an_answer(ending=Ending.FAILED, error="Error code: 502"),
            "q was not committed and nobody else answered: failed: Error code: 502",
            id="nobody else answered",
        ),
        pytest.param(an_answer(), "q was over before the engine was killed", id="an answer outran the kill"),
    ],
)
def test_a_killed_engine_breaks_the_promise_otherwise(answer: Answer, line: str) -> None:
    """The line names the request and what became of it."""
    assert list(broken_by_kill(a_disruption(answer))) == [line]


def test_every_question_has_a_complete_answer() -> None:
    """A question without one is a broken promise."""
    failed = an_answer(ending=Ending.FAILED, error="no model answers")

    assert list(broken_by_questions([an_answer(), failed])) == ["q failed: no model answers"]
