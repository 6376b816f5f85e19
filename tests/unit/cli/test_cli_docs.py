"""docs/cli.md shows commands that work, the options that there are, and what is written."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from flotilla_cli.commands import app

ROOT = Path(__file__).parents[3]
DOCUMENT = ROOT / "docs" / "cli.md"
BEGIN, END = "<!-- added: kept in step by a test -->\n", "<!-- /added -->"
COMMANDS = [line for line in DOCUMENT.read_text().splitlines() if re.match("(kubectl )?flotilla inject ", line)]
JOB = Path("examples/sidecar/30-job.yaml")
KUBECTL = """#!/bin/sh
# Applies to nothing, and finds the plugin as kubectl does.
case $1 in
  apply) cat ;;
  flotilla) shift; exec kubectl-flotilla "$@" ;;
esac
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the examples, in which the document's commands ran one after another."""
    folder = tmp_path_factory.mktemp("checkout")
    shutil.copytree(ROOT / "examples", folder / "examples")
    kubectl = folder / "bin" / "kubectl"
    kubectl.parent.mkdir()
    kubectl.write_text(KUBECTL)
    kubectl.chmod(0o755)
    path = f"{kubectl.parent}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    for index, command in enumerate(COMMANDS):
        with (folder / f"{index}.out").open("wb") as out:
            shell = ["bash", "-euo", "pipefail", "-c", command]
            subprocess.run(shell, cwd=folder, env={**os.environ, "PATH": path}, check=True, stdout=out, timeout=60)
    return folder


def test_every_command_of_the_document_succeeds(ran: Path) -> None:
    """In its order; those that write to standard output write sidecars."""
    outputs = [(ran / f"{index}.out").read_text() for index in range(len(COMMANDS))]

    assert [output.count("name: flotilla-router\n") for output in outputs] == [2, 0, 0, 1]


def test_the_document_shows_what_is_added(ran: Path) -> None:
    """UPDATE_GOLDEN=1 writes it."""
    before, after = (ran / JOB).read_text(), (ran / "job.yaml").read_text().split("---\n")[-1]
    lines = difflib.unified_diff(before.splitlines(), after.splitlines(), n=1, lineterm="")
    shown = "\n".join(line for line in lines if not line.startswith(("---", "+++", "@@")))
    head, rest = DOCUMENT.read_text().split(BEGIN)
    current = f"{head}{BEGIN}\n```diff\n{shown}\n```\n\n{END}{rest.split(END)[1]}"
    if os.environ.get("UPDATE_GOLDEN"):
        DOCUMENT.write_text(current)

    assert not any(line.startswith("-") for line in shown.splitlines())
    assert DOCUMENT.read_text() == current


def commands_of(group: Any, prefix: str = "") -> dict[str, Any]:
    """All commands by their full names, also those within others."""
    found: dict[str, Any] = {}
    for name, each in group.commands.items():
        full = f"{prefix}{name}"
        found |= commands_of(each, f"{full} ") if hasattr(each, "commands") else {full: each}
    return found


def test_the_document_lists_every_option() -> None:
    """With the sentence of --help; UPDATE_GOLDEN=1 writes it, below `## flotilla NAME` and `<!-- options: NAME -->`."""
    current = DOCUMENT.read_text()
    for name, command in commands_of(typer.main.get_command(app)).items():
        options = [each for each in command.params if each.param_type_name == "option"]
        rows = [f"| {', '.join(f'`{flag}`' for flag in each.opts)} | {each.help} |" for each in options]
        table = "\n".join(["| option | what it is |", "|---|---|", *rows])
        head, begin, rest = current.partition(f"<!-- options: {name} -->\n")
        assert begin, f"docs/cli.md has no options of {name}"
        current = f"{head}{begin}\n{table}\n\n<!-- /options -->{rest.partition('<!-- /options -->')[2]}"
    if os.environ.get("UPDATE_GOLDEN"):
        DOCUMENT.write_text(current)

    assert DOCUMENT.read_text() == current
