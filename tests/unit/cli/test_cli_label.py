"""`flotilla label` as it is typed: what is judged, what is written, and that it goes on where it stopped."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from command_line import Ended, Run

from fakes.chat import Json, Said, chat_api
from flotilla_learning.datasets import Outcome, read_examples


@pytest.fixture
def run(flotilla: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Run:
    """Runs `flotilla label log.jsonl -o out.jsonl` in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> Ended:
        return flotilla("label", "log.jsonl", "-o", "out.jsonl", *arguments)

    return command


def a_log(rows: Sequence[Json | str]) -> None:
    Path("log.jsonl").write_text("".join(f"{each if isinstance(each, str) else json.dumps(each)}\n" for each in rows))


def a_row(number: int, **fields: Any) -> Json:
    answers = {"small": "42", "big": {"text": "43", "usd": 0.01}}
    return {"id": f"r{number}", "prompt": f"Question {number}?", "answers": answers, "reference": "42"} | fields


def labelled() -> dict[str, dict[str, Outcome]]:
    """Outcomes of out.jsonl by id; the file has no broken line."""
    reading = read_examples(Path("out.jsonl"))
    assert reading.broken == ()
    return {each.id: dict(each.outcomes) for each in reading.examples}


def rating(number: int) -> Callable[[Json], Said]:
    return lambda _: Said(f"Rating: [[{number}]]")


def test_answers_are_judged_by_their_reference(run: Run) -> None:
    """Every answer of every row, with what it cost."""
    a_log([a_row(1), a_row(2, reference="43")])

    ended = run("--exact")

    assert (ended.code, ended.error) == (0, "")
    assert ended.out == "2 rows labelled, 0 were before, 0 could not be judged, 0 broken: out.jsonl\n"
    assert labelled() == {
        "r1": {"small": Outcome(1.0), "big": Outcome(0.0, 0.01)},
        "r2": {"small": Outcome(0.0), "big": Outcome(1.0, 0.01)},
    }


