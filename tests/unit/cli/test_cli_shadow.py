"""`flotilla shadow` as it is typed: whole screens, of a log as it is exported."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended, Run

from flotilla_learning.shadowing import agreement

OLD, NEW = f"sha256:{'0' * 64}", f"sha256:{'1f' * 32}"


def a_row(number: int, live: str, shadow: str | None = None, artifact: str = NEW, **fields: Any) -> dict[str, Any]:
    usd = {"invoice": 0.001, "big": 0.02}[live]
    row: dict[str, Any] = {
        "id": str(number),
        "policy": "support",
        "time": 1000.0 + number,
        "prompt": f"Question\n{number}?",
        "choice": live,
        "model": live,
        "attempts": [{"target": live, "usd": usd, "result": "ok"}],
        "outcomes": {},
    }
    if shadow:
        row["shadow"] = {"artifact": artifact, "score": 0.5, "model": shadow}
    return row | fields


ROWS = [
    a_row(1, "invoice", "invoice"),
    a_row(2, "invoice", "big"),
    a_row(3, "big", "invoice"),
    a_row(4, "invoice", "big"),
    a_row(5, "big"),
    a_row(6, "big", "big", artifact=OLD, time=1.0),
    a_row(7, "invoice", "big", policy="sales"),
]


def written(*lines: Any) -> None:
    Path("log.jsonl").write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in lines))


@pytest.fixture
def run(flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla shadow policy/support` in a folder that holds a log."""
    monkeypatch.chdir(tmp_path)
    written(*ROWS)

    def command(*arguments: str, target: str = "policy/support") -> Ended:
        return flotilla("shadow", target, "--log", "log.jsonl", *arguments)

    return command


def test_screen_says_how_the_last_shadow_would_have_chosen(run: Run) -> None:
    """Agreement by Wilson's interval of 1 in 4; dollars by what each model's answers cost in the log."""
    ended = run()

    assert (ended.code, ended.error) == (0, "")
    lines = ended.out.splitlines()
    assert lines[:3] == [
        f"Shadow {NEW}: scored 4 of 6 requests",
        "Agreement: 25.0% [4.6%, 69.9%]",
        "3 of 4 prompts (75.0%) get another model",
    ]
    assert lines[3].startswith("Dollars a request: +0.00475 [")
    assert lines[4] == "Quality a request: not known: no row that moves has outcomes of both of its models"
    assert ended.out.split("\n\n", 1)[1] == (
        "MODEL      LIVE   SHADOW\n"
        "big       25.0%    50.0%\n"
        "invoice   75.0%    50.0%\n"
        "\n"
        "invoice -> big: 2 prompts, $0.038 in all\n"
        "  Question 2?\n"
        "  Question 4?\n"
        "\n"
        "big -> invoice: 1 prompts, -$0.019 in all\n"
        "  Question 3?\n"
    )


def test_json_says_the_same_of_another_shadow(run: Run) -> None:
    """By its digest; those who agree move nobody."""
    found = json.loads(run("--artifact", OLD, "-o", "json").out)

    assert found["artifact"] == OLD
    assert (found["requests"], found["prompts"], found["moved"]) == (6, 1, 0)
    assert found["agreement"]["value"] == 1.0
    assert found["moves"] == []


def test_labelled_rows_say_what_moves_do_to_quality(run: Run) -> None:
    """Where both outcomes are known: one gains a half, one stays."""
    outcomes = {"invoice": {"quality": 0.5}, "big": {"quality": 1.0}}
    written(a_row(1, "invoice", "big", outcomes=outcomes), a_row(2, "invoice", "invoice"))

    assert "Quality a request: +0.25 [+0, +0.5] (known of 1 of 1 that move)" in run().out


def test_rows_without_text_are_compared_as_well(run: Run) -> None:
    """A log of features has no prompts to show."""
    row = a_row(1, "invoice", "big")
    del row["prompt"]
    written(row)

    ended = run()

    assert ended.code == 0
    assert "1 of 1 prompts (100.0%)" in ended.out


def test_broken_rows_are_counted_reported_and_skipped(run: Run) -> None:
    """Also those that the shadow scored without a choice."""
    undecided = a_row(8, "invoice") | {"shadow": {"artifact": NEW, "score": 0.5, "model": None}}
    written(*ROWS, "{", "[]", undecided, a_row(9, "invoice") | {"shadow": {"artifact": 1, "model": "big"}})

    ended = run()

    assert ended.out.startswith(f"Shadow {NEW}: scored 4 of 8 requests\n")
    for reason in (
        "no JSON",
        "the line, or its shadow, is no object",
        "the shadow has no threshold or alpha to choose by",
        "its choice or its shadow cannot be read",
    ):
        assert f"warning: 1 row not used: {reason}" in ended.error


@pytest.mark.parametrize(
    ("target", "arguments", "code", "said"),
    [
        pytest.param("support", (), 2, "", id="no policy"),
        pytest.param("policy/other", (), 1, "has no request of policy other", id="another policy"),
        pytest.param("policy/support", ("--artifact", "sha256:ab"), 1, f"there is {OLD}, {NEW}", id="another shadow"),
        pytest.param("policy/sales", ("--artifact", OLD), 1, f"there is {NEW}", id="another policy's"),
    ],
)
def test_what_the_log_lacks_is_told(run: Run, target: str, arguments: tuple[str, ...], code: int, said: str) -> None:
    """With what it has."""
    ended = run(*arguments, target=target)

    assert (ended.code, ended.out) == (code, "")
    assert said in ended.error


def test_log_without_a_shadow_is_told(run: Run) -> None:
    """And how to have one."""
    written(a_row(1, "invoice"))

    assert "set spec.shadow of the policy" in run().error


@pytest.mark.parametrize(
    ("agreed", "rows", "low", "high"),
    [
        pytest.param(0, 10, 0.0, 0.2775, id="none"),
        pytest.param(10, 10, 0.7225, 1.0, id="all"),
        pytest.param(50, 100, 0.4038, 0.5962, id="half"),
    ],
)
def test_agreement_has_wilsons_interval(agreed: int, rows: int, low: float, high: float) -> None:
    """Values as in tables of it."""
    assert agreement(agreed, rows) == pytest.approx((agreed / rows, low, high), abs=1e-4)
