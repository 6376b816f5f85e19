"""The commands of docs/learned-routing.md, one after another, on a log as it is exported."""

from __future__ import annotations

import json
import random
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from fakes.chat import Json, Said, chat_api
from flotilla_api.artifact import MANIFEST_FILE, digest_of
from flotilla_cli.__main__ import main

ROOT = Path(__file__).parents[3]
SECTION = (ROOT / "docs" / "learned-routing.md").read_text().partition("## From a log to an artifact")[2]
COMMANDS = [line for line in SECTION.partition("```sh\n")[2].partition("```")[0].splitlines() if line]
USD = {"general": 0.001, "big": 0.02}
WORDS = [f"w{number}" for number in range(100, 400)]


def a_log(count: int) -> list[Json]:
    """Half of it was explored; the small model fails where a word is `hard`; the shadow asks `big` more often."""
    draw = random.Random(7)
    rows: list[Json] = []
    for number in range(count):
        words = draw.sample(WORDS, 12)
        if draw.random() < 0.4:
            words[draw.randrange(12)] = "hard"
        choice, propensity = ("big", 0.25) if draw.random() < 0.25 else ("general", 0.75)
        rows.append(
            {
                "id": f"r{number}",
                "policy": "assistant",
                "time": float(number),
                "prompt": " ".join(words),
                "choice": choice,
                "candidates": ["general", "big"],
                "model": choice,
                "answer": answer(choice, " ".join(words)),
                "attempts": [{"target": choice, "result": "ok", "usd": USD[choice]}],
                "usd": USD[choice],
                "shadow": {"artifact": "sha256:ab", "score": 0.5, "model": "big" if number % 3 else "general"},
                "outcomes": {},
                "logged": {"model": choice, "propensity": propensity, "scores": {}},
            }
        )
    return rows


def answer(model: str, prompt: str) -> str:
    return "wrong" if model == "general" and "hard" in prompt.split() else "right"


def say(body: Json) -> Said:
    """A judge that knows, and a gateway that says who answered and what that cost."""
    text = body["messages"][0]["content"]
    if body["model"] == "judge-1":
        return Said("Rating: [[10]]" if "Answer]\nright\n" in text else "Rating: [[1]]")
    model = body["model"]
    headers = {"x-flotilla-model": model, "x-flotilla-cost-usd": str(USD[model])}
    return Said(answer(model, text), headers=headers)


def run(capsys: pytest.CaptureFixture[str], arguments: Sequence[str]) -> str:
    """What a command writes; it succeeds."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    out, error = capsys.readouterr()
    assert ended.value.code == 0, error
    return out


def test_commands_lead_from_a_log_to_a_promoted_artifact(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Each works on what those before it wrote, as the document has them."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("JUDGE_KEY", "a")
    monkeypatch.setenv("GATEWAY_KEY", "b")
    Path("log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in a_log(600)))
    Path("30-canary.yaml").write_text((ROOT / "examples" / "learned-routing" / "30-canary.yaml").read_text())
    outputs: dict[str, str] = {}
    with chat_api(say) as api:
        for line in COMMANDS:
            words = shlex.split(re.sub(r"https?://\S+", api.url, line))
            assert words[0] == "flotilla"
            target = words[words.index(">") + 1] if ">" in words else None
            arguments = words[1 : words.index(">")] if target else words[1:]
            if arguments[0] == "diff":
                run(capsys, ["train", "labelled.jsonl", "--models", "general,big", "-o", "router-v1", "--seed", "5"])
            outputs[" ".join(arguments[:2])] = out = run(capsys, arguments)
            if target:
                Path(target).write_text(out)

    labelled: list[Any] = [json.loads(line) for line in Path("labelled.jsonl").read_text().splitlines()]
    assert all(set(row["outcomes"]) == {"general", "big"} for row in labelled)
    assert all(row["outcomes"]["big"] == {"quality": 1.0, "usd": 0.02} for row in labelled)
    digest = digest_of(Path("router-v2", MANIFEST_FILE).read_bytes())
    assert f'digest: "{digest}"' in Path("router-v2.yaml").read_text()
    assert yaml.safe_load(Path("router-v2.yaml").read_text())["metadata"] == {
        "name": "router-v2",
        "namespace": "agents",
    }
    assert Path("curve.svg").read_text().startswith("<?xml")
    assert "artifact, DR" in outputs["eval router-v2"]
    assert "prompts" in outputs["diff router-v1"]
    assert "Shadow sha256:ab: scored 600 of 600 requests" in outputs["shadow policy/assistant"]
    policy = yaml.safe_load(Path("30-canary.yaml").read_text())
    assert policy["spec"]["strategy"]["artifact"] == policy["spec"]["canary"]["artifact"]


@pytest.mark.parametrize("command", ["eval", "diff"])
def test_artifacts_are_judged_by_rows_that_training_left_out(command: str) -> None:
    """Of both documents: what a scorer was fitted to flatters it."""
    lines = [*COMMANDS, *(ROOT / "docs" / "cli.md").read_text().splitlines()]
    judging = [line for line in lines if line.startswith(f"flotilla {command} ")]

    assert len(judging) >= 2
    assert not [line for line in judging if "labelled.jsonl" in line]
