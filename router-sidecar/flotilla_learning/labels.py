"""What a scorer of two models learns to say, from what their answers to a prompt were worth.

WinRate learns the share of wins, QualityGap the label that its options name. `weak` and `strong` are the qualities of
each model's answers to one prompt, in the order in which they were given; a model may have been asked more often.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Answers = tuple[Floats, Floats]
"""Of the weak model and of the strong one."""
GapLabel = Literal["Det", "Prob", "Trans"]


def win_rate(weak: Floats, strong: Floats) -> float:
    """(1 + E[strong - weak]) / 2: of right and wrong answers, a win of the strong model is 1, a tie a half.

    Sorting by it sorts by what the strong model adds. RouteLLM (arXiv 2406.18665, section 3) counts ties as the weak
    model's wins, which sorts a prompt that only the weak model gets right with those that both do.
    """
    return (1 + float(strong.mean() - weak.mean())) / 2


def det(weak: Floats, strong: Floats) -> float:
    """1 if the weak model's first answer is at least as good. Source: Hybrid LLM, arXiv 2404.14618, section 3.1."""
    return float(weak[0] >= strong[0])


def prob(weak: Floats, strong: Floats) -> float:
    """The share of pairs of answers in which the weak model's is at least as good. Source: ibid., section 3.2."""
    return trans(weak, strong, 0.0)


def trans(weak: Floats, strong: Floats, t: float) -> float:
    """The same where the weak model's answer may be worse by `t`. Source: ibid., section 3.3."""
    return float((weak[:, None] >= strong[None, :] - t).mean())


def choose_t(prompts: Sequence[Answers], *, steps: int = 21) -> float:
    """Of an even grid of `t`, the least whose labels differ the most between prompts. Source: ibid., equation 3."""
    largest = max((float(strong.max() - weak.min()) for weak, strong in prompts), default=0.0)
    grid = [float(t) for t in np.linspace(0, max(largest, 0.0), steps)]
    spreads = [mean_difference([trans(weak, strong, t) for weak, strong in prompts]) for t in grid]
    return grid[int(np.argmax(spreads))]


def gap_labels(prompts: Sequence[Answers], label: GapLabel) -> Floats:
    """The label of each prompt, in [0, 1]."""
    match label:
        case "Det":
            return np.array([det(weak, strong) for weak, strong in prompts])
        case "Prob":
            return np.array([prob(weak, strong) for weak, strong in prompts])
        case "Trans":
            t = choose_t(prompts)
            return np.array([trans(weak, strong, t) for weak, strong in prompts])


def mean_difference(labels: Sequence[float]) -> float:
    """The mean of |y_i - y_j| over all ordered pairs, i = j among them: 0 of no labels."""
    count = len(labels)
    weights = 2 * np.arange(count) - count + 1
    return 2 * float(weights @ np.sort(np.asarray(labels))) / max(count, 1) ** 2
