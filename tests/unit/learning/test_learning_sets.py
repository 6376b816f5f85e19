"""Published data sets as rows, near duplicates among them, and splits that keep those together."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flotilla_learning.datasets import Broken, Example, Outcome
from flotilla_learning.grouping import group_near_duplicates
from flotilla_learning.llmrouter import read_llmrouter, read_prices
from flotilla_learning.routellm import STRONG, WEAK, read_contaminated, read_routellm
from flotilla_learning.splits import folds, split_groups


def rows(*prompts: str) -> list[Example]:
    return [Example(str(number), prompt, {}) for number, prompt in enumerate(prompts)]


def groups_of(*prompts: str) -> list[str]:
    return [row.group for row in group_near_duplicates(rows(*prompts))]


def test_routellms_table_is_read(tmp_path: Path) -> None:
    """True is 1; a row without a verdict is broken, one that a model was trained on is left out."""
    table = tmp_path / "mmlu.csv.gz"
    lines = [
        f"subject,prompt,{WEAK},{STRONG}",
        '"law","Two\nlines?",False,True',
        "law,Known?,True,True",
        "law,Neither?,,",
    ]
    table.write_bytes(gzip.compress("\n".join(lines).encode()))
    listed = tmp_path / "contaminated.jsonl"
    listed.write_text(json.dumps({"train_prompt": "x", "eval_prompt": "Known?"}) + "\n")

    reading = read_routellm(table, contaminated=read_contaminated(listed))

    assert [(row.prompt, dict(row.outcomes)) for row in reading.examples] == [
        ("Two\nlines?", {WEAK: Outcome(0.0), STRONG: Outcome(1.0)})
    ]
    assert reading.broken == (Broken(4, "no prompt, or no model's column is True or False"),)


def test_llmrouters_file_is_read(tmp_path: Path) -> None:
    """A request costs its prompt, four bytes a token, and an answer of 256; without a price that is not known."""
    prices, answers = tmp_path / "llm.json", tmp_path / "train.json"
    prices.write_text(json.dumps({"a": {"input_price": 0.2, "output_price": 1.0, "size": "7B"}}))
    answers.write_text(json.dumps([{"question": "four", "scores": {"a": 0.5, "b": 1}}, {"question": "x"}, 7]))

    reading = read_llmrouter(answers, read_prices(prices))

    (row,) = reading.examples
    assert (row.outcomes["a"].quality, row.outcomes["a"].usd) == (0.5, pytest.approx((1 * 0.2 + 256) / 1e6))
    assert row.outcomes["b"] == Outcome(1.0)
    assert [each.line for each in reading.broken] == [2, 3]


def test_near_duplicates_share_a_group() -> None:
    """Case, marks and one word of many do not make another question."""
    story = "Anna has twelve apples and gives three of them to each of her two good friends from school on Monday "

    first, shouted, longer, other = groups_of(
        story + "morning", story.upper() + "Morning!", story + "at noon", "What is the capital of France?"
    )

    assert first == shouted == longer == "0"
    assert other == "3"


def test_short_prompts_are_duplicates_only_of_themselves() -> None:
    """Two words have no run of three: all of them are one."""
    assert groups_of("hi there", "Hi, there!", "hi you", "", "...") == ["0", "0", "2", "3", "3"]


@given(st.lists(st.sampled_from("abcdefgh"), min_size=4, max_size=40), st.floats(0.1, 0.9), st.integers(0, 5))
def test_no_group_is_parted(names: list[str], share: float, seed: int) -> None:
    """Every row is on one side or in one fold, and its group with it."""
    examples = [Example(str(number), "p", {}, group) for number, group in enumerate(names)]

    for rest, part in [split_groups(examples, share=share, seed=seed), *folds(examples, count=3, seed=seed)]:
        assert sorted([*rest, *part]) == list(range(len(names)))
        assert not {names[row] for row in rest} & {names[row] for row in part}


def test_each_row_is_judged_by_one_fold() -> None:
    """The folds' second parts are a partition."""
    judged = [int(row) for _, part in folds(rows(*"abcdefghij"), count=3, seed=1) for row in part]

    assert sorted(judged) == list(range(10))


def test_a_split_takes_about_its_share_and_is_that_of_its_seed() -> None:
    """Rows without a group are groups of one: the share is met exactly."""
    examples = rows(*[str(number) for number in range(100)])

    first, again, other = (split_groups(examples, share=0.3, seed=seed)[1].tolist() for seed in (1, 1, 2))

    assert len(first) == 30
    assert first == again != other
