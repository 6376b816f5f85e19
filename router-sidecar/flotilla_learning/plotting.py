"""Curves of quality by share or cost, as a picture. matplotlib is imported when one is drawn."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

from .assessing import Assessment

_COLOUR = "#0b6e99"


def draw(path: Path, title: str, assessment: Assessment) -> None:
    """`path` holds the picture, SVG or PNG by its suffix: quality by dollars, else by strong share.

    Raises:
        OSError: it cannot be written.
    """
    with picture(path, title) as axes:
        _fill(axes, assessment)


@contextmanager
def picture(path: Path, title: str) -> Generator[Any]:
    """Axes of matplotlib's to draw on; at the end of the block `path` holds them, SVG or PNG by its suffix.

    The same drawing always gives the same SVG.

    Raises:
        OSError: it cannot be written.
    """
    # What these import is worth a second, which figures without a picture do without.
    import matplotlib as mpl  # noqa: PLC0415

    library = cast("Any", mpl)
    library.use("agg")
    from matplotlib import pyplot as plt  # noqa: PLC0415

    plots = cast("Any", plt)
    with library.rc_context({"svg.hashsalt": "flotilla", "font.size": 8, "svg.fonttype": "none"}):
        figure, axes = plots.subplots(figsize=(5, 3.5), layout="constrained")
        yield axes
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
        figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None, dpi=120)
        plots.close(figure)


def _fill(axes: Any, assessment: Assessment) -> None:
    in_dollars = all(point.usdPerRequest is not None for point in assessment.curve)
    points = [
        (point.usdPerRequest or 0.0 if in_dollars else point.strongRatio, point.quality) for point in assessment.curve
    ]
    axes.plot(*zip(*sorted(points), strict=True), color=_COLOUR, marker=".", markersize=3, linewidth=0.9)
    singles = [(usd, quality, model) for model, quality, usd in assessment.singles if usd is not None]
    if in_dollars:
        for usd, quality, model in singles:
            axes.plot([usd], [quality], color="#555555", marker="x", markersize=5, linestyle="none")
            axes.annotate(model, (usd, quality), xytext=(3, 3), textcoords="offset points", fontsize=6)
    elif len(assessment.singles) == 2:
        ends = [quality for _, quality, _ in assessment.singles]
        axes.plot([0, 1], ends, color="#999999", linestyle=":", linewidth=0.9, label="random")
        axes.legend(loc="lower right", frameon=False)
    axes.set_xlabel("USD a request" if in_dollars else "share of requests to the strong model")
    axes.set_ylabel("mean quality")
