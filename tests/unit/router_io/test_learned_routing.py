"""Requests that a learned strategy routes, on a running router."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from learning import EASY, HARD, Fleet, Json, a_strategy, a_trial, fleet, messages, stored
from rig import chat, post, replies, until

from artifacts import an_artifact, an_embedder, digest
from flotilla_router.artifact import load_artifact
from flotilla_router.embedders.embedding import Embedding
from flotilla_router.learned import Prompt
from flotilla_router.strategies.scores import PairScore

CALIBRATION: Json = {
    "calibration": [
        {"threshold": 0.25, "strongRatio": 0.9, "quality": 0.9},
        {"threshold": 0.75, "strongRatio": 0.1, "quality": 0.5},
    ]
}


def all_hard() -> dict[str, bytes]:
    """An artifact to which every prompt with a word is hard."""
    weights = {"weights": np.full(an_embedder().dims, 4.0, np.float32), "bias": np.zeros(1, np.float32)}
    return an_artifact(arrays=weights)


async def test_easy_prompts_go_to_the_small_model_and_hard_ones_to_the_large(tmp_path: Path) -> None:
    """The reason is the strategy; the log says the score, the artifact and how certain the choice was."""
    files = an_artifact()
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, files)))

        easy, hard = await them.ask(EASY), await them.ask(HARD)

        assert [easy.headers["x-flotilla-model"], hard.headers["x-flotilla-model"]] == ["small", "big"]
        assert easy.headers["x-flotilla-reason"] == "WinRate"
        one, other = them.rig.log.of("request")
        assert (one["artifact"], one["propensity"], one["shadow"]) == (digest(files), 1.0, None)
        assert one["score"] < 0.5 < other["score"]
        assert (them.decisions("ranked", "small"), them.decisions("ranked", "big")) == (1, 1)
        assert them.rig.metric("flotilla_router_artifact_info") == 1


@pytest.mark.parametrize(
    "prompt",
    [
        pytest.param([{"type": "text", "text": HARD}], id="text parts"),
        pytest.param(
            [{"type": "image_url", "image_url": {"url": "data:;base64,AA"}}, {"type": "text", "text": HARD}],
            id="an image",
        ),
    ],
)
async def test_the_last_user_message_is_what_is_scored(prompt: Any, tmp_path: Path) -> None:
    """Not the system's, nor what came before."""
    conversation = [*messages("hello"), {"role": "assistant", "content": "yes?"}, *messages(prompt)]
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())))

        assert await them.model(messages=conversation) == "big"
        assert await them.model(messages=[*conversation, *messages(EASY)]) == "small"


async def test_pinned_models_and_policies_without_a_strategy_are_not_scored(tmp_path: Path) -> None:
    """No artifact has a say."""
    async with fleet(tmp_path) as them:
        them.load()
        await them.ask(HARD)
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())))
        await them.ask(HARD, model="small")

        drawn, pinned = them.rig.log.of("request")
        assert (drawn["reason"], drawn["propensity"], drawn["artifact"]) == ("Static", 1.0, None)
        assert (pinned["reason"], pinned["propensity"], pinned["artifact"]) == ("Pinned", None, None)
        assert them.rig.metric("flotilla_router_strategy_decisions_total") == 0


@pytest.mark.parametrize(
    ("header", "model"),
    [
        pytest.param("0.999", "big", id="lowered to the highest that the policy allows"),
        pytest.param("-3", "small", id="raised to the lowest"),
        pytest.param("0.9", "big", id="within the bounds"),
        pytest.param("0.1", "big", id="a lower threshold"),
        pytest.param("inf", "big", id="beyond every bound"),
    ],
)
async def test_a_request_turns_the_threshold_within_the_policys_bounds(header: str, model: str, tmp_path: Path) -> None:
    """A hard prompt scores 0.997, an easy one 0.001; the bounds are 0.1 and 0.95."""
    strategy = a_strategy(stored(tmp_path, an_artifact()), header=(0.1, 0.95))
    prompt = EASY if model == "small" else HARD
    async with fleet(tmp_path) as them:
        await them.use(strategy=strategy)

        assert await them.model(prompt, f"x-flotilla-threshold: {header}") == model


