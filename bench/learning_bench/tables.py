"""Markdown tables of the figures."""

from __future__ import annotations

from collections.abc import Mapping

from flotilla_learning.metrics import Interval
from learning_bench.contest import LENGTH, OURS, Standing
from learning_bench.fleet import Figures
from learning_bench.pairs import Replicates
from slice_bench.markdown import make_table


def pairs_table(found: Mapping[str, Replicates], against: str) -> str:
    """APGR, CPT50, CPT80 and how much more APGR than one of them, each with its interval."""
    rows = [
        [
            name,
            _shown(each.apgr),
            _percent(each.cpt50),
            _percent(each.cpt80),
            "" if name == against else _shown(each.over(found[against]), sign="+"),
        ]
        for name, each in found.items()
    ]
    return make_table(["", "APGR", "CPT(50 %)", "CPT(80 %)", f"APGR over {against}"], rows)


def contest_table(found: Mapping[str, Standing]) -> str:
    """The same of prompts that nobody trained on, and APGR by folds of the training rows, which chooses defaults."""
    length, ours = found[LENGTH].test, found[OURS].folds
    rows = [
        [
            name,
            _shown(each.test.apgr),
            _percent(each.test.cpt50),
            _percent(each.test.cpt80),
            "" if name == LENGTH else _shown(each.test.over(length), sign="+"),
            _shown(each.folds.apgr),
            "" if name == OURS else _shown(each.folds.over(ours), sign="+"),
        ]
        for name, each in found.items()
    ]
    test = ["APGR", "CPT(50 %)", "CPT(80 %)", f"APGR over {LENGTH}"]
    return make_table(["", *test, "folds: APGR", "folds: over the first row"], rows)


def travel_table(shares: Mapping[str, float]) -> str:
    """Share of strong calls."""
    return make_table(["", "share of strong calls"], [[name, f"{share:.3f}"] for name, share in shares.items()])


def fleet_table(found: Mapping[str, Figures]) -> str:
    """Quality, recovered lead and cost, and the quality by which the default was chosen."""
    rows = [
        [
            name,
            _shown(each.quality),
            _percent(each.recovered),
            _shown(each.cost_ratio),
            _shown(each.by_folds) if each.by_folds else "",
        ]
        for name, each in found.items()
    ]
    heads = ["quality", "lead recovered", "cost, by the best large model's", "quality, folds of the training rows"]
    return make_table(["", *heads], rows)


def _shown(figure: Interval, *, sign: str = "") -> str:
    return f"{figure.value:{sign}.3f} ({figure.low:{sign}.3f} to {figure.high:{sign}.3f})"


def _percent(figure: Interval) -> str:
    return f"{figure.value * 100:.1f} ({figure.low * 100:.1f} to {figure.high * 100:.1f})"
