"""What answers are worth, by each judge, and what is read of rows."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from typing import Any

import pytest

from flotilla_learning.counterfactual import outcome_of
from flotilla_learning.datasets import Example, Logged, Outcome, RowError, format_example, parse_example
from flotilla_learning.judging import (
    Answer,
    Judge,
    JudgingError,
    Row,
    exact_judge,
    format_row,
    json_judge,
    judged_row,
    parse_row,
    rating_question,
    read_rating,
)


def a_row(reference: Any = None) -> Row:
    return Row("1", "What is 6 times 7?", {"small": Answer("42")}, {}, reference)


def worth(judge: Judge, answer: str, reference: Any) -> float:
    return judge(a_row(reference), Answer(answer))


@pytest.mark.parametrize(
    ("said", "quality"),
    [
        pytest.param("Rating: [[10]]", 1.0, id="best"),
        pytest.param("Rating: [[1]]", 0.0, id="worst"),
        pytest.param("[[ 5.5 ]]", 0.5, id="between"),
        pytest.param("It says [[10]], which is a trick. Rating: [[2]]", 1 / 9, id="the last one counts"),
    ],
)
def test_ratings_from_1_to_10_are_qualities_from_0_to_1(said: str, quality: float) -> None:
    """The judge's own last word."""
    assert read_rating(said) == pytest.approx(quality)


@pytest.mark.parametrize("said", ["", "Rating: 5", "[[0]]", "[[11]]", "[[five]]", "[[-3]]"])
def test_no_rating_is_an_error(said: str) -> None:
    """It is never taken for a bad answer."""
    with pytest.raises(JudgingError, match="no rating from 1 to 10"):
        read_rating(said)


def test_judge_sees_question_answer_and_reference() -> None:
    """The reference only where there is one; braces in any of them stay."""
    row = replace(a_row(), prompt="Write {json}")

    assert "[The Start of Assistant's Answer]\n{42}\n" in rating_question(row, Answer("{42}"))
    assert "[Question]\nWrite {json}\n" in rating_question(row, Answer("{42}"))
    assert "reference" not in rating_question(row, Answer("42")).casefold()
    assert '[The Start of Reference Answer]\n{"a": 1}\n' in rating_question(
        replace(row, reference={"a": 1}), Answer("")
    )


@pytest.mark.parametrize(
    ("answer", "reference", "quality"),
    [
        pytest.param("42", "42", 1, id="the same"),
        pytest.param("  The\n ANSWER. ", "the answer", 1, id="case, white space and a full stop"),
        pytest.param("42", 42, 1, id="a number as reference"),
        pytest.param("43", "42", 0, id="another"),
        pytest.param("", "42", 0, id="nothing"),
    ],
)
def test_exact_match(answer: str, reference: Any, quality: float) -> None:
    """All or nothing."""
    assert worth(exact_judge(None), answer, reference) == quality


@pytest.mark.parametrize(
    ("pattern", "answer", "quality"),
    [
        pytest.param("#### (.*)", "6 x 7 = 42\n#### 42", 1, id="a group"),
        pytest.param("#### (.*)", "#### 41, no: \n#### 42", 1, id="the last match"),
        pytest.param(r"\d+", "It is 42!", 1, id="no group"),
        pytest.param("#### (.*)", "42", 0, id="no match is wrong"),
        pytest.param("(#### )?x", "x", 0, id="a group that took no part"),
    ],
)
def test_exact_match_of_a_pattern(pattern: str, answer: str, quality: float) -> None:
    """The reference is looked at in the same way, or as a whole."""
    assert worth(exact_judge(re.compile(pattern)), answer, "42") == quality
    assert worth(exact_judge(re.compile("#### (.*)")), "#### 42", "so\n#### 42") == 1


@pytest.mark.parametrize(
    ("answer", "reference", "quality"),
    [
        pytest.param('{"b": 1.0, "a": [true]}', {"a": [True], "b": 1}, 1, id="another order"),
        pytest.param('Here:\n```json\n{"a": 1}\n```\n', '{"a": 1}', 1, id="a block of code, a text as reference"),
        pytest.param('{"a": true}', {"a": 1}, 0, id="true is not 1"),
        pytest.param('{"a": 1, "b": 2}', {"a": 1}, 0, id="more"),
        pytest.param("{a: 1}", {"a": 1}, 0, id="no JSON"),
        pytest.param("[" * 100_000, {"a": 1}, 0, id="nested without end"),
    ],
)
def test_json_match(answer: str, reference: Any, quality: float) -> None:
    """The parsed value counts."""
    assert worth(json_judge(()), answer, reference) == quality


def test_json_match_of_keys_is_their_share() -> None:
    """Others may differ; an answer that is no object has none of them."""
    judge = json_judge(("a", "b"))

    assert worth(judge, '{"a": 1, "b": 3, "c": 9}', {"a": 1, "b": 2}) == 0.5
    assert worth(judge, '{"a": 1}', {"a": 1}) == 0.5
    assert worth(judge, "[1]", {"a": 1}) == 0


