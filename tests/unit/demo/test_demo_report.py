"""The tables that `make demo` prints."""

from __future__ import annotations

import io
from typing import Any

from rich.console import Console
from rich.table import Table

from demo.asking import Answer, Ending
from demo.promises import Disruption
from demo.questions import Question, make_long_questions, read_questions
from demo.report import Price, add_up, answers_table, disruption_table, read_request_lines, totals_table

FALLBACKS = frozenset(["big"])
LINES: dict[str, Any] = {
    "r-1": {
        "model": "small",
        "reason": "Static",
        "cost_usd": 0.0000005,
        "attempts": [
            {"target": "small", "endpoint": "small-0", "result": "ok", "input_tokens": 10, "output_tokens": 5}
        ],
    },
    "r-2": {
        "model": "big",
        "reason": "UpstreamError",
        "cost_usd": 0.0001,
        "attempts": [
            {"target": "small", "endpoint": "small-0", "result": "UpstreamError", "input_tokens": None},
            {"target": "big", "endpoint": "external", "result": "ok", "input_tokens": 20, "output_tokens": 5},
        ],
    },
}


def an_answer(
    request_id: str, model: str, text: str, *, stream: bool = False, ending: Ending = Ending.COMPLETE
) -> Answer:
    """One of the answers that `LINES` are about."""
    error = "" if ending is Ending.COMPLETE else "the model server failed"
    return Answer(Question("q", "?", stream), model, "Static", 1, request_id, 12.3, 7, text, ending, error)


def printed(table: Table) -> str:
    """What a wide terminal shows."""
    out = io.StringIO()
    Console(file=out, width=160).print(table)
    return out.getvalue()


def test_an_answer_of_no_model_is_labelled_simulated() -> None:
    """The label is a column of its own, so that no width and no markup hides it."""
    simulated = an_answer("r-1", "small", "[simulated small] 42")
    real = an_answer("r-1", "small", "deep thought says 42")

    shown = printed(answers_table([simulated, real], LINES, FALLBACKS)).splitlines()

    assert [("│ simulated " in row, "│ real model " in row) for row in shown if "42" in row] == [
        (True, False),
        (False, True),
    ]
    assert all("0.0000005" in row for row in shown if "42" in row)
    assert any("[simulated small] 42" in row for row in shown)


def test_a_disruption_shows_every_attempt_and_how_each_request_ended() -> None:
    """Who was tried and with what result is the router's own log; the end is what the caller saw."""
    cut = an_answer("r-1", "small", "[simulated small] a", stream=True, ending=Ending.ERROR_EVENT)
    elsewhere = an_answer("r-2", "big", "[simulated big-1] b")

    shown = printed(disruption_table("killed", Disruption("small", ["small-0"], 2, [cut, elsewhere]), LINES, FALLBACKS))

    assert "2 requests that ran when the pods of small were killed" in shown
    assert "error event: the model server failed" in shown
    assert "small-0: UpstreamError" in shown
    assert "external: ok" in shown


def test_totals_count_escalations_by_cause_and_compare_with_the_fallbacks_price() -> None:
    """What is saved is relative to the same tokens at the fallback's price."""
    answers = [
        an_answer("r-1", "small", "a"),
        an_answer("r-2", "big", "b"),
        an_answer("-", "-", "", ending=Ending.FAILED),
    ]

    totals = add_up(answers, LINES, Price(2.0, 10.0), FALLBACKS)

    assert (totals.requests, totals.failed, totals.escalated) == (3, 1, {"UpstreamError": 1})
    assert round(totals.fallback_usd * 1e6) == 10 * 2 + 5 * 10 + 20 * 2 + 5 * 10
    assert round(totals.saving, 3) == round(1 - 100.5 / 160, 3)
    assert "escalated: UpstreamError" in printed(totals_table(totals))


def test_only_lines_of_requests_are_read_from_a_routers_log() -> None:
    """Refusals, other events and what is no JSON are passed over."""
    logs = [
        '{"event":"snapshot applied"}\nnot json\n{"request_id":"r-9","code":"auth"}',
        '{"request_id":"r-1","attempts":[]}',
    ]

    assert read_request_lines(logs).keys() == {"r-1"}


def test_half_of_the_forty_questions_are_streamed() -> None:
    """Of each source alike; those of GSM8K carry the task that the quickstart's rule reads."""
    questions = read_questions()

    assert len(questions) == 40
    assert sum(q.stream for q in questions) == 20
    assert sum(q.stream for q in questions if q.task == "math") == 10


def test_long_questions_differ_and_run_to_the_end() -> None:
    """Equal prompts would be answered alike, from the engine's prefix cache."""
    questions = make_long_questions(streams=2, whole=1, model="small")

    assert [q.stream for q in questions] == [True, True, False]
    assert len({q.id for q in questions}) == len({q.prompt for q in questions}) == 3
    assert all(q.to_the_end and q.tokens > 500 for q in questions)
