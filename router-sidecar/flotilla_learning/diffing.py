"""What changes for the prompts of a log when one way of choosing takes the place of another. PURE."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .datasets import Example

DRAWS = 1_000
Floats = NDArray[np.float64]
Groups = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean with its 95 % bootstrap interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Move:
    """The prompts that leave one model for another."""

    before: str
    after: str
    prompts: int
    usd: float | None
    """Dollars that it costs in all, negative where it saves; None: what one of the models costs is not known."""
    examples: tuple[str, ...]
    """Ids of the first of them."""


@dataclass(frozen=True, slots=True)
class Diff:
    """All moves, the largest first."""

    prompts: int
    moves: tuple[Move, ...]
    usd_per_request: Interval | None
    """Dollars that a request costs more; None: what a model costs is not known."""
    quality: Interval | None
    """Quality that a request gains: what movers gain that are known, times the share of movers; None: none is known."""
    quality_rows: int
    """Movers whose outcomes are known with both models."""
    shares: Mapping[str, tuple[float, float]]
    """Of each model among the choices, before and after."""

    @property
    def moved(self) -> int:
        """Prompts that get another model."""
        return sum(move.prompts for move in self.moves)


def compare(
    examples: Sequence[Example],
    before: Sequence[str],
    after: Sequence[str],
    *,
    seed: int,
    shown: int = 3,
    prices: Mapping[str, float] | None = None,
) -> Diff:
    """The difference between two choices for each row.

    A model's dollars are those of the row's outcome; where the row has none, the mean of those that are known, or what
    `prices` says that an answer costs.
    """
    known_usd = {**(prices or {}), **mean_usd(examples)}
    usd = [_usd(row, new, known_usd, old) for row, old, new in zip(examples, before, after, strict=True)]
    moving = [index for index in range(len(examples)) if before[index] != after[index]]
    gains = {index: _quality(examples[index], before[index], after[index]) for index in moving}
    known = {index: gain for index, gain in gains.items() if gain is not None}
    groups = group_numbers(examples)
    return Diff(
        prompts=len(examples),
        moves=_moves(examples, before, after, usd, shown),
        usd_per_request=None if not examples or None in usd else _interval([each or 0.0 for each in usd], groups, seed),
        quality=_gain_interval(known, moving, groups, seed) if known else None,
        quality_rows=len(known),
        shares=_shares(before, after),
    )


def mean_usd(examples: Sequence[Example]) -> dict[str, float]:
    """What an answer of each model costs, on average over the rows that say so."""
    known: dict[str, list[float]] = {}
    for row in examples:
        for model, outcome in row.outcomes.items():
            if outcome.usd is not None:
                known.setdefault(model, []).append(outcome.usd)
    return {model: sum(each) / len(each) for model, each in known.items()}


def group_numbers(examples: Sequence[Example]) -> Groups:
    """A number for each row, the same for rows of one group; a row without a group is one by itself."""
    numbers: dict[str, int] = {}
    names = [f"g{row.group}" if row.group else f"r{index}" for index, row in enumerate(examples)]
    return np.array([numbers.setdefault(name, len(numbers)) for name in names], np.int64)


def _moves(
    examples: Sequence[Example],
    before: Sequence[str],
    after: Sequence[str],
    usd: Sequence[float | None],
    shown: int,
) -> tuple[Move, ...]:
    rows: dict[tuple[str, str], list[int]] = {}
    for index, pair in enumerate(zip(before, after, strict=True)):
        if pair[0] != pair[1]:
            rows.setdefault(pair, []).append(index)
    moves = [
        Move(old, new, len(own), _sum([usd[each] for each in own]), tuple(examples[each].id for each in own[:shown]))
        for (old, new), own in rows.items()
    ]
    return tuple(sorted(moves, key=lambda move: (-move.prompts, move.before, move.after)))


def _usd(row: Example, new: str, prices: Mapping[str, float], old: str) -> float | None:
    if new == old:
        return 0.0
    costs = [_cost(row, model, prices) for model in (new, old)]
    return None if costs[0] is None or costs[1] is None else costs[0] - costs[1]


def _cost(row: Example, model: str, prices: Mapping[str, float]) -> float | None:
    outcome = row.outcomes.get(model)
    return outcome.usd if outcome is not None and outcome.usd is not None else prices.get(model)


def _quality(row: Example, old: str, new: str) -> float | None:
    found = row.outcomes.get(new), row.outcomes.get(old)
    return None if found[0] is None or found[1] is None else found[0].quality - found[1].quality


def _sum(values: Sequence[float | None]) -> float | None:
    known = [each for each in values if each is not None]
    return sum(known) if len(known) == len(values) else None


def _shares(before: Sequence[str], after: Sequence[str]) -> dict[str, tuple[float, float]]:
    counts = Counter(before), Counter(after)
    rows = max(len(before), 1)
    return {model: (counts[0][model] / rows, counts[1][model] / rows) for model in sorted(counts[0] | counts[1])}


def _interval(values: Sequence[float], groups: Groups, seed: int) -> Interval:
    """Of the mean, groups being drawn with replacement."""
    drawn = _drawn_sums(np.stack([np.ones(len(values)), np.asarray(values)], axis=1), groups, seed)
    low, high = np.quantile(drawn[:, 1] / drawn[:, 0], [0.025, 0.975])
    return Interval(float(np.mean(values)), float(low), float(high))


def _gain_interval(known: Mapping[int, float], moving: Sequence[int], groups: Groups, seed: int) -> Interval:
    """Of the known movers' mean gain times the share of movers; draws whose movers are all unknown say nothing."""
    columns = np.zeros((len(groups), 4))
    columns[:, 0] = 1
    columns[moving, 1] = 1
    columns[list(known), 2] = 1
    columns[list(known), 3] = list(known.values())
    drawn = _drawn_sums(columns, groups, seed)
    low, high = np.quantile(_gains(drawn[(drawn[:, 2] > 0) | (drawn[:, 1] == 0)]), [0.025, 0.975])
    return Interval(float(_gains(columns.sum(axis=0))), float(low), float(high))


def _gains(sums: Floats) -> Floats:
    """(...) from (..., 4) sums of rows, movers, known movers and what those gain; without movers nothing is gained."""
    rows, movers, known, gain = np.moveaxis(sums, -1, 0)
    return gain / np.maximum(known, 1) * movers / rows


def _drawn_sums(columns: Floats, groups: Groups, seed: int) -> Floats:
    """(draws, columns): sums over groups that are drawn with replacement."""
    _, own = np.unique(groups, return_inverse=True)
    sums = np.zeros((int(own.max()) + 1, columns.shape[1]))
    np.add.at(sums, own, columns)
    random = np.random.default_rng(seed)
    count = len(sums)
    return np.stack([np.bincount(random.integers(count, size=count), minlength=count) @ sums for _ in range(DRAWS)])
