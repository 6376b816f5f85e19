"""What an artifact would have come to, from a labelled log of choices that were partly random."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from flotilla_cli.errors import InputError
from flotilla_cli.inject import say

from .reading import judged, rankings, read_rows

if TYPE_CHECKING:
    from flotilla_learning.artifacts import Stored
    from flotilla_learning.choosing import Setting
    from flotilla_learning.counterfactual import Verdict
    from flotilla_learning.datasets import Example
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
    from flotilla_learning.counterfactual import features_of, first_candidate, judge, outcome_of  # noqa: PLC0415
    from flotilla_learning.grouping import group_near_duplicates  # noqa: PLC0415

    every = read_rows(question.log)
    known = [row for row in every if outcome_of(row) is not None]
    _report_unused(len(every) - len(known), "no choice, no propensity or no outcome of it", question.log, known)
    scores = judged(stored, known, str(question.log))
    orders = rankings(stored, scores, question.setting, "the artifact")
    chosen = [
        first_candidate(row, [question.names.get(each, each) for each in order])
        for row, order in zip(known, orders, strict=True)
    ]
    used = [index for index, model in enumerate(chosen) if model is not None]
    rows = [known[index] for index in used]
    _report_unused(len(known) - len(rows), "none of the artifact's models might have answered", question.log, rows)
    features = features_of([scores[index] for index in used], [row.prompt for row in rows])
    names = [model for model in chosen if model is not None]
    return judge(group_near_duplicates(rows), names, features, seed=question.seed)


def _report_unused(count: int, reason: str, log: Path, left: Sequence[Example]) -> None:
    """Raises: InputError; nothing is left."""
    if not left:
        raise InputError(f"{log} has no row that can be used: {reason}")
    if count:
        say("warning", f"{count} row{'s' * (count > 1)} not used: {reason}")


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
