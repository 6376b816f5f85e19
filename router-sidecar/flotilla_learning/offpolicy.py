"""What another way of choosing would have come to, from a log of choices that were partly random. PURE.

A row counts by the ratio w of the probability that the other way makes the logged choice to the one that the log had
for it. That says nothing where the log could not choose: then there is a refusal instead of a figure.

Source: Dudik, Langford, Li, Doubly Robust Policy Evaluation and Learning, 2011 (arXiv 1103.4601); Swaminathan,
Joachims, The Self-Normalized Estimator for Counterfactual Learning, 2015.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import cast

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

MOST_UNSUPPORTED = 0.01
"""Share of the other way's choices that the log may lack: quality, within [0, 1], is wrong by no more than that."""
LEAST_EFFECTIVE_ROWS = 50
"""With fewer, a 95 % interval of quality is wider than 0.28."""
_WEIGHT_ERRORS = 4.0
"""Standard errors that the mean weight may be away from 1: by chance once in 16,000 logs."""
_CERTAIN = 1 - 1e-9
_FOLDS = 5
_RIDGE = 10.0
"""Rows that say that a feature means nothing."""


class Reason(StrEnum):
    """Why there is no estimate."""

    NO_ROWS = "NoRows"
    """No row has a choice with its propensity and what came of it."""
    NO_SUPPORT = "NoSupport"
    """Choices are to be judged that the log never made, or could not make."""
    WRONG_PROPENSITIES = "WrongPropensities"
    """The weights are not 1 on average: the propensities of the log are not those of its choices."""
    SMALL_SAMPLE = "SmallSample"
    """Too few rows agree with the other way of choosing."""


@dataclass(frozen=True, slots=True)
class Log:
    """n choices among k models, and what came of each. Rows of one group are drawn together in the bootstrap."""

    models: tuple[str, ...]
    chosen: Ints
    """(n,): indices of models."""
    propensity: Floats
    """(n,): probability that the choice had, above 0 and at most 1."""
    reward: Floats
    """(n,): quality, or dollars."""
    groups: Ints
    """(n,): from 0, without gaps."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean per request with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class OffPolicy:
    """The mean reward per request of the other way of choosing, three times estimated."""

    rows: int
    effective_rows: float
    """(sum w)^2 / sum w^2: rows chosen by that way itself that would say as much."""
    mean_weight: float
    ips: Estimate
    """Inverse propensity scores: mean w r."""
    self_normalised: Estimate
    """sum w r / sum w."""
    doubly_robust: Estimate
    """Mean of what is predicted for the other way's choices, corrected by w times the error on the logged one."""


@dataclass(frozen=True, slots=True)
class Refused:
    """The log cannot say, and why."""

    reason: Reason
    message: str


def evaluate(log: Log, target: Floats, predicted: Floats, *, seed: int, draws: int = 1_000) -> OffPolicy | Refused:
    """What choosing by `target` would have come to, with bootstrap intervals.

    | the log                                                            | result            |
    |--------------------------------------------------------------------|-------------------|
    | is empty                                                           | NoRows            |
    | lacks more than 1 % of the target's choices                        | NoSupport         |
    | has fewer than 50 effective rows                                   | SmallSample       |
    | has weights whose mean is 4 standard errors and 0.01 away from 1   | WrongPropensities |
    | else                                                               | estimates         |

    Args:
        target: (n, k), probabilities of its choices; rows sum to 1.
        predicted: (n, k), what each choice would give, learned from other rows: see `predict_rewards`.
    """
    weight = _weights(log, target)
    if refused := check_support(log, target):
        return refused
    corrected = (target * predicted).sum(axis=1) + weight * (log.reward - _of_chosen(predicted, log))
    columns = np.column_stack([np.ones_like(weight), weight, weight * log.reward, corrected])
    sums = np.zeros((int(log.groups.max()) + 1, columns.shape[1]))
    np.add.at(sums, log.groups, columns)
    values = _estimates(sums.sum(axis=0))
    low, high = np.quantile(_resampled(sums, seed, draws), [0.025, 0.975], axis=0)
    ips, normalised, robust = (Estimate(*map(float, each)) for each in zip(values, low, high, strict=True))
    return OffPolicy(len(weight), effective_rows(weight), float(weight.mean()), ips, normalised, robust)


def mean_reward(log: Log, *, seed: int, draws: int = 1_000) -> Estimate:
    """What came of the log's own choices, per request."""
    ones = np.ones_like(log.reward)
    sums = np.zeros((int(log.groups.max()) + 1, 4))
    np.add.at(sums, log.groups, np.column_stack([ones, ones, log.reward, log.reward]))
    low, high = np.quantile(_resampled(sums, seed, draws)[:, 0], [0.025, 0.975])
    return Estimate(float(log.reward.mean()), float(low), float(high))


