"""Markdown tables of the figures, and where docs/benchmarks.md shows them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from flotilla_learning.metrics import Interval
from learning_bench.fleet import Figures
from learning_bench.pairs import Replicates


def pairs_table(found: Mapping[str, Replicates], against: str) -> str:
    """APGR, CPT50, CPT80 and how much more APGR than one of them, each with its interval."""
    rows = [
        [
            name,
            _shown(each.apgr),
            _percent(each.cpt50),
            _percent(each.cpt80),
            "" if name == against else _shown(each.over(found[against]), sign="+"),
        ]
        for name, each in found.items()
    ]
    return _table(["", "APGR", "CPT(50 %)", "CPT(80 %)", f"APGR over {against}"], rows)


def travel_table(shares: Mapping[str, float]) -> str:
    """Share of strong calls."""
    return _table(["", "share of strong calls"], [[name, f"{share:.3f}"] for name, share in shares.items()])


def fleet_table(found: Mapping[str, Figures]) -> str:
    """Quality, recovered lead and cost."""
    rows = [
        [name, _shown(each.quality), _percent(each.recovered), _shown(each.cost_ratio)] for name, each in found.items()
    ]
    return _table(["", "quality", "lead recovered", "cost, by the best large model's"], rows)


def _shown(figure: Interval, *, sign: str = "") -> str:
    return f"{figure.value:{sign}.3f} ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})"


def _percent(figure: Interval) -> str:
    return f"{figure.value * 100:.1f} ({figure.low * 100:.1f} to {figure.high * 100:.1f})"


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write_tables(document: Path, tables: Mapping[str, str]) -> None:
    """Each table stands between its markers.

    Raises:
        ValueError: a marker is missing.
    """
    text = document.read_text()
    for name, table in tables.items():
        begin, end = f"<!-- {name}: written by make bench-learning -->\n", f"<!-- /{name} -->"
        head, rest = text.split(begin)
        _, tail = rest.split(end)
        text = f"{head}{begin}\n{table}\n\n{end}{tail}"
    document.write_text(text)
