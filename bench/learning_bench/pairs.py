"""Two models: what the router's own scorer reaches on prompts that nobody trained on, and what others do there."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import cast

import numpy as np
from numpy.typing import NDArray

from flotilla_api.artifact import MANIFEST_FILE, digest_of
from flotilla_learning.datasets import Example
from flotilla_learning.fitting import Matrix, embed_all, fit_logistic, unit_rows
from flotilla_learning.metrics import Interval, Pair, areas, crossings, interval, pair_of, recovery, resampled
from flotilla_learning.packing import pack
from flotilla_learning.routellm import STRONG, WEAK
from flotilla_learning.splits import folds
from flotilla_learning.training import Trained, TrainingOptions, default_embedder, train
from flotilla_router.artifact import Artifact, load_artifact
from flotilla_router.embedders import Embedder
from flotilla_router.strategies.scores import PairScore

Floats = NDArray[np.float64]
Fit = Callable[[Sequence[Example], Sequence[Example]], Floats]
"""Trains on the first rows and scores the second."""
NEIGHBOURS = (25, 50, 100, 200)
RESAMPLES = 300
SHARES = np.linspace(0, 1, 101)
MODELS = (WEAK, STRONG)


def win_rate(embedder: Embedder | None = None) -> TrainingOptions:
    """What is trained where nothing else is said."""
    return TrainingOptions("WinRate", MODELS, embedder or default_embedder())


def served(rows: Sequence[Example], options: TrainingOptions) -> Artifact:
    """Trained, packed, and loaded as a router loads it."""
    return loaded(train(rows, options))


def loaded(trained: Trained) -> Artifact:
    """Packed, and loaded as a router loads it."""
    files = pack(trained)
    return load_artifact(files, digest_of(files[MANIFEST_FILE]))


def scores_of(artifact: Artifact, rows: Sequence[Example]) -> Floats:
    """What a router would say of each prompt."""
    return np.array([cast("PairScore", artifact.judge(row.prompt)).score for row in rows])


def fit_served(options: TrainingOptions) -> Fit:
    """Of an artifact."""
    return lambda rows, others: scores_of(served(rows, options), others)


def fit_length(rows: Sequence[Example], others: Sequence[Example]) -> Floats:
    """The longer, the harder; there is nothing to train."""
    del rows
    return np.array([float(len(row.prompt)) for row in others])


def fit_oracle(rows: Sequence[Example], others: Sequence[Example]) -> Floats:
    """Knows both outcomes."""
    del rows
    return pair_of(others, *MODELS).gaps


def fit_neighbours(rows: Sequence[Example], others: Sequence[Example]) -> Floats:
    """The mean gap of the most similar prompts; how many, folds of the training rows choose."""
    matrix = unit_rows(embed_all(default_embedder(), [row.prompt for row in rows]))
    gaps = pair_of(rows, *MODELS).gaps
    rest, held = next(folds(rows, count=5, seed=0))
    errors = [
        float(np.square(each - gaps[held]).mean()) for each in _neighbours(matrix[rest], gaps[rest], matrix[held])
    ]
    whole = _neighbours(matrix, gaps, unit_rows(embed_all(default_embedder(), [row.prompt for row in others])))
    return whole[int(np.argmin(errors))]


def _neighbours(rows: Matrix, gaps: Floats, others: Matrix) -> list[Floats]:
    """For each number in NEIGHBOURS."""
    found: list[list[Floats]] = [[] for _ in NEIGHBOURS]
    for start in range(0, int(others.shape[0]), 500):
        similar = cast("Floats", (others[start : start + 500] @ rows.T).toarray())
        nearest = gaps[np.argsort(-similar, axis=1)[:, : max(NEIGHBOURS)]]
        for lots, count in zip(found, NEIGHBOURS, strict=True):
            lots.append(nearest[:, :count].mean(axis=1))
    return [np.concatenate(lots) for lots in found]


def fit_classifier(rows: Sequence[Example], others: Sequence[Example]) -> Floats:
    """Logistic regression on `the strong model alone is right`."""
    embedder = default_embedder()
    labels = (pair_of(rows, *MODELS).gaps > 0).astype(np.float64)
    plane = fit_logistic(embed_all(embedder, [row.prompt for row in rows]), labels, penalty=1.0)
    return plane(embed_all(embedder, [row.prompt for row in others]))


def crossvalidated(rows: Sequence[Example], fit: Fit, *, seed: int) -> Floats:
    """Each row's score from the fold, one of five, that leaves it out."""
    scores = np.empty(len(rows))
    for rest, fold in folds(rows, count=5, seed=seed):
        scores[fold] = fit([rows[row] for row in map(int, rest)], [rows[row] for row in map(int, fold)])
    return scores


class Replicates:
    """APGR, CPT50 and CPT80 over resamples of the questions; of several splits, their mean and their joint spread."""

    def __init__(self) -> None:
        self._curves: list[Floats] = []
        self._apgr: list[Floats] = []
        self._cpt50: list[Floats] = []
        self._cpt80: list[Floats] = []

    def add(self, scores: Floats, pair: Pair, *, seed: int) -> Replicates:
        """One more split. The same seed resamples the same way, so that differences are of like with like."""
        share, recovered = recovery(scores, pair.gaps, resampled(pair.groups, seed=seed, resamples=RESAMPLES))
        self._curves.append(cast("Floats", np.interp(SHARES, share[0], recovered[0])))
        self._apgr.append(areas(share, recovered))
        self._cpt50.append(crossings(share, recovered, 0.5))
        self._cpt80.append(crossings(share, recovered, 0.8))
        return self

    @property
    def curve(self) -> Floats:
        """The recovered share of the lead at SHARES of strong calls, the mean over splits."""
        return np.mean(self._curves, axis=0)

    @property
    def apgr(self) -> Interval:
        """Mean over thresholds of the recovered share of the lead."""
        return joint(self._apgr)

    @property
    def cpt50(self) -> Interval:
        """Share of strong calls that recovers half of it."""
        return joint(self._cpt50)

    @property
    def cpt80(self) -> Interval:
        """And four fifths."""
        return joint(self._cpt80)

    def over(self, other: Replicates) -> Interval:
        """How much more APGR than the other, on the same splits and resamples."""
        return joint([mine - theirs for mine, theirs in zip(self._apgr, other._apgr, strict=True)])


def joint(splits: Sequence[Floats]) -> Interval:
    """The mean over splits, and the middle 95 % of all their resamples together."""
    value = np.array([np.mean([float(each[0]) for each in splits])], np.float64)
    spread = [np.asarray(each[1:], np.float64) for each in splits]
    return interval(np.concatenate([value, *spread]))
