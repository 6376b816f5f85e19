"""`flotilla diff` as it is typed: whole screens."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from command_line import Ended, Run

from artifacts import an_artifact, hard_words
from flotilla_learning.artifacts import write_artifact
from flotilla_learning.datasets import Example, Outcome, format_example

PROMPTS = ["prove it", "integrate x\nby parts", "hello", "prove a theorem", "thanks", "hi"]


@pytest.fixture
def run(flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla diff` in a folder with two artifacts and a labelled log: `b` finds integrals hard as well."""
    monkeypatch.chdir(tmp_path)
    write_artifact(Path("a"), an_artifact())
    weights = {"weights": hard_words("prove", "theorem", "integrate", "parts", "by"), "bias": np.zeros(1, np.float32)}
    write_artifact(Path("b"), an_artifact(arrays=weights))
    rows = [
        Example(str(number), prompt, {"invoice": Outcome(0.5, 0.001), "big": Outcome(1.0, 0.021)})
        for number, prompt in enumerate(PROMPTS, 1)
    ]
    Path("log.jsonl").write_text("".join(format_example(row) + "\n" for row in rows) + "{\n")

    def command(*arguments: str) -> Ended:
        return flotilla("diff", "a", "b", "log.jsonl", "--model", "weak=invoice", "--model", "strong=big", *arguments)

    return command


def test_screen_says_who_moves_and_what_it_costs(run: Run) -> None:
    """One of six prompts, two cents more and half a point better each time."""
    ended = run("--threshold", "0.5")

    assert ended.code == 0
    assert ended.error.startswith("warning: 1 row skipped: no JSON")
    assert ended.out == (
        "1 of 6 prompts (16.7%) get another model\n"
        "Dollars a request: +0.003333 [+0, +0.01]\n"
        "Quality a request: +0.08333 [+0, +0.25] (known of 1 of 1 that move)\n"
        "\n"
        "MODEL         A       B\n"
        "big       33.3%   50.0%\n"
        "invoice   66.7%   50.0%\n"
        "\n"
        "invoice -> big: 1 prompts, $0.02 in all\n"
        "  integrate x by parts\n"
    )


def test_json_says_the_same(run: Run) -> None:
    """By ids; each artifact at its own threshold."""
    found = json.loads(run("--threshold", "0.5", "--threshold", "1", "-o", "json").out)

    assert (found["prompts"], found["moved"]) == (6, 2)
    assert found["moves"] == [
        {"before": "big", "after": "invoice", "prompts": 2, "usd": pytest.approx(-0.04), "examples": ["1", "4"]}
    ]
    assert found["shares"]["big"] == {"before": pytest.approx(1 / 3), "after": 0.0}


def test_same_share_of_the_strong_model_compares_what_they_rank(run: Run) -> None:
    """Whatever their scores are."""
    found = json.loads(run("--strong-ratio", "0.5", "-o", "json").out)

    assert found["shares"]["big"]["after"] == 0.5


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        pytest.param((), 2, "", id="no setting"),
        pytest.param(("--threshold", "0.5", "--alpha", "0.5"), 2, "", id="two settings"),
        pytest.param(("--threshold", "0.1") * 3, 2, "", id="three artifacts"),
        pytest.param(("--threshold", "0.5", "--model", "weak"), 2, "", id="no name"),
        pytest.param(("--alpha", "0.5"), 1, "a: a WinRate artifact takes a threshold or a strong ratio", id="alpha"),
    ],
)
def test_wrong_setting_is_told(run: Run, arguments: tuple[str, ...], code: int, said: str) -> None:
    """With what the strategy takes."""
    ended = run(*arguments)

    assert (ended.code, ended.out) == (code, "")
    assert said in ended.error


def test_model_that_neither_artifact_has_cannot_be_renamed(run: Run) -> None:
    """A slip in an ID would compare nothing, and say that nobody moves."""
    ended = run("--threshold", "0.5", "--model", "wek=invoice")

    assert (ended.code, ended.out) == (2, "")
    assert "'wek' is no model of the artifact, but weak, strong are" in ended.error


def test_log_without_rows_is_told(run: Run) -> None:
    """It is no comparison of nothing."""
    Path("log.jsonl").write_text("{\n")

    ended = run("--threshold", "0.5")

    assert ended.code == 1
    assert "error: log.jsonl has no row that can be read" in ended.error