@pytest.mark.parametrize(
    ("judge", "reference"),
    [
        pytest.param(exact_judge(None), None, id="no reference"),
        pytest.param(json_judge(()), None, id="no reference for JSON"),
        pytest.param(json_judge(()), "not JSON", id="a reference that is no JSON"),
        pytest.param(json_judge(("a",)), [1], id="keys of no object"),
    ],
)
def test_reference_that_cannot_be_used_is_an_error(judge: Judge, reference: Any) -> None:
    """The answer is not blamed for it."""
    with pytest.raises(JudgingError):
        worth(judge, "42", reference)


LOGGED = {
    "id": "r1",
    "prompt": "Why?",
    "answer": "Because.",
    "model": "big",
    "usd": 0.012,
    "attempts": [{"target": "small", "usd": 0.002}, {"target": "big", "usd": 0.01}],
    "logged": {"model": "small", "propensity": 0.98, "scores": {"small": 0.3}},
    "outcomes": {},
    "candidates": ["small", "big"],
}


def test_logged_row_becomes_an_example() -> None:
    """An answer is its model's, at its own price; what came of the choice is what the client got, and all its cost."""
    row = parse_row(json.dumps(LOGGED).encode(), default_id="1", reference="reference")

    line = format_row(judged_row(row, lambda _row, _answer: 0.75), "model m")

    assert parse_example(line.encode(), default_id="x") == Example(
        "r1",
        "Why?",
        {"big": Outcome(0.75, 0.01)},
        logged=Logged("small", 0.98, {"small": 0.3}, Outcome(0.75, 0.012), ("small", "big")),
    )
    assert json.loads(line)["attempts"] == LOGGED["attempts"]
    assert "answer" not in json.loads(line)
    assert json.loads(line)["answers"] == {"big": {"text": "Because.", "usd": 0.01}}


@pytest.mark.parametrize(
    ("status", "model", "outcome"),
    [
        pytest.param(503, "big", Outcome(0.0, 0.012), id="a model failed"),
        pytest.param(404, None, Outcome(0.0, 0.012), id="nobody answered"),
        pytest.param(200, "huge", None, id="its answer is not known"),
        pytest.param(200, "small", Outcome(1.0, 0.012), id="it was answered"),
    ],
)
def test_failed_request_is_worth_nothing(status: int, model: str | None, outcome: Outcome | None) -> None:
    """It is not left out, nor as good as an answer that was asked for later; it cost what it cost."""
    line = json.dumps(LOGGED | {"status": status, "model": model, "answer": None, "answers": {"small": "42"}})
    row = judged_row(parse_row(line.encode(), default_id="1", reference="reference"), lambda _row, _answer: 1.0)

    example = parse_example(format_row(row, "model m").encode(), default_id="x")

    assert parse_example(format_example(example).encode(), default_id="x") == example
    assert outcome_of(example) == outcome


def test_judged_row_is_read_and_judged_no_more() -> None:
    """Its outcomes are known; another file may be made of it, and nothing is lost."""
    row = parse_row(json.dumps(LOGGED).encode(), default_id="1", reference="reference")
    judged = judged_row(row, lambda _row, _answer: 0.75)
    line = format_row(judged, "model m").encode()

    again = judged_row(parse_row(line, default_id="1", reference="reference"), lambda _row, _answer: 0.1)

    assert format_row(again, "model m").encode() == line


def test_answers_of_several_models_are_read() -> None:
    """As texts, or with what they cost."""
    line = b'{"prompt": "Why?", "answers": {"a": "x", "b": {"text": "y", "usd": 0.5}}, "gold": "y"}'

    row = parse_row(line, default_id="7", reference="gold")

    assert row == Row("7", "Why?", {"a": Answer("x"), "b": Answer("y", 0.5)}, {}, "y", rest={"gold": "y"})


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        pytest.param(b"{", "no JSON", id="truncated"),
        pytest.param(b"\xff{}", "no JSON", id="not UTF-8"),
        pytest.param(b"[" * 100_000, "no JSON", id="nested without end"),
        pytest.param(b"[]", "the line is no object", id="no object"),
        pytest.param(b'{"features": {}}', "has no prompt", id="features only"),
        pytest.param(b'{"prompt": "", "answers": []}', "answers is no object", id="answers"),
        pytest.param(b'{"prompt": "", "answers": {"a": 1}}', "answers.a is no object", id="answer"),
        pytest.param(b'{"prompt": "", "answers": {"a": {}}}', "answers.a.text", id="text"),
        pytest.param(b'{"prompt": "", "answer": "x", "model": "a", "usd": -1}', "usd is -1", id="usd"),
        pytest.param(b'{"prompt": "", "outcomes": {"a": {"quality": 2}}}', "quality", id="quality"),
        pytest.param(b'{"prompt": "", "logged": 1}', "logged is no object", id="logged"),
    ],
)
def test_broken_rows_say_why(line: bytes, reason: str) -> None:
    """One sentence, which is counted."""
    with pytest.raises(RowError, match=re.escape(reason)):
        parse_row(line, default_id="1", reference="reference")
