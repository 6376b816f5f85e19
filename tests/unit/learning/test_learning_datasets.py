from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_learning.datasets import (
    Broken,
    Example,
    Logged,
    Outcome,
    RowError,
    format_example,
    parse_example,
    parse_examples,
    read_examples,
)

_UNIT = st.floats(min_value=0, max_value=1)
_OUTCOMES = st.dictionaries(
    st.text(min_size=1), st.builds(Outcome, _UNIT, st.none() | st.floats(min_value=0, max_value=10))
)
_OUTCOME = st.builds(Outcome, _UNIT, st.none() | st.floats(min_value=0, max_value=10))
_LOGGED = st.builds(
    Logged,
    st.text(),
    st.floats(min_value=1e-6, max_value=1),
    st.dictionaries(st.text(), _UNIT),
    st.none() | _OUTCOME,
    st.lists(st.text(), max_size=3).map(tuple),
)


@given(st.builds(Example, id=st.text(), prompt=st.text(), outcomes=_OUTCOMES, logged=st.none() | _LOGGED))
def test_a_row_written_is_read_back(example: Example) -> None:
    """Whatever the script, a row survives the file's format."""
    assert parse_example(format_example(example).encode("utf-8", "surrogatepass"), default_id="") == example


def test_a_cost_that_is_absent_is_not_zero() -> None:
    """A row may lack what an answer cost: nobody learns from that that it was free."""
    row = parse_example(
        b'{"prompt": "hi", "outcomes": {"a": {"quality": 1}, "b": {"quality": 0, "usd": 0}}}', default_id="7"
    )

    assert row == Example("7", "hi", {"a": Outcome(1.0, None), "b": Outcome(0.0, 0.0)})


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        pytest.param("[]", "the line is no object", id="no object"),
        pytest.param('{"outcomes": {}}', "prompt is no string", id="no prompt"),
        pytest.param('{"prompt": "hi"}', "outcomes is no object", id="no outcomes"),
        pytest.param(
            '{"prompt": "hi", "outcomes": {"a": {"quality": 1.5}}}',
            "outcomes.a.quality is 1.5, not within 0 and 1",
            id="quality out of range",
        ),
        pytest.param(
            '{"prompt": "hi", "outcomes": {"a": {"quality": NaN}}}',
            "outcomes.a.quality is no finite number",
            id="quality that is no number",
        ),
        pytest.param(
            '{"prompt": "hi", "outcomes": {"a": {"quality": true}}}',
            "outcomes.a.quality is no finite number",
            id="quality that is true",
        ),
        pytest.param(
            '{"prompt": "hi", "outcomes": {"a": {"quality": 1, "usd": -1}}}', "outcomes.a.usd is negative", id="price"
        ),
        pytest.param(
            '{"prompt": "hi", "outcomes": {}, "logged": {"model": "a", "propensity": 0}}',
            "logged.propensity is 0, not above 0 and at most 1",
            id="a choice that could not be",
        ),
        pytest.param(
            '{"prompt": "hi", "outcomes": {}, "logged": {"propensity": 1}}', "logged.model is no string", id="no choice"
        ),
    ],
)
def test_a_row_that_cannot_be_read_says_why(row: str, reason: str) -> None:
    """The reason names the field."""
    with pytest.raises(RowError) as refused:
        parse_example(row.encode(), default_id="1")

    assert str(refused.value) == reason


def test_a_broken_row_is_skipped_and_reported(tmp_path: Path) -> None:
    """One bad line of a log costs one row: it is listed with its number, and empty lines are no rows."""
    good: dict[str, object] = {"id": "1", "prompt": "hi", "outcomes": {}}
    path = tmp_path / "log.jsonl"
    path.write_bytes(json.dumps(good).encode() + b"\n\n{\xff}\n" + json.dumps(good | {"id": "2"}).encode() + b"\n{")

    reading = read_examples(path)

    assert [example.id for example in reading.examples] == ["1", "2"]
    assert [broken.line for broken in reading.broken] == [3, 5]
    assert all(broken.reason.startswith("no JSON: ") for broken in reading.broken)


def test_a_log_without_rows_is_read() -> None:
    """An empty file is no error: whoever trains on it says what is missing."""
    assert parse_examples([]).examples == ()
    assert parse_examples([b"x"]).broken == (Broken(1, "no JSON: Expecting value: line 1 column 1 (char 0)"),)
