"""docs/simulation.md shows a fleet and commands that work, and what one of them writes."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path

import pytest

from flotilla_cli.__main__ import main

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "simulation.md"
COMMANDS = [line for line in DOCUMENT.read_text().splitlines() if line.startswith("flotilla simulate ")]
BEGIN, END = "<!-- screen: kept in step by a test -->\n", "<!-- /screen -->"


def _run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (fleet,) = re.findall(r"```yaml\n(# fleet.yaml\n.*?)```", DOCUMENT.read_text(), re.DOTALL)
    (folder / "fleet.yaml").write_text(fleet)
    (folder / "bench").symlink_to(ROOT / "bench")
    monkeypatch.chdir(folder)
    with pytest.raises(SystemExit) as ended:
        main(shlex.split(command)[1:])
    assert ended.value.code == 0


@pytest.mark.parametrize("command", COMMANDS[1:])
def test_commands_of_the_document_succeed(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On the fleet that it shows."""
    _run(command, tmp_path, monkeypatch)

    assert "flotilla" in capsys.readouterr().out


def test_document_shows_the_first_commands_screen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """UPDATE_GOLDEN=1 writes it. Its figures follow the operator's decisions, so only what they are of is compared."""
    _run(COMMANDS[0], tmp_path, monkeypatch)
    screen = capsys.readouterr().out
    head, rest = DOCUMENT.read_text().split(BEGIN)
    before, after = rest.split(END)
    if os.environ.get("UPDATE_GOLDEN"):
        before = f"\n```\n{screen}```\n\n"
        DOCUMENT.write_text(f"{head}{BEGIN}{before}{END}{after}")
    shown = before.strip().removeprefix("```\n").removesuffix("```")

    assert _columns(shown) == _columns(screen)


def _columns(screen: str) -> list[str]:
    """The preamble, the head of the table, and the policies."""
    lines = screen.splitlines()
    return [*lines[:3], *lines[4].split(), *(line.split()[0] for line in lines[5:])]
