"""What an artifact would have come to, from a labelled log of choices that were partly random."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say

from .reading import choices, judged, read_rows

if TYPE_CHECKING:
    from flotilla_learning.artifacts import Stored
    from flotilla_learning.choosing import Setting
    from flotilla_learning.counterfactual import Verdict
    from flotilla_learning.offpolicy import Estimate, OffPolicy, Refused


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of a log."""

    log: Path
    setting: Setting
    names: Mapping[str, str]
    """A model's id in the artifact -> its name in the log; others are the same."""
    seed: int


def judge_log(stored: Stored, question: Question) -> Verdict:
    """What choosing by the artifact would have come to, or why the log cannot say.

    Raises:
        InputError: no row of the log can be used.
    """
    from flotilla_learning.counterfactual import features_of, judge, outcome_of  # noqa: PLC0415
    from flotilla_learning.grouping import group_near_duplicates  # noqa: PLC0415

    every = read_rows(question.log)
    rows = group_near_duplicates([row for row in every if outcome_of(row) is not None])
    if not rows:
        raise InputError(f"{question.log} has no row with a choice, its propensity and its outcome: label a log first")
    if len(rows) < len(every):
        say("warning", f"{len(every) - len(rows)} rows not used: no choice, no propensity or no outcome of it")
    scores = judged(stored, rows, str(question.log))
    chosen = choices(stored, scores, question.setting, "the artifact")
    features = features_of(scores, [row.prompt for row in rows])
    return judge(rows, [question.names.get(each, each) for each in chosen], features, seed=question.seed)


def is_refused(found: Verdict) -> bool:
    """Whether the log cannot say."""
    from flotilla_learning.offpolicy import Refused  # noqa: PLC0415

    return isinstance(found.quality, Refused)


def lines_of(log: Path, found: Verdict) -> list[str]:
    """The estimates, beside what the log itself came to."""
    from flotilla_learning.offpolicy import OffPolicy  # noqa: PLC0415
    from flotilla_learning.reports import table  # noqa: PLC0415

    rows = [["ESTIMATE", "QUALITY", "95 %", "USD/REQUEST", "95 %"]]
    rows.append(["logged choices", *_cells(found.logged_quality), *_cells(found.logged_usd)])
    quality, usd = found.quality, found.usd
    head = f"{log}: {found.rows:,} logged choices"
    shares = table([["MODEL", "LOGGED", "ARTIFACT"], *_shares(found)])
    if not isinstance(quality, OffPolicy):
        return [head, "", *table(rows), "", *shares, "", f"No estimate: {quality.reason}: {quality.message}"]
    dollars = usd if isinstance(usd, OffPolicy) else None
    rows.append(["artifact, DR", *_cells(quality.doubly_robust), *_cells(dollars and dollars.doubly_robust)])
    rows.append(["artifact, SNIPS", *_cells(quality.self_normalised), *_cells(dollars and dollars.self_normalised)])
    rows.append(["artifact, IPS", *_cells(quality.ips), *_cells(dollars and dollars.ips)])
    worth = f"{head}, worth {quality.effective_rows:,.0f} of the artifact's own (mean weight {quality.mean_weight:.3f})"
    return [worth, "", *table(rows), "", *shares]


def object_of(found: Verdict) -> dict[str, Any]:
    """What `-o json` writes."""
    return {
        "rows": found.rows,
        "logged": {"quality": _interval(found.logged_quality), "usd": _interval(found.logged_usd)},
        "shares": {model: {"logged": own, "artifact": other} for model, (own, other) in found.shares.items()},
        "quality": _estimates(found.quality),
        "usd": None if found.usd is None else _estimates(found.usd),
    }


def _shares(found: Verdict) -> list[list[str]]:
    return [[model, f"{own:.1%}", f"{other:.1%}"] for model, (own, other) in found.shares.items()]


def _cells(estimate: Estimate | None) -> list[str]:
    return ["?", ""] if estimate is None else [f"{estimate.value:.4g}", f"{estimate.low:.4g} to {estimate.high:.4g}"]


def _estimates(found: OffPolicy | Refused) -> dict[str, Any]:
    from flotilla_learning.offpolicy import Refused  # noqa: PLC0415

    if isinstance(found, Refused):
        return {"refused": {"reason": found.reason, "message": found.message}}
    return {
        "effectiveRows": found.effective_rows,
        "meanWeight": found.mean_weight,
        "doublyRobust": _interval(found.doubly_robust),
        "selfNormalised": _interval(found.self_normalised),
        "ips": _interval(found.ips),
    }


def _interval(estimate: Estimate | None) -> dict[str, float] | None:
    return None if estimate is None else {"value": estimate.value, "low": estimate.low, "high": estimate.high}
