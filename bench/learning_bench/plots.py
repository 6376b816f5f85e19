"""The figures of docs/benchmarks.md as pictures."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from flotilla_learning.metrics import Interval
from flotilla_learning.plotting import picture
from learning_bench.pairs import SHARES, Floats

_COLOURS = ("#0b6e99", "#d9730d", "#6940a5", "#4d6461")
_GREY = "#999999"


def draw_curves(path: Path, curves: Mapping[str, Floats]) -> None:
    """The recovered share of the lead by the share of strong calls, each at SHARES, and what chance recovers."""
    with picture(path, "MMLU: what routing recovers of GPT-4's lead") as axes:
        for colour, (name, recovered) in zip(_COLOURS, curves.items(), strict=False):
            axes.plot(SHARES, recovered.round(4), color=colour, linewidth=0.9, label=name)
        axes.plot([0, 1], [0, 1], color=_GREY, linestyle=":", linewidth=0.9, label="chance")
        axes.set_xlabel("share of requests to the strong model")
        axes.set_ylabel("recovered share of the lead")
        axes.set_ylim(bottom=0)
        axes.legend(loc="lower right", frameon=False)


def draw_labels(path: Path, lines: Mapping[str, Mapping[int, Interval]], baseline: tuple[str, Interval]) -> None:
    """APGR by the number of labels, with 95 % intervals, and that of a baseline without any."""
    name, level = baseline
    with picture(path, "MMLU: what labels are worth") as axes:
        axes.axhspan(level.low, level.high, color=_GREY, alpha=0.15, linewidth=0)
        axes.axhline(level.value, color=_GREY, linestyle=":", linewidth=0.9, label=name)
        for place, (colour, (title, found)) in enumerate(zip(_COLOURS, lines.items(), strict=False)):
            counts = [count * 1.04**place for count in found]  # beside each other, so that both intervals are seen
            values = [each.value for each in found.values()]
            ends = np.abs([(each.low - each.value, each.high - each.value) for each in found.values()]).T
            axes.errorbar(counts, values, ends, color=colour, marker=".", linewidth=0.9, capsize=2, label=title)
        axes.set_xscale("log")
        ticks = list(next(iter(lines.values())))
        axes.set_xticks(ticks, [f"{count:,}" for count in ticks])
        axes.minorticks_off()
        axes.set_xlabel("labels")
        axes.set_ylabel("APGR")
        axes.legend(loc="lower right", frameon=False)
