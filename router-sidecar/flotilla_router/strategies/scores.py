"""What an artifact says of one prompt, and the order in which the models should then be asked."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from flotilla_api.artifact import GOLDEN_ALPHA


@dataclass(frozen=True, slots=True)
class PairScore:
    """Of two models."""

    weak: str
    strong: str
    score: float
    """In [0, 1]: the higher, the harder the prompt is for the weak model."""

    @property
    def finite(self) -> bool:
        """Whether it can be compared with a threshold."""
        return math.isfinite(self.score)

    @property
    def golden(self) -> dict[str, float]:
        """What a golden row holds."""
        return {self.strong: self.score}

    @property
    def reference(self) -> float:
        """The number whose distribution the manifest's `scores` describe."""
        return self.score

    def ranked(self, threshold: float) -> tuple[str, ...]:
        """The better choice first: the strong model, if and only if score >= threshold."""
        return (self.strong, self.weak) if self.score >= threshold else (self.weak, self.strong)


@dataclass(frozen=True, slots=True)
class ClusterScores:
    """Of any number of models; both in [0, 1], and in the order of `models`."""

    models: tuple[str, ...]
    quality: tuple[float, ...]
    thrift: tuple[float, ...]
    """1 for the cheapest of the models, 0 for the dearest."""

    @property
    def finite(self) -> bool:
        """Whether the models can be compared."""
        return all(math.isfinite(value) for value in (*self.quality, *self.thrift))

    @property
    def golden(self) -> dict[str, float]:
        """What a golden row holds."""
        return dict(self.utilities(GOLDEN_ALPHA))

    @property
    def reference(self) -> float:
        """The number whose distribution the manifest's `scores` describe."""
        return max(self.utilities(GOLDEN_ALPHA).values())

    def utilities(self, alpha: float) -> Mapping[str, float]:
        """alpha x quality + (1 - alpha) x thrift of each model. Source: Avengers-Pro, arXiv 2508.12631, section 2."""
        rows = zip(self.models, self.quality, self.thrift, strict=True)
        return {model: alpha * quality + (1 - alpha) * thrift for model, quality, thrift in rows}

    def ranked(self, alpha: float) -> tuple[str, ...]:
        """By falling utility; of equals the one that `models` has first."""
        utilities = self.utilities(alpha)
        return tuple(sorted(self.models, key=lambda model: -utilities[model]))


Scores = PairScore | ClusterScores
