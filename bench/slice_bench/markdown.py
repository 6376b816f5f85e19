"""Markdown tables, and where a document shows those that a benchmark writes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path


def make_table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Without a newline at its end."""
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_tables(document: Path, tables: Mapping[str, str], target: str) -> None:
    """Each table stands between the markers that name it and the target of make that writes it.

    Raises:
        ValueError: a marker is missing.
    """
    text = document.read_text()
    for name, table in tables.items():
        begin, end = f"<!-- {name}: written by make {target} -->\n", f"<!-- /{name} -->"
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = f"{head}{begin}\n{table}\n\n{end}{tail}"
    document.write_text(text)
