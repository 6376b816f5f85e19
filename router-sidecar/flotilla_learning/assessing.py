"""How well an artifact chooses on rows with all outcomes: figures by name, and its curve of cost and quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from flotilla_api.artifact import CalibrationPoint, Metric
from flotilla_router.strategies.scores import ClusterScores, PairScore, Scores

from .calibration import calibrate
from .choices import ClusterEvaluation, Point, evaluate_choices, table_of
from .datasets import Example
from .metrics import Evaluation, Interval, evaluate, pair_of

IN_MANIFEST = frozenset({"apgr", "cpt50", "cpt80", "hypervolume"})
"""Figures that an artifact carries."""


@dataclass(frozen=True, slots=True)
class Figure:
    """One number; its interval is 95 %, of a bootstrap over groups of rows. None: it has none by its nature."""

    name: str
    title: str
    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True, slots=True)
class Assessment:
    """Everything of one artifact on one set of rows."""

    rows: int
    figures: tuple[Figure, ...]
    curve: tuple[CalibrationPoint, ...]
    """By rising threshold or alpha."""
    singles: tuple[tuple[str, float, float | None], ...]
    """Each model alone: quality, and dollars a request where they are known."""

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What the artifact's manifest says of it."""
        return tuple(
            Metric(name=each.name, value=each.value, low=each.low, high=each.high)
            for each in self.figures
            if each.name in IN_MANIFEST and each.low is not None and each.high is not None
        )


def complete(examples: Sequence[Example], models: Sequence[str]) -> list[Example]:
    """The rows with an outcome of every model."""
    return [row for row in examples if all(model in row.outcomes for model in models)]


def assess(scores: Sequence[Scores], examples: Sequence[Example], models: Sequence[str], *, seed: int) -> Assessment:
    """The figures of `scores`, row by row those of `examples`, each with outcomes of all `models`.

    Raises:
        NoLeadError: of two models the strong one is no better on these rows.
        TrainingError: of a Cluster's models one lacks the cost of an answer.
    """
    pairs = [each for each in scores if isinstance(each, PairScore)]
    if len(pairs) == len(scores):
        weak, strong = models
        evaluation = evaluate([each.score for each in pairs], pair_of(examples, weak, strong), seed=seed)
        figures = _of_pair(evaluation)
    else:
        clusters = [each for each in scores if isinstance(each, ClusterScores)]
        figures = _of_choices(evaluate_choices(clusters, table_of(examples, tuple(models)), seed=seed))
    singles = tuple((model, *_alone(examples, model)) for model in models)
    return Assessment(len(examples), figures, calibrate(scores, examples), singles)


def _of_pair(found: Evaluation) -> tuple[Figure, ...]:
    return (
        _figure("apgr", "APGR", found.apgr),
        Figure("apgrRandom", "  random", 0.5),
        _figure("apgrLength", "  prompt length alone", found.length_apgr),
        Figure("apgrOracle", "  oracle", found.oracle_apgr),
        _figure("cpt50", "CPT(50)", found.cpt50),
        _figure("cpt80", "CPT(80)", found.cpt80),
        _figure("hypervolume", "hypervolume", found.hypervolume),
        _figure("qualityWeak", "quality, weak model alone", found.weak),
        _figure("qualityStrong", "quality, strong model alone", found.strong),
    )


def _of_choices(found: ClusterEvaluation) -> tuple[Figure, ...]:
    best, point = max(found.singles, key=lambda single: single[1].quality.value)
    return (
        _figure("hypervolume", "hypervolume", found.hypervolume),
        *_both("BestSingle", f"best single model ({best})", point),
        *_both("Random", "random model", found.random),
        *_both("Oracle", "oracle", found.oracle),
    )


def _both(name: str, title: str, point: Point) -> tuple[Figure, Figure]:
    quality = _figure(f"quality{name}", f"quality, {title}", point.quality)
    return quality, _figure(f"usd{name}", f"USD a request, {title}", point.usd)


def _figure(name: str, title: str, interval: Interval) -> Figure:
    return Figure(name, title, interval.value, interval.low, interval.high)


def _alone(examples: Sequence[Example], model: str) -> tuple[float, float | None]:
    outcomes = [row.outcomes[model] for row in examples]
    usd = [each.usd for each in outcomes if each.usd is not None]
    quality = sum(each.quality for each in outcomes) / len(outcomes)
    return quality, sum(usd) / len(usd) if len(usd) == len(outcomes) else None
