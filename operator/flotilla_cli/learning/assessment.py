"""What `flotilla train` and `flotilla eval` show of an artifact's figures."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say

from .reading import judged

if TYPE_CHECKING:
    from flotilla_api.artifact import CalibrationPoint
    from flotilla_learning.artifacts import Stored
    from flotilla_learning.assessing import Assessment
    from flotilla_learning.datasets import Example

_STEPS = 20
"""Lines of a curve that are shown, at most one more."""
PLOT_SUFFIXES = (".svg", ".png")


def assess_rows(stored: Stored, examples: Sequence[Example], name: str, *, seed: int) -> Assessment:
    """The figures of the artifact on the rows that have an outcome of all its models.

    Raises:
        InputError: there are fewer than two of them, or they cannot tell its models apart.
    """
    from flotilla_learning.assessing import assess, complete  # noqa: PLC0415
    from flotilla_learning.errors import TrainingError  # noqa: PLC0415
    from flotilla_learning.metrics import NoLeadError  # noqa: PLC0415

    models = stored.artifact.manifest.models
    rows = complete(examples, models)
    if len(rows) < 2:
        raise InputError(f"{name} has {len(rows)} rows with outcomes of {', '.join(models)}: two are needed")
    if len(rows) < len(examples):
        say("warning", f"{len(examples) - len(rows)} rows not used: they lack an outcome of {', '.join(models)}")
    try:
        return assess(judged(stored, rows, "rows"), rows, models, seed=seed)
    except (NoLeadError, TrainingError) as error:
        raise InputError(f"{name}: {error}") from error


def screen(assessment: Assessment) -> list[str]:
    """The figures and the curve as lines."""
    from flotilla_learning.reports import table  # noqa: PLC0415

    figures = [[each.title, _number(each.value), _between(each.low, each.high)] for each in assessment.figures]
    return [*table([["FIGURE", "VALUE", "95 %"], *figures]), "", *curve_lines(assessment.curve)]


def curve_lines(curve: Sequence[CalibrationPoint]) -> list[str]:
    """At most 21 of its points, evenly chosen, the first and the last among them."""
    from flotilla_learning.reports import table  # noqa: PLC0415

    count = min(_STEPS, len(curve) - 1)
    kept = [curve[round(step * (len(curve) - 1) / count)] for step in range(count + 1)] if count else list(curve)
    setting = "ALPHA" if curve and curve[0].alpha is not None else "THRESHOLD"
    rows = [
        [
            _number(point.threshold if point.alpha is None else point.alpha),
            f"{point.strongRatio:.1%}",
            _number(point.quality),
            "?" if point.usdPerRequest is None else _number(point.usdPerRequest),
        ]
        for point in kept
    ]
    return table([[setting, "STRONG", "QUALITY", "USD/REQUEST"], *rows], left=0)


def summarize(assessment: Assessment) -> dict[str, Any]:
    """What `-o json` writes."""
    return {
        "rows": assessment.rows,
        "figures": {each.name: _interval(each.value, each.low, each.high) for each in assessment.figures},
        "models": [{"model": model, "quality": quality, "usd": usd} for model, quality, usd in assessment.singles],
        "curve": [point.model_dump(exclude_none=True) for point in assessment.curve],
    }


def check_plot(path: Path | None) -> None:
    """A picture's file has a suffix that can be drawn."""
    if path is not None and path.suffix not in PLOT_SUFFIXES:
        raise typer.BadParameter(f"{path} must end in .png or .svg", param_hint="--plot")


def draw_plot(path: Path, title: str, assessment: Assessment) -> None:
    """The curve is drawn.

    Raises:
        InputError: it cannot be written.
    """
    from flotilla_learning.plotting import draw  # noqa: PLC0415

    try:
        draw(path, title, assessment)
    except OSError as error:
        raise InputError(f"{path}: {error.strerror or error}") from error


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _between(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _interval(value: float, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}