def test_answers_are_judged_by_a_model(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is shown the question and each answer, with the key of the environment."""
    a_log([a_row(1)])
    monkeypatch.setenv("JUDGE_KEY", "s3cret")

    def say(body: Json) -> Said:
        is_right = "Answer]\n42\n[The End of Assistant" in body["messages"][0]["content"]
        return Said("[[10]]" if is_right else "[[1]]")

    with chat_api(say) as api:
        ended = run("--judge-url", api.url, "--judge-model", "judge", "--key-env", "JUDGE_KEY")

    assert ended.code == 0
    assert labelled() == {"r1": {"small": Outcome(1.0), "big": Outcome(0.0, 0.01)}}
    assert {headers["Authorization"] for headers, _ in api.requests} == {"Bearer s3cret"}
    assert all("Question 1?" in question for question in api.questions)
    assert "s3cret" not in ended.out + ended.error + Path("out.jsonl").read_text()


def test_json_answers_are_judged_by_keys(run: Run) -> None:
    """By the share that is equal."""
    a_log([a_row(1, answers={"small": '{"a": 1, "b": 0}'}, gold={"a": 1, "b": 2})])

    run("--json", "--key", "a", "--key", "b", "--reference", "gold")

    assert labelled() == {"r1": {"small": Outcome(0.5)}}


def test_broken_rows_are_counted_reported_and_skipped(run: Run) -> None:
    """A log that was cut off is one of them."""
    a_log(["{", a_row(1), {"features": {}}, a_row(2, reference=None), a_row(1), "", '{"id": "r9", "prompt'])

    ended = run("--exact", "--summary", "json")

    assert ended.code == 0
    assert json.loads(ended.out) == {"labelled": 1, "before": 0, "failed": 1, "broken": 4}
    assert "warning: 1 row skipped: it has no prompt" in ended.error
    assert "warning: 1 row skipped: its id is that of a row before" in ended.error
    assert "warning: 1 row not judged: the row has no reference" in ended.error
    assert set(labelled()) == {"r1"}


def test_run_goes_on_where_another_was_cut_off(run: Run) -> None:
    """Also within a line; only what is missing is asked."""
    a_log([a_row(number, answers={"small": "42"}) for number in range(6)])
    with chat_api(rating(10)) as api:
        run("--judge-url", api.url, "--judge-model", "judge")
        whole = Path("out.jsonl").read_bytes().splitlines(keepends=True)
        Path("out.jsonl").write_bytes(b"".join(whole[:2]) + whole[2][:30])
        api.requests.clear()

        ended = run("--judge-url", api.url, "--judge-model", "judge")

    assert "4 rows labelled, 2 were before" in ended.out
    assert len(api.requests) == 4
    assert sorted(Path("out.jsonl").read_bytes().splitlines(keepends=True)) == sorted(whole)


@pytest.mark.parametrize("text", ["all that I know", '{"id": "r1", "prompt": "mine"}'])
def test_file_of_one_unfinished_line_is_not_emptied(run: Run, text: str) -> None:
    """It is another program's, unless the line begins as ours do."""
    a_log([a_row(1)])
    Path("out.jsonl").write_text(text)

    ended = run("--exact")

    assert (ended.code, Path("out.jsonl").read_text()) == (1, text)
    assert "something else than labelled rows" in ended.error


@pytest.mark.parametrize("length", [1, 30])
def test_run_goes_on_after_it_was_cut_off_in_its_first_row(run: Run, length: int) -> None:
    """Such a beginning is ours, and is written anew."""
    a_log([a_row(1)])
    run("--exact")
    whole = Path("out.jsonl").read_bytes()
    Path("out.jsonl").write_bytes(whole[:length])

    assert run("--exact").code == 0
    assert Path("out.jsonl").read_bytes() == whole


def test_rows_of_two_judges_are_not_mixed(run: Run) -> None:
    """Nor is a file overwritten that is something else."""
    a_log([a_row(1)])
    run("--exact")
    before = Path("out.jsonl").read_bytes()

    other = run("--exact", "--pattern", "x")
    asked = run("--exact", "--ask", "third", "--ask-url", "http://127.0.0.1:9")
    Path("log.jsonl").rename("out.jsonl")
    a_log([a_row(1)])
    something = run("--exact")

    assert [other.code, asked.code, something.code] == [1, 1, 1]
    assert "holds rows judged by 'exact', not 'exact x'" in other.error
    assert "without outcomes of all models of --ask" in asked.error
    assert "something else than labelled rows" in something.error
    assert json.loads(before)["id"] == "r1"


def test_models_are_asked_for_answers_that_are_missing(run: Run) -> None:
    """By their own names; what a gateway says of their cost is kept. What a log holds in part cannot be asked."""
    cost = {"x-flotilla-model": "big", "x-flotilla-cost-usd": "0.02"}
    logged = {"model": "small", "propensity": 0.5}
    a_log(
        [
            a_row(1, answers={"small": "42"}),
            a_row(2),
            a_row(3, answers={"small": "42"}, prompt="x" * 1024, logged=logged),
        ]
    )

    with chat_api(lambda _: Said("42", headers=cost)) as api:
        ended = run("--exact", "--ask", "big", "--ask-url", api.url)

    assert api.questions == ["Question 1?"]
    assert labelled()["r1"] == {"small": Outcome(1.0), "big": Outcome(1.0, 0.02)}
    assert "1 row not judged: the log holds only the beginning and the end" in ended.error


def test_answer_of_another_model_is_not_taken_for_the_one_asked(run: Run) -> None:
    """A gateway may answer by a fallback."""
    a_log([a_row(1, answers={})])

    with chat_api(lambda _: Said("42", headers={"x-flotilla-model": "huge"})) as api:
        ended = run("--exact", "--ask", "big", "--ask-url", api.url)

    assert ended.code == 1
    assert "1 row not judged: huge answered in place of big" in ended.error


def test_wrong_key_ends_the_run_at_once(run: Run) -> None:
    """No further row is tried, and what was labelled is kept."""
    a_log([a_row(number) for number in range(50)])

    with chat_api(lambda _: Said(status=401)) as api:
        ended = run("--judge-url", api.url, "--judge-model", "judge", "--concurrency", "1")

    assert ended.code == 1
    assert "says 401: no: 401; what was labelled is kept" in ended.error
    assert len(api.requests) < 10


def test_judge_that_does_not_answer_ends_the_run(run: Run) -> None:
    """After ten rows, each tried six times; the next run tries them again."""
    a_log([a_row(number, answers={"small": "42"}) for number in range(40)])

    with chat_api(lambda _: Said(status=503, headers={"retry-after": "0"})) as api:
        ended = run("--judge-url", api.url, "--judge-model", "judge", "--concurrency", "1")
        assert len(api.requests) < 40 * 6
        assert Path("out.jsonl").read_bytes() == b""
    with chat_api(rating(5)) as api:
        again = run("--judge-url", api.url, "--judge-model", "judge")

    assert ended.code == 1
    assert "error: 10 rows in a row failed, the last one: " in ended.error
    assert "40 rows labelled" in again.out


def test_rows_are_judged_at_once(run: Run) -> None:
    """As many as --concurrency says, and no more: the judge answers only when all of them wait."""
    a_log([a_row(number, answers={"small": "42"}) for number in range(9)])
    everybody = threading.Barrier(3, timeout=20)

    def together(_: Json) -> Said:
        everybody.wait()
        return Said("[[5]]")

    with chat_api(together) as api:
        ended = run("--judge-url", api.url, "--judge-model", "judge", "--concurrency", "3")

    assert "9 rows labelled" in ended.out


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param((), id="no judge"),
        pytest.param(("--exact", "--json"), id="two judges"),
        pytest.param(("--judge-url", "http://127.0.0.1:9"), id="no model"),
        pytest.param(("--judge-url", "file:///etc/passwd", "--judge-model", "m"), id="no URL"),
        pytest.param(("--json", "--pattern", "x"), id="a pattern of JSON"),
        pytest.param(("--json", "--key-env", "PATH"), id="a key without a judge"),
        pytest.param(("--json", "--ask-key-env", "PATH"), id="a key of nobody who is asked"),
        pytest.param(("--exact", "--key", "x"), id="a key of text"),
        pytest.param(("--exact", "--pattern", "("), id="no pattern"),
        pytest.param(("--exact", "--ask", "big"), id="nobody to ask"),
        pytest.param(("--exact", "--ask-url", "http://127.0.0.1:9"), id="nothing to ask"),
    ],
)
def test_wrong_usage_is_told(run: Run, arguments: Sequence[str]) -> None:
    """Exit code 2, before anything is read."""
    assert run(*arguments).code == 2


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(("--exact",), "log.jsonl: No such file", id="no log"),
        pytest.param(
            ("--judge-url", "http://127.0.0.1:9", "--judge-model", "m", "--key-env", "NO_SUCH_KEY"),
            "NO_SUCH_KEY is not set",
            id="no key",
        ),
    ],
)
def test_what_is_missing_is_told(run: Run, arguments: Sequence[str], said: str) -> None:
    """Exit code 1."""
    ended = run(*arguments)

    assert ended.code == 1
    assert said in ended.error