@pytest.mark.parametrize("header", ["high", "nan", "", "0.5, 0.6", "1" * 100])
async def test_a_threshold_that_is_no_number_is_refused(header: str, tmp_path: Path) -> None:
    """The message says which header, and what it should be."""
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact()), header=(0.1, 0.9)))

        reply = await them.ask(EASY, f"x-flotilla-threshold: {header}")

        assert (reply.status, reply.json["error"]["code"]) == (400, "invalid_threshold")
        assert "x-flotilla-threshold" in reply.json["error"]["message"]


async def test_without_bounds_the_header_is_ignored(tmp_path: Path) -> None:
    """The policy does not let requests choose, whatever they send."""
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())))

        assert await them.model(EASY, "x-flotilla-threshold: 0.0") == "small"
        assert await them.model(EASY, "x-flotilla-threshold: high") == "small"


async def test_the_share_of_the_strong_model_is_held(tmp_path: Path) -> None:
    """Prompts that are all alike are shared out as the policy says, and the log has the probability of each choice."""
    files = an_artifact(manifest=CALIBRATION)
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, files), targetStrongRatio=0.3))

        for _ in range(200):
            await them.ask(EASY)

        records = them.rig.log.of("request")[100:]
        strong = sum(record["model"] == "big" for record in records)
        assert 20 <= strong <= 40
        weights = sum(1 / record["propensity"] for record in records if record["model"] == "big")
        assert 50 <= weights <= 150
        assert 0 < them.rig.metric("flotilla_router_strategy_threshold") < 0.5


async def test_a_hard_prompt_whose_strong_model_fails_gets_the_weak_ones_answer(tmp_path: Path) -> None:
    """An outage of the provider is none of the policy's; the log shows both calls."""
    async with fleet(tmp_path) as them:
        them.big.scripts[:] = [replies(b"{}", status=500)]
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())))

        assert await them.model(HARD) == "small"

        record = await them.record()
        assert [(call["target"], call["result"]) for call in record["attempts"]] == [
            ("big", "UpstreamError"),
            ("small", "ok"),
        ]
        assert (record["reason"], record["propensity"]) == ("WinRate", 1.0)


async def test_what_was_learned_of_the_traffic_outlives_a_new_snapshot(tmp_path: Path) -> None:
    """Snapshots come with every pod that starts or ends; the threshold does not begin anew."""
    source = stored(tmp_path, an_artifact(manifest=CALIBRATION))
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(source, targetStrongRatio=0.3))
        for _ in range(60):
            await them.ask(EASY)
        before = them.rig.metric("flotilla_router_strategy_threshold")

        them.load(strategy=a_strategy(source, targetStrongRatio=0.3), generation=2)

        assert them.rig.metric("flotilla_router_strategy_threshold") == before < 0.2


async def test_explored_requests_say_so_and_how_probable_they_were(tmp_path: Path) -> None:
    """With a ratio of 1 every request is drawn: about half of them go to each model."""
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact()), exploreRatio=1.0))

        models = [await them.model(EASY) for _ in range(40)]

        assert set(models) == {"small", "big"}
        records = them.rig.log.of("request")
        assert {(record["reason"], record["propensity"]) for record in records} == {("Explored", 0.5)}
        assert sum(them.decisions("explored", model) for model in ("small", "big")) == 40


async def test_a_shadow_is_scored_beside_the_live_choice_and_changes_nothing(tmp_path: Path) -> None:
    """Its score and preference are in the log and counted."""
    live, tried = an_artifact(), all_hard()
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, live)), shadow=a_trial(stored(tmp_path, tried, "tried")))
        await until(lambda: them.digest("shadow"))

        assert await them.model(EASY) == "small"

        record = await them.record()
        assert record["artifact"] == digest(live)
        assert (record["shadow"]["artifact"], record["shadow"]["model"]) == (digest(tried), "big")
        assert record["shadow"]["score"] > 0.9 > record["score"]
        labels = 'model="small",policy="helpdesk",shadow="big"'
        assert them.rig.metric(f"flotilla_router_shadow_decisions_total{{{labels}}}") == 1


