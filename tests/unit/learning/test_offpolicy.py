"""Off-policy estimates against values that are known, and the refusals."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from flotilla_learning.offpolicy import (
    Floats,
    Log,
    OffPolicy,
    Reason,
    Refused,
    check_support,
    effective_rows,
    evaluate,
    predict_rewards,
)

KINDS = np.array([[0.9, 0.95], [0.6, 0.9], [0.1, 0.7]])
"""Probability that weak and strong are right on three kinds of prompts, each a third of the traffic."""
LOGGING = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
"""How the log chose; it had every choice."""
TARGET = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
"""The other way: strong for all but the easy ones."""
TRUTH = (0.9 + 0.9 + 0.7) / 3


def a_log(rows: int, seed: int, logging: Floats = LOGGING) -> tuple[Log, Floats, Floats]:
    """A log, the probabilities of the other way and the features of its prompts."""
    random = np.random.default_rng(seed)
    kind = random.integers(3, size=rows)
    chosen = (random.random(rows) < logging[kind, 1]).astype(np.int64)
    reward = (random.random(rows) < KINDS[kind, chosen]).astype(np.float64)
    log = Log(("weak", "strong"), chosen, logging[kind, chosen], reward, np.arange(rows))
    return log, TARGET[kind], np.eye(3)[kind]


def judged(log: Log, target: Floats, features: Floats) -> OffPolicy:
    """The estimates; a refusal is a failure."""
    found = evaluate(log, target, predict_rewards(features, log), seed=1, draws=200)
    assert isinstance(found, OffPolicy), found
    return found


def ips_variance() -> float:
    """Of w r in one row, by enumeration."""
    second = sum(
        LOGGING[kind, model] * KINDS[kind, model] * (TARGET[kind, model] / LOGGING[kind, model]) ** 2 / 3
        for kind in range(3)
        for model in range(2)
    )
    return second - TRUTH**2


def test_estimates_are_unbiased() -> None:
    """The mean of 100 logs is within 4 standard errors of the true value, the errors worked out for IPS."""
    logs, rows = 100, 400
    found = [judged(*a_log(rows, seed)) for seed in range(logs)]

    bound = 4 * math.sqrt(ips_variance() / (logs * rows))
    for name in ("ips", "self_normalised", "doubly_robust"):
        mean = np.mean([getattr(each, name).value for each in found])
        assert abs(mean - TRUTH) < bound, name


def test_doubly_robust_varies_less_than_inverse_propensities() -> None:
    """Predictions take away what is known of a prompt; 100 logs show it by a factor."""
    found = [judged(*a_log(400, seed)) for seed in range(100)]

    ips, normalised, robust = (
        np.var([getattr(each, name).value for each in found]) for name in ("ips", "self_normalised", "doubly_robust")
    )
    assert robust < 0.7 * ips
    assert robust < 1.1 * normalised


def test_inverse_propensities_vary_as_worked_out() -> None:
    """The spread over 200 logs is the formula's, within 5 sigma of a chi-squared of 199 degrees: 50 %."""
    found = [judged(*a_log(400, seed)).ips.value for seed in range(200)]

    assert np.var(found) == pytest.approx(ips_variance() / 400, rel=0.5)


def test_intervals_hold_the_truth_about_as_often_as_they_say() -> None:
    """95 % of 200 intervals, give or take 5 sigma of a binomial."""
    found = [judged(*a_log(1000, seed)).doubly_robust for seed in range(200)]

    held = sum(each.low <= TRUTH <= each.high for each in found)
    assert held >= 0.87 * 200


def test_rows_of_a_group_are_drawn_together() -> None:
    """Each row ten times says no more than once: the interval stays as wide, and is not 3 times narrower."""
    log, target, features = a_log(1000, 3)
    once = judged(log, target, features)
    ten = np.repeat(np.arange(1000), 10)
    repeated = Log(log.models, log.chosen[ten], log.propensity[ten], log.reward[ten], ten)

    many = judged(repeated, target[ten], features[ten])
    assert many.ips.value == pytest.approx(once.ips.value)
    assert many.ips.high - many.ips.low == pytest.approx(once.ips.high - once.ips.low, rel=0.2)


