"""Whom an artifact would choose for many prompts, at one setting. PURE."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from flotilla_router.artifact import Artifact
from flotilla_router.strategies.scores import PairScore, Scores


class SettingError(ValueError):
    """An artifact is asked at a setting that its strategy does not have, or says what is no number."""


@dataclass(frozen=True, slots=True)
class Setting:
    """What decides between the models; exactly one is set."""

    threshold: float | None = None
    strong_ratio: float | None = None
    """The threshold with which this share of the prompts that are judged goes to the strong model."""
    alpha: float | None = None
    """Of Cluster."""


def judge_prompts(
    judge: Callable[[str], Scores], prompts: Sequence[str], advance: Callable[[int], object]
) -> list[Scores]:
    """The scores of each prompt, by an artifact; `advance` is told how many are done.

    Raises:
        SettingError: a score is no number.
    """
    found: list[Scores] = []
    for number, prompt in enumerate(prompts, 1):
        scores = judge(prompt)
        if not scores.finite:
            raise SettingError("a score is no number; train it again")
        found.append(scores)
        if not number % 256:
            advance(number)
    return found


def rank(artifact: Artifact, scores: Sequence[Scores], setting: Setting) -> list[tuple[str, ...]]:
    """The artifact's ids of the models in the order in which they are asked, for each prompt.

    Raises:
        SettingError: the setting is not one of the artifact's strategy.
    """
    strategy = artifact.manifest.strategy
    if (strategy == "Cluster") != (setting.alpha is not None):
        wanted = "an alpha" if strategy == "Cluster" else "a threshold or a strong ratio"
        raise SettingError(f"a {strategy} artifact takes {wanted}")
    at = setting.threshold if setting.alpha is None else setting.alpha
    if at is None:
        pairs = [each for each in scores if isinstance(each, PairScore)]
        at = threshold_for(pairs, setting.strong_ratio or 0.0)
    return [each.ranked(at) for each in scores]


def threshold_for(scores: Sequence[PairScore], strong_ratio: float) -> float:
    """The threshold at which this share of the prompts goes to the strong model, or the next smaller share.

    Prompts of one score go together. With none of them strong the threshold is above all scores, and may be above 1.
    """
    falling = sorted((each.score for each in scores), reverse=True)
    count = math.floor(strong_ratio * len(falling) + 1e-9)
    if count == len(falling):
        return 0.0
    first_weak = falling[count]
    return next((score for score in reversed(falling[:count]) if score > first_weak), math.nextafter(first_weak, 2.0))
