"""What learned routing says of requests, without a router."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from random import Random
from typing import Any

import numpy as np
import pytest
from cases import a_route, a_snapshot, an_expert, an_external, some_features

from artifacts import an_artifact, digest, hard_words
from flotilla_api.snapshot import ArtifactSource, RoutingSnapshot, StrategyConfig, TrialConfig
from flotilla_router.artifact import Artifact, load_artifact
from flotilla_router.choose import choose
from flotilla_router.decisions import Decision
from flotilla_router.learned import Learned, Prompt, unfit, wanted_by
from flotilla_router.routing_table import compile_table
from flotilla_router.strategies.scores import PairScore

NAMES = {"weak": "small", "strong": "big"}
CALIBRATION = [
    {"threshold": 0.1, "strongRatio": 0.9, "quality": 0.9},
    {"threshold": 0.9, "strongRatio": 0.1, "quality": 0.5},
]


def loaded(bias: float = 0.0, **manifest: Any) -> Artifact:
    """An artifact; a bias makes it another one, to which all prompts are harder."""
    arrays = {"weights": hard_words("prove", "theorem"), "bias": np.array([bias], np.float32)}
    score = float(1 / (1 + np.exp(-bias)))
    files = an_artifact(
        manifest={"calibration": CALIBRATION, **manifest},
        arrays=arrays,
        golden=({"prompt": "", "scores": {"strong": score}},),
    )
    return load_artifact(files, digest(files))


def a_source(artifact: Artifact) -> ArtifactSource:
    return ArtifactSource(digest=artifact.digest, file="/unused")


def a_policy(strategy: Artifact, *, canary: tuple[Artifact, int] | None = None, **config: Any) -> RoutingSnapshot:
    """One that chooses between `small` and `big`."""
    point = {} if config.keys() & {"targetStrongRatio", "alpha"} else {"threshold": 0.5}
    fields: dict[str, Any] = {"type": "WinRate", "artifact": a_source(strategy), "models": NAMES, **point, **config}
    trial = None if canary is None else TrialConfig(artifact=a_source(canary[0]), models=NAMES, percent=canary[1])
    snapshot = a_snapshot(a_route({"small": 1}, ("big",)), an_expert("small"), an_external("big"))
    return snapshot.model_copy(update={"strategy": StrategyConfig(**fields), "canary": trial})


def using(snapshot: RoutingSnapshot, *artifacts: Artifact) -> Learned:
    """Learned routing with these artifacts loaded."""
    learned = Learned(fail)
    assert learned.use(snapshot, by_digest(*artifacts)) == {}
    return learned


def by_digest(*artifacts: Artifact) -> Mapping[str, Artifact]:
    return {artifact.digest: artifact for artifact in artifacts}


def fail(role: str, error: Exception) -> None:
    raise AssertionError(role) from error


def a_prompt(text: str = "hello", session: bytes = b"") -> Prompt:
    return Prompt(text, None, {}, session)


def test_log_rows_of_a_canary_at_a_share_with_exploration_stand_for_all_requests() -> None:
    """Weighted by 1 / propensity, each model's rows count for every request: the propensities are the true ones.

    Half of the sessions use an artifact to which everything is harder, 10 % of the requests explore, and the share of
    the strong model is held among equal scores by draws. No propensity is below 0.05, so the deviation of a mean over
    8,000 rows is below sqrt(20 / 8,000) = 0.05.
    """
    live, tried = loaded(), loaded(2.0)
    snapshot = a_policy(live, canary=(tried, 50), targetStrongRatio=0.3, exploreRatio=0.1)
    learned, table, draw = using(snapshot, live, tried), compile_table(snapshot), Random(7)
    weights: dict[str, float] = {"small": 0.0, "big": 0.0}
    least = 1.0
    for number in range(8_000):
        text = draw.choice(["hello", "prove theorem", "prove", "what is the time"])
        judgement = learned.judge(a_prompt(text, str(number).encode()), draw.random)
        decision = choose(table, some_features(), lambda _: True, draw.random(), ranking=judgement.ranking)
        assert isinstance(decision, Decision)
        assert decision.propensity is not None
        least = min(least, decision.propensity)
        weights[decision.first.name] += 1 / decision.propensity

    assert least >= 0.05
    assert {name: weight / 8_000 for name, weight in weights.items()} == pytest.approx(
        {"small": 1.0, "big": 1.0}, abs=4 * 0.05
    )


def test_a_canary_without_its_artifact_leaves_all_sessions_where_they_are() -> None:
    """And no choice counts as if it might have been another."""
    live, tried = loaded(), loaded(2.0)
    learned = using(a_policy(live, canary=(tried, 50)), live)

    judgements = [learned.judge(a_prompt(session=str(number).encode()), Random(1).random) for number in range(50)]

    assert {judgement.role for judgement in judgements} == {"strategy"}
    assert not learned.tries
    assert all(judgement.ranking and judgement.ranking.possible[0][0] == 1.0 for judgement in judgements)


def test_a_promoted_canary_keeps_what_it_has_seen() -> None:
    """Its threshold goes on from where its own sessions have moved it."""
    live, tried = loaded(), loaded(2.0)
    before = a_policy(live, canary=(tried, 100), targetStrongRatio=0.3)
    learned = using(before, live, tried)
    for number in range(100):
        learned.judge(a_prompt(session=str(number).encode()), Random(number).random)
    (of_canary,) = [figure.threshold for figure in learned.figures() if figure.role == "canary"]

    learned.use(a_policy(tried, targetStrongRatio=0.3), by_digest(tried))

    (figure,) = learned.figures()
    assert (figure.role, figure.threshold) == ("strategy", of_canary)
    assert of_canary != pytest.approx(0.7, abs=0.05)


def test_another_share_begins_at_the_calibration() -> None:
    """0.9 of the prompts are above 0.1, by the table."""
    live = loaded()
    learned = using(a_policy(live, targetStrongRatio=0.3), live)
    learned.judge(a_prompt(), Random(1).random)

    learned.use(a_policy(live, targetStrongRatio=0.9), by_digest(live))

    assert learned.figures()[0].threshold == pytest.approx(0.1, abs=0.05)


def test_a_shadow_of_the_live_artifact_counts_no_score_twice() -> None:
    """The share that is held is that of requests, of which each has one score."""
    live = loaded()
    shadow = TrialConfig(artifact=a_source(live), models=NAMES, percent=100)
    policy = a_policy(live, targetStrongRatio=0.3)
    alone, beside = using(policy, live), using(policy.model_copy(update={"shadow": shadow}), live)
    for learned in (alone, beside):
        draw = Random(1).random
        for number in range(100):
            learned.judge(a_prompt(f"prove {number}" if number % 3 else f"say {number}"), draw)
            learned.shadow(a_prompt("prove theorem"), 0.5)

    assert beside.figures()[0] == alone.figures()[0]


def test_a_shadow_follows_the_strategys_operating_point() -> None:
    """Also when that is changed while it runs: its preferences are those that it would have if it were promoted."""
    live, tried = loaded(), loaded(2.0)
    shadow = TrialConfig(artifact=a_source(tried), models=NAMES, percent=100)
    before, after = (
        a_policy(live, targetStrongRatio=ratio).model_copy(update={"shadow": shadow}) for ratio in (0.1, 0.9)
    )
    learned = using(before, live, tried)

    learned.use(after, by_digest(live, tried))

    thresholds = {figure.role: figure.threshold for figure in learned.figures()}
    assert thresholds == {"strategy": pytest.approx(0.1, abs=0.05), "shadow": pytest.approx(0.1, abs=0.05)}


def test_a_strategy_that_is_taken_out_is_gone() -> None:
    """Static is Static, whatever was loaded before."""
    live = loaded()
    learned = using(a_policy(live), live)

    learned.use(a_policy(live).model_copy(update={"strategy": None}), {})

    assert (learned.ranks, learned.figures()) == (False, [])
    assert learned.judge(a_prompt(), Random(1).random).ranking is None


def test_nothing_is_wanted_but_what_the_snapshot_names() -> None:
    """A strategy, a canary and a shadow, each with its names."""
    live, tried = loaded(), loaded(2.0)

    wanted = wanted_by(a_policy(live, canary=(tried, 5)))

    assert [(each.role, each.source.digest) for each in wanted] == [("strategy", live.digest), ("canary", tried.digest)]


def test_a_calibration_without_thresholds_cannot_hold_a_share() -> None:
    """One by alpha belongs to Cluster; the policy would be loaded with nothing to start from."""
    artifact = loaded(calibration=[{"alpha": 0.5, "strongRatio": 0.5, "quality": 0.5}])
    (wanted,) = wanted_by(a_policy(artifact, targetStrongRatio=0.3))

    message = unfit(artifact, wanted)

    assert message is not None
    assert "calibration" in message


def test_exploration_ends_with_the_policys_word_whatever_artifact_is_in_use() -> None:
    """An edit that takes `explore` out and names an artifact that cannot be had stops exploring at once."""
    live = loaded()
    learned = using(a_policy(live, exploreRatio=1.0), live)

    learned.use(a_policy(loaded(2.0)), by_digest())

    ranking = learned.judge(a_prompt(), Random(1).random).ranking
    assert ranking is not None
    assert ranking.explore_ratio == 0.0


def no_number(_: object) -> PairScore:
    """What a mistake in an artifact's numbers comes to."""
    return PairScore("weak", "strong", float("nan"))


def test_a_canary_without_a_score_leaves_its_sessions_to_the_draw() -> None:
    """And the strategy's choices know it: half of the sessions would have been drawn by weight."""
    live, tried = loaded(), loaded(2.0)
    broken = dataclasses.replace(tried, score=no_number)
    snapshot = a_policy(live, canary=(broken, 50))
    learned, table, draw = using(snapshot, live, broken), compile_table(snapshot), Random(3)
    told: set[tuple[str, str, float | None]] = set()

    for number in range(40):
        judgement = learned.judge(a_prompt("prove theorem", str(number).encode()), draw.random)
        decision = choose(table, some_features(), lambda _: True, draw.random(), ranking=judgement.ranking)
        assert isinstance(decision, Decision)
        told.add((judgement.role, decision.first.name, decision.propensity))

    assert told == {("strategy", "big", 0.5), ("canary", "small", 0.5)}
