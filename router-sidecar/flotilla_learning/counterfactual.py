"""What an artifact's choices would have come to in a labelled log, where the log can say so. PURE."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from flotilla_router.strategies.scores import ClusterScores, Scores

from .datasets import Example, Outcome
from .diffing import group_numbers
from .offpolicy import Estimate, Floats, Ints, Log, OffPolicy, Refused, evaluate, mean_reward, predict_rewards


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the log says of another way of choosing, and of its own."""

    rows: int
    quality: OffPolicy | Refused
    usd: OffPolicy | Refused | None
    """Dollars a request; None: a row does not know what it cost."""
    logged_quality: Estimate
    """Of the log itself: what was chosen, and came of it."""
    logged_usd: Estimate | None
    shares: Mapping[str, tuple[float, float]]
    """Of each model among the logged choices, and among the others."""


def outcome_of(row: Example) -> Outcome | None:
    """What came of a logged choice: what the client got, else, of rows without a status, the chosen model's outcome.

    An answer that was asked for later says nothing of a request that failed.
    """
    if row.logged is None or row.logged.outcome is not None or row.logged.status is not None:
        return None if row.logged is None else row.logged.outcome
    return row.outcomes.get(row.logged.model)


def first_candidate(row: Example, ranking: Sequence[str]) -> str | None:
    """Whom a router would have asked first by `ranking`; None: nobody of it, so it would have drawn by weight."""
    candidates = row.logged.candidates if row.logged is not None else ()
    return next((model for model in ranking if not candidates or model in candidates), None)


def features_of(scores: Sequence[Scores], prompts: Sequence[str]) -> Floats:
    """What is known of each prompt before it is answered, shape (rows, features): its scores and its length."""
    values = [
        [*each.quality, *each.thrift] if isinstance(each, ClusterScores) else [each.score, each.score**2]
        for each in scores
    ]
    lengths = np.log1p([len(prompt) for prompt in prompts])
    return np.column_stack([np.asarray(values, np.float64), lengths])


def judge(rows: Sequence[Example], chosen: Sequence[str], features: Floats, *, seed: int) -> Verdict:
    """What choosing `chosen` would have come to; every row has a logged choice and an outcome of it."""
    logged = [(row.logged.model, row.logged.propensity) for row in rows if row.logged is not None]
    outcomes = [found for row in rows if (found := outcome_of(row)) is not None]
    models = tuple(sorted({*(model for model, _ in logged), *chosen}))
    column = {model: index for index, model in enumerate(models)}
    own = np.array([column[model] for model, _ in logged], np.int64)
    other = np.array([column[model] for model in chosen], np.int64)
    log = Log(
        models=models,
        chosen=own,
        propensity=np.array([propensity for _, propensity in logged]),
        reward=np.array([each.quality for each in outcomes]),
        groups=group_numbers(rows),
    )
    dollars = [each.usd for each in outcomes if each.usd is not None]
    priced = None
    if len(dollars) == len(outcomes):
        priced = Log(models, own, log.propensity, np.array(dollars), log.groups)
    return Verdict(
        rows=len(rows),
        quality=_judge(log, other, features, seed),
        usd=None if priced is None else _judge(priced, other, features, seed),
        logged_quality=mean_reward(log, seed=seed),
        logged_usd=None if priced is None else mean_reward(priced, seed=seed),
        shares={model: (_share(own, index), _share(other, index)) for model, index in column.items()},
    )


def _share(choices: Ints, index: int) -> float:
    return float((choices == index).mean())


def _judge(log: Log, other: Ints, features: Floats, seed: int) -> OffPolicy | Refused:
    target = np.eye(len(log.models))[other]
    return evaluate(log, target, predict_rewards(features, log), seed=seed)
