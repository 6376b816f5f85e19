"""Rows parted by group: near duplicates are never on both sides."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from .datasets import Example

Positions = NDArray[np.intp]


def split_groups(examples: Sequence[Example], *, share: float, seed: int) -> tuple[Positions, Positions]:
    """Positions of the rest and of about `share` of the rows, both rising; whole groups are drawn by `seed`."""
    groups, drawn = _drawn(examples, seed)
    sizes = np.bincount(groups)
    taken = np.zeros(len(sizes), bool)
    taken[drawn[: np.searchsorted(np.cumsum(sizes[drawn]), share * len(examples), side="right")]] = True
    return np.flatnonzero(~taken[groups]), np.flatnonzero(taken[groups])


def folds(examples: Sequence[Example], *, count: int, seed: int) -> Iterator[tuple[Positions, Positions]]:
    """Positions to train on and to judge, `count` times; each row is judged once."""
    groups, drawn = _drawn(examples, seed)
    fold_of = np.empty(len(drawn), np.intp)
    fold_of[drawn] = np.arange(len(drawn)) % count
    for fold in range(count):
        inside = fold_of[groups] == fold
        yield np.flatnonzero(~inside), np.flatnonzero(inside)


def _drawn(examples: Sequence[Example], seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Each row's group as a number, and the groups in the order drawn; a row without a group is one by itself."""
    names = [example.group or f"row {position}" for position, example in enumerate(examples)]
    groups = np.unique(np.array(names), return_inverse=True)[1].astype(np.intp)
    return groups, np.random.default_rng(seed).permutation(int(groups.max(initial=-1)) + 1)
