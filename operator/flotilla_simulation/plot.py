"""Demand, replicas and losses over time, as a picture. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import numpy as np

from .replay import Series
from .workload import Floats

_POINTS = 400
"""A curve is averaged down to this many."""
_COLOURS = ("#0b6e99", "#d9730d", "#6940a5", "#4d6461", "#ad1a72", "#0f7b6c", "#b08d00")
SUFFIXES = (".svg", ".png")


def draw(path: Path, title: str, curves: Mapping[str, Series]) -> None:
    """`path` holds the picture, SVG or PNG by its suffix; the demand is the first policy's.

    Raises:
        OSError: it cannot be written.
    """
    # What these import is worth a second, which replays without a picture do without.
    import matplotlib as mpl  # noqa: PLC0415

    library = cast("Any", mpl)
    library.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    plots = cast("Any", plt)
    with library.rc_context({"svg.hashsalt": "flotilla", "font.size": 8, "svg.fonttype": "none"}):
        figure, rows = plots.subplots(3, 1, figsize=(8, 5), sharex=True, layout="constrained")
        _fill(rows, curves)
        rows[0].set_title(title)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
        plots.close(figure)


def _fill(rows: Any, curves: Mapping[str, Series]) -> None:
    for index, (name, series) in enumerate(curves.items()):
        colour = _COLOURS[index % len(_COLOURS)]
        if index == 0:
            rows[0].plot(*_thinned(series.hours, series.demand), color="#555555", linewidth=0.8)
        rows[1].step(*_thinned(series.hours, series.ready), color=colour, linewidth=0.9, where="post", label=name)
        rows[2].plot(*_thinned(series.hours, series.bad), color=colour, linewidth=0.8)
    rows[0].set_ylabel("requests/s")
    rows[1].set_ylabel("ready replicas")
    rows[2].set_ylabel("lost or late/s")
    rows[2].set_xlabel("hours")
    rows[1].legend(loc="upper right", ncols=4, frameon=False)
    for row in rows:
        row.set_ylim(bottom=0)
        row.spines[["top", "right"]].set_visible(False)


def _thinned(hours: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Means of as many neighbours as it takes."""
    step = max(1, -(-len(hours) // _POINTS))
    edges = np.arange(0, len(hours), step)
    counts = np.diff(np.append(edges, len(hours)))
    return (
        np.round(np.add.reduceat(hours, edges) / counts, 3) if len(hours) else hours,
        np.round(np.add.reduceat(values, edges) / counts, 3) if len(values) else values,
    )
