"""The repository's shape."""

from __future__ import annotations

import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
DESIGNED = {"README.md", "charts", "crds", "kind-config.yaml", "operator", "pyproject.toml", "router-sidecar", "tests"}
USUAL = {
    ".ci",
    ".gitignore",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "bench",
    "docs",
    "examples",
    "images",
    "requirements",
}


def test_operator_is_a_source_root_and_no_package() -> None:
    """With an __init__.py it would shadow the standard library's operator for whatever runs from the top."""
    assert not (ROOT / "operator" / "__init__.py").exists()


def test_top_level_is_fixed() -> None:
    """Nothing is added beside what the design names and every project has (as Git holds it)."""
    tracked = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout

    assert {path.split("/")[0] for path in tracked.splitlines()} <= DESIGNED | USUAL