async def test_a_shadow_needs_no_strategy(tmp_path: Path) -> None:
    """Requests are drawn by weight, and the shadow's scores are logged; without a threshold it prefers nobody."""
    async with fleet(tmp_path) as them:
        them.load(shadow=a_trial(stored(tmp_path, all_hard())))
        await until(lambda: them.digest("shadow"))

        assert await them.model(EASY) == "small"

        record = await them.record()
        assert (record["reason"], record["shadow"]["model"]) == ("Static", None)
        assert record["shadow"]["score"] > 0.9


async def test_a_shadow_scores_its_share_of_the_requests(tmp_path: Path) -> None:
    """1 percent of 60 is rarely more than 6."""
    source = stored(tmp_path, an_artifact())
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(source), shadow=a_trial(stored(tmp_path, all_hard(), "tried"), 1))
        await until(lambda: them.digest("shadow"))

        for _ in range(60):
            await them.ask(EASY)

        assert sum(record["shadow"] is not None for record in them.rig.log.of("request")) <= 6


async def test_a_canary_decides_for_whole_sessions(tmp_path: Path) -> None:
    """Of 60 sessions about half get the tried artifact, each always the same; the choice's probability is 1 / 2."""
    live, tried = an_artifact(), all_hard()
    canary = a_trial(stored(tmp_path, tried, "tried"), 50, sessionHeaders=("x-session-id",))
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, live)), canary=canary)
        await until(lambda: them.digest("canary"))

        rounds = [[await them.model(EASY, f"x-session-id: {number}") for number in range(60)] for _ in range(2)]

        assert rounds[0] == rounds[1]
        assert 15 <= rounds[0].count("big") <= 45
        records = them.rig.log.of("request")
        assert {(record["artifact"], record["model"]) for record in records} == {
            (digest(live), "small"),
            (digest(tried), "big"),
        }
        assert {record["propensity"] for record in records} == {0.5}


async def test_a_canary_without_a_header_tells_conversations_behind_one_system_prompt_apart(tmp_path: Path) -> None:
    """About half of 40 conversations try it, with every turn of theirs."""
    system = {"role": "system", "content": "You are a clerk of a bank, and patient. " * 40}
    turns = [{"role": "assistant", "content": "Sure."}, {"role": "user", "content": EASY}]
    canary = a_trial(stored(tmp_path, all_hard(), "tried"), 50)
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact())), canary=canary)
        await until(lambda: them.digest("canary"))

        conversations = [[system, {"role": "user", "content": f"{EASY}, {number}"}] for number in range(40)]
        first = [await them.model(messages=each) for each in conversations]
        later = [await them.model(messages=[*each, *turns]) for each in conversations]

        assert first == later
        assert 8 <= first.count("big") <= 32


async def test_promotion_and_roll_back_are_another_snapshot(tmp_path: Path) -> None:
    """The artifact of a canary is there already; going back, the old one is loaded again."""
    live, tried = stored(tmp_path, an_artifact()), stored(tmp_path, all_hard(), "tried")
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(live), canary=a_trial(tried, 1))
        await until(lambda: them.digest("canary"))

        them.load(strategy=a_strategy(tried))
        promoted = await them.model(EASY)
        await them.use(strategy=a_strategy(live))

        assert (promoted, await them.model(EASY)) == ("big", "small")


async def test_explain_shows_scores_and_leaves_no_trace(tmp_path: Path) -> None:
    """What an artifact says, what it was compared with, and the order; asking does not move the live share."""
    files = an_artifact(manifest=CALIBRATION)
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, files), targetStrongRatio=0.3))
        before = them.rig.metric("flotilla_router_strategy_threshold")

        request = post(chat(messages=messages(HARD)), path="/v1/route:explain")
        shown = [(await them.send(request)).json for _ in range(50)][-1]

        assert (shown["model"], shown["reason"], shown["propensity"]) == ("big", "WinRate", 1.0)
        assert (shown["strategy"]["artifact"], shown["strategy"]["order"]) == (digest(files), ["big", "small"])
        assert shown["strategy"]["scores"] == {"big": shown["strategy"]["score"]}
        assert shown["strategy"]["score"] > shown["strategy"]["threshold"] == pytest.approx(before)
        assert them.rig.metric("flotilla_router_strategy_threshold") == before
        assert them.rig.metric("flotilla_router_strategy_decisions_total") == 0