def check_support(log: Log, target: Floats) -> Refused | None:
    """Why the log cannot say what `target` would come to; None: it can."""
    if not len(log.chosen):
        return Refused(Reason.NO_ROWS, "no row has a choice with its propensity and what came of it")
    return _unsupported(log, target) or _unlikely(_weights(log, target), log.groups)


def predict_rewards(features: Floats, log: Log) -> Floats:
    """(n, k): what each model would give for each row, by ridge regression over the rows of other groups.

    Predictions of a row never saw it, so what they get wrong makes the doubly robust estimate wider, not wrong.

    Args:
        features: (n, d), anything known of a prompt before it is answered.
    """
    predicted = np.empty((len(log.chosen), len(log.models)))
    for fold in range(_FOLDS):
        held = log.groups % _FOLDS == fold
        for model in range(len(log.models)):
            known = ~held & (log.chosen == model)
            prior = log.reward[~held].mean() if (~held).any() else 0.0
            predicted[held, model] = _ridge(features[known], log.reward[known], features[held], prior)
    return predicted


def effective_rows(weight: Floats) -> float:
    """(sum w)^2 / sum w^2; 0 where every weight is."""
    squares = float((weight**2).sum())
    return float(weight.sum()) ** 2 / squares if squares else 0.0


def _ridge(known: Floats, rewards: Floats, asked: Floats, prior: float) -> Floats:
    """Predictions for `asked`: the mean of `rewards`, drawn towards `prior` like a row, and what features add to it."""
    mean = (rewards.sum() + prior) / (len(rewards) + 1)
    if not len(rewards):
        return np.full(len(asked), mean)
    centre, scale = known.mean(axis=0), known.std(axis=0)
    scale = np.where(scale > 0, scale, 1.0)
    scaled = (known - centre) / scale
    penalty = _RIDGE * np.eye(known.shape[1])
    slopes = cast("Floats", np.linalg.solve(scaled.T @ scaled + penalty, scaled.T @ (rewards - mean)))
    return np.clip(mean + (asked - centre) / scale @ slopes, rewards.min(), rewards.max())


def _weights(log: Log, target: Floats) -> Floats:
    return _of_chosen(target, log) / log.propensity


def _of_chosen(values: Floats, log: Log) -> Floats:
    return values[np.arange(len(log.chosen)), log.chosen]


def _unsupported(log: Log, target: Floats) -> Refused | None:
    wanted = target.mean(axis=0)
    counts = np.bincount(log.chosen, minlength=len(log.models))
    never = [
        name
        for name, count, share in zip(log.models, counts, wanted, strict=True)
        if not count and share > MOST_UNSUPPORTED
    ]
    if never:
        return Refused(Reason.NO_SUPPORT, f"{', '.join(never)} would be chosen, but no row of the log chose it")
    missing = float(np.where(log.propensity >= _CERTAIN, 1 - _of_chosen(target, log), 0.0).mean())
    if missing > MOST_UNSUPPORTED:
        return Refused(
            Reason.NO_SUPPORT,
            f"{missing:.1%} of the choices would be others where the log could not have chosen otherwise "
            "(propensity 1); set strategy.explore in the policy and collect a new log",
        )
    return None


def _unlikely(weight: Floats, groups: Ints) -> Refused | None:
    error = _mean_error(weight, groups)
    away = float(weight.mean()) - 1
    effective = effective_rows(weight)
    if effective < LEAST_EFFECTIVE_ROWS:
        return Refused(
            Reason.SMALL_SAMPLE,
            f"the log is worth {effective:.0f} rows of the other choices, of {LEAST_EFFECTIVE_ROWS} that are needed; "
            "collect more, or with a larger strategy.explore.ratio",
        )
    if abs(away) > _WEIGHT_ERRORS * error + MOST_UNSUPPORTED:
        return Refused(
            Reason.WRONG_PROPENSITIES,
            f"the weights' mean is {away + 1:.3f} (standard error {error:.3f}), not 1: choices are missing from the "
            "log, or its propensities are not those that they were made with",
        )
    return None


def _mean_error(values: Floats, groups: Ints) -> float:
    """Of the mean of `values` whose groups are independent."""
    sums = np.bincount(groups, weights=values - values.mean())
    return float(np.sqrt((sums**2).sum())) / len(values)


def _estimates(sums: Floats) -> Floats:
    """(..., 3) from (..., 4) sums of 1, w, w r and corrected predictions."""
    count, weight, weighted, corrected = np.moveaxis(sums, -1, 0)
    normalised = np.divide(weighted, weight, out=np.zeros_like(weighted), where=weight > 0)
    return np.stack([weighted / count, normalised, corrected / count], axis=-1)


def _resampled(sums: Floats, seed: int, draws: int) -> Floats:
    """(draws, 3): the estimates of groups drawn with replacement."""
    random = np.random.default_rng(seed)
    count = len(sums)
    drawn = [np.bincount(random.integers(count, size=count), minlength=count) @ sums for _ in range(draws)]
    return _estimates(np.asarray(drawn))