def test_the_way_that_was_logged_is_its_own_mean() -> None:
    """All weights are 1: the three estimates are the mean reward, and every row counts."""
    log, _, features = a_log(1000, 1)
    own = LOGGING[np.argmax(features, axis=1)]

    found = judged(log, own, np.zeros((1000, 1)))

    assert found.effective_rows == pytest.approx(effective_rows(own[np.arange(1000), log.chosen] / log.propensity))
    assert found.ips.value == pytest.approx(log.reward.mean())
    assert found.self_normalised.value == pytest.approx(log.reward.mean())


def test_estimates_are_the_same_for_a_seed() -> None:
    """And the order of rows does not matter to the values."""
    log, target, features = a_log(500, 2)
    backwards = np.arange(499, -1, -1)
    turned = Log(
        log.models, log.chosen[backwards], log.propensity[backwards], log.reward[backwards], log.groups[backwards]
    )

    first, second = judged(log, target, features), judged(log, target, features)
    third = judged(turned, target[backwards], features[backwards])

    assert first == second
    assert third.doubly_robust.value == pytest.approx(first.doubly_robust.value)


def test_effective_rows_by_hand() -> None:
    """(1 + 1 + 2)^2 / (1 + 1 + 4)."""
    assert effective_rows(np.array([1.0, 1.0, 2.0, 0.0])) == pytest.approx(16 / 6)
    assert effective_rows(np.zeros(3)) == 0.0


def refusal(log: Log, target: Floats) -> Refused:
    found = evaluate(log, target, np.zeros_like(target), seed=1)
    assert isinstance(found, Refused)
    assert check_support(log, target) == found
    return found


def test_an_empty_log_says_nothing() -> None:
    """There is no row to judge by."""
    empty = Log(("weak", "strong"), np.array([], np.int64), np.array([]), np.array([]), np.array([], np.int64))

    assert refusal(empty, np.zeros((0, 2))).reason == Reason.NO_ROWS


def test_a_log_without_exploration_is_refused() -> None:
    """It always chose by its threshold: of another one it knows nothing."""
    certain = np.array([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    log, target, _ = a_log(3000, 1, certain)

    found = refusal(log, target)

    assert found.reason == Reason.NO_SUPPORT
    assert "strategy.explore" in found.message


def test_a_model_that_was_never_chosen_is_named() -> None:
    """Whatever its propensity is said to be."""
    log, target, _ = a_log(3000, 1)
    weak = replace(log, chosen=np.zeros_like(log.chosen))

    found = refusal(weak, target)

    assert (found.reason, found.message.split()[0]) == (Reason.NO_SUPPORT, "strong")


def test_missing_choices_show_in_the_weights() -> None:
    """Rows of strong were not kept on hard prompts: nothing says so but that the weights are not 1 on average."""
    log, target, features = a_log(5000, 1)
    kept = ~((features[:, 2] == 1) & (log.chosen == 1))
    left = Log(log.models, log.chosen[kept], log.propensity[kept], log.reward[kept], np.arange(int(kept.sum())))

    assert refusal(left, target[kept]).reason == Reason.WRONG_PROPENSITIES


def test_wrong_propensities_are_refused() -> None:
    """A log that says one half for everything."""
    log, target, _ = a_log(5000, 1)

    assert refusal(replace(log, propensity=np.full(5000, 0.5)), target).reason == Reason.WRONG_PROPENSITIES


def test_too_few_rows_that_agree_are_refused() -> None:
    """Explored at 1 %, 1,000 rows have ten or so of the other choices."""
    rare = np.array([[0.99, 0.01], [0.99, 0.01], [0.99, 0.01]])
    log, _, features = a_log(1000, 1, rare)
    strong = np.tile([0.0, 1.0], (len(features), 1))

    found = refusal(log, strong)

    assert found.reason == Reason.SMALL_SAMPLE
    assert "explore" in found.message