def clusters(quality: Mapping[str, float], cost: Mapping[str, float]) -> dict[str, bytes]:
    """A Cluster artifact with one cluster."""
    models = list(quality)
    arrays = {
        "centroids": np.ones((an_embedder().dims, 1), np.float32),
        "quality": np.array([list(quality.values())], np.float32),
        "cost": np.array([list(cost.values())], np.float32),
    }
    manifest = {"strategy": "Cluster", "scorer": {"name": "Clusters", "options": {"nearest": 1}}, "models": models}
    return an_artifact(
        manifest=manifest, arrays=arrays, golden=({"prompt": "x", "scores": {"weak": 0.3, "strong": 0.7}},)
    )


@pytest.mark.parametrize(("alpha", "model"), [(0.0, "small"), (1.0, "big")])
async def test_cluster_trades_quality_for_cost(alpha: float, model: str, tmp_path: Path) -> None:
    """alpha 0 is the cheapest, 1 the best."""
    files = clusters({"weak": 0.2, "strong": 0.9}, {"weak": 0.001, "strong": 0.01})
    strategy = a_strategy(stored(tmp_path, files), type="Cluster", alpha=alpha)
    async with fleet(tmp_path) as them:
        await them.use(strategy=strategy)

        reply = await them.ask(EASY)

        assert (reply.headers["x-flotilla-model"], reply.headers["x-flotilla-reason"]) == (model, "Cluster")
        assert (await them.record())["score"] == pytest.approx(1.0)


async def test_traffic_that_has_drifted_is_a_problem_until_it_is_over(tmp_path: Path) -> None:
    """The artifact was calibrated on prompts that scored 0.4 to 0.6; these score 0.02."""
    quantiles = [0.4 + rank / 500 for rank in range(101)]
    async with fleet(tmp_path) as them:
        await them.use(strategy=a_strategy(stored(tmp_path, an_artifact(manifest={"scores": quantiles}))))
        learned = them.rig.process.router.judge.learned
        assert them.problems() == []

        for _ in range(200):
            learned.judge(Prompt(EASY, None, {}), lambda: 0.5)

        ((kind, target, text),) = them.problems()
        assert (kind, target) == ("Drifted", "strategy")
        assert "label" in text
        assert them.rig.metric("flotilla_router_score_drift") > 0.25


def test_a_router_without_a_strategy_never_loads_numpy() -> None:
    """It would take 100 ms of its start and 20 MB of its memory."""
    program = "import sys, flotilla_router.__main__; sys.exit('numpy' in sys.modules)"

    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def fail(_: Embedding) -> PairScore:
    raise ZeroDivisionError


def score_nan(_: Embedding) -> PairScore:
    return PairScore("weak", "strong", float("nan"))


async def test_a_mistake_in_a_score_costs_no_request(tmp_path: Path) -> None:
    """It is reported, counted, and the request is drawn by weight."""
    async with fleet(tmp_path) as them:
        await broken(them, tmp_path, fail)

        assert await them.model(HARD) == "small"

        assert "ZeroDivisionError" in them.rig.log.of("router error")[0]["trace"]
        assert (await them.record())["reason"] == "Static"
        assert them.decisions("no_score", "small") == 1


async def test_a_score_that_is_no_number_decides_nothing(tmp_path: Path) -> None:
    """NaN is neither below nor above a threshold."""
    async with fleet(tmp_path) as them:
        await broken(them, tmp_path, score_nan)

        assert await them.model(HARD) == "small"

        record = await them.record()
        assert (record["reason"], record["score"], record["artifact"]) == ("Static", None, None)
        assert them.decisions("no_score", "small") == 1


async def broken(them: Fleet, folder: Path, score: Callable[[Embedding], PairScore]) -> None:
    """Put an artifact into use whose numbers come from `score`."""
    files = an_artifact()
    artifact = replace(load_artifact(files, digest(files)), score=score)
    them.rig.log_defects()
    snapshot = them.load(strategy=a_strategy(stored(folder, files)))
    await them.in_use(snapshot.strategy)
    assert them.rig.process.router.judge.learned.use(snapshot, {digest(files): artifact}) == {}
