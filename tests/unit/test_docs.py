"""The documents keep in step with the project: quickstart, make targets, files, reasons and metrics that they name."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from flotilla_api import metrics
from flotilla_api.conditions import Reason
from flotilla_api.policy import CAUSE_GROUPS

ROOT = Path(__file__).parents[2]
README = ROOT / "README.md"
DOCUMENTS = [README, *sorted((ROOT / "docs").glob("*.md"))]
BEGIN, END = "<!-- quickstart: the files of examples/quickstart, kept in step by a test -->", "<!-- /quickstart -->"
LINK = re.compile(r"\]\((?!https?://)([^)#]+)")


def _quickstart_block() -> str:
    files = sorted((ROOT / "examples" / "quickstart").glob("*.yaml"))
    return "\n".join(f"\n```yaml\n# {file.relative_to(ROOT)}\n{file.read_text().strip()}\n```" for file in files)


def _current_readme() -> str:
    text = README.read_text()
    head, rest = text.split(BEGIN)
    _, tail = rest.split(END)
    return f"{head}{BEGIN}{_quickstart_block()}\n\n{END}{tail}"


def test_readme_shows_the_quickstart_as_it_is() -> None:
    """The YAML in the README is the YAML that `kubectl apply` gets; UPDATE_GOLDEN=1 writes it."""
    if os.environ.get("UPDATE_GOLDEN"):
        README.write_text(_current_readme())

    assert README.read_text() == _current_readme()


def test_readme_names_make_targets_that_exist() -> None:
    """Every `make TARGET` in the documents is a target."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {
        target for path in DOCUMENTS for target in re.findall(r"(?:`|^)make ([a-z]+)", path.read_text(), re.MULTILINE)
    }

    assert named
    assert named <= targets


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_to_files(path: Path) -> None:
    """A relative link names a file or folder of the project."""
    missing = [link for link in LINK.findall(path.read_text()) if not (path.parent / link).exists()]

    assert missing == []


def test_operations_names_reasons_and_metrics_that_exist() -> None:
    """Reasons and metrics in the operation guide are those of the code."""
    text = (ROOT / "docs" / "operations.md").read_text()
    reasons = set(re.findall(r"^\| ((?:`[A-Za-z]+`(?:, )?)+) \|", text, re.MULTILINE))
    named = {reason for cell in reasons for reason in re.findall(r"`([A-Za-z]+)`", cell)}
    known_metrics = {value for value in vars(metrics).values() if isinstance(value, str)}

    assert named <= set(Reason)
    assert len(named) > 10
    assert set(re.findall(r"flotilla_(?:router|operator)_[a-z_]+", text)) <= known_metrics


def test_concepts_lists_every_cause_with_its_group() -> None:
    """The table of causes is the enum."""
    text = (ROOT / "docs" / "concepts.md").read_text()
    listed = dict(re.findall(r"^\| `([A-Za-z]+)` \| (capacity|quality|limit|fault) \|", text, re.MULTILINE))

    assert listed == {cause.value: group.value for cause, group in CAUSE_GROUPS.items()}
