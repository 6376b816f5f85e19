"""The cheapest choice of one option of every item within a budget: the multiple-choice knapsack. PURE.

Source: Kellerer, Pferschy, Pisinger, "Knapsack Problems" (2004), section 11.5: dynamic programming over the budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Costs = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Item:
    """Options of which exactly one is chosen; the first one weighs nothing."""

    weights: Sequence[int]
    """Ascending."""
    costs: Sequence[float]


@dataclass(frozen=True, slots=True)
class Table:
    """The least cost of some items for every budget from 0 on."""

    cost: Costs
    """By budget; it never grows with it."""
    _items: Sequence[Item]
    _chosen: Sequence[NDArray[np.int32]]
    """For each item, the option by the budget that is left for it and all items before it."""

    def options(self, budget: int) -> list[int]:
        """Of each item, the option that makes the least cost; of equal ones the one that weighs least."""
        found = [0] * len(self._items)
        for index in range(len(self._items) - 1, -1, -1):
            option = int(self._chosen[index][budget])
            found[index] = option
            budget -= self._items[index].weights[option]
        return found


def solve(items: Sequence[Item], budget: int) -> Table:
    """The exact solution for every budget up to `budget`, in O(all options x budget)."""
    cost: Costs = np.zeros(budget + 1)
    chosen: list[NDArray[np.int32]] = []
    for item in items:
        cost, options = _add(cost, item)
        chosen.append(options)
    return Table(cost, items, chosen)


def _add(before: Costs, item: Item) -> tuple[Costs, NDArray[np.int32]]:
    """`before` with one item more; and its option by budget."""
    size = len(before)
    after = before + item.costs[0]
    options = np.zeros(size, np.int32)
    for option in range(1, len(item.weights)):
        weight = item.weights[option]
        if weight >= size:
            break
        candidate = before[: size - weight] + item.costs[option]
        better = candidate < after[weight:]
        np.copyto(after[weight:], candidate, where=better)
        options[weight:][better] = option
    return after, options
