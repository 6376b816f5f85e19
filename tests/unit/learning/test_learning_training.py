"""What is trained and packed is what a router loads and scores with."""

from __future__ import annotations

import json
import random
import re
from dataclasses import replace
from typing import cast

import numpy as np
import pytest

from flotilla_api.artifact import (
    GOLDEN_FILE,
    MANIFEST_FILE,
    EmbedderOptions,
    ModelPrice,
    MonotoneMap,
    ScorerName,
    digest_of,
)
from flotilla_learning.clusters import ClusterOptions
from flotilla_learning.datasets import Example, Outcome
from flotilla_learning.metrics import apgr_of, pair_of
from flotilla_learning.packing import pack
from flotilla_learning.pairs import probability_map
from flotilla_learning.training import Trained, TrainingError, TrainingOptions, train
from flotilla_router.artifact import Artifact, load_artifact
from flotilla_router.embedders import make_embedder
from flotilla_router.strategies.scores import ClusterScores, PairScore

EMBEDDER = make_embedder("Hashed", EmbedderOptions(bits=10))
TOPICS = {"prove the lemma": (0.1, 0.9), "greet the guest": (0.9, 0.9), "name the city": (0.7, 0.8)}
"""How often the weak and the strong model are right."""
WIN_RATE = TrainingOptions("WinRate", ("weak", "strong"), EMBEDDER)
GAP = TrainingOptions("QualityGap", ("weak", "strong"), EMBEDDER)
CLUSTER = TrainingOptions("Cluster", ("weak", "strong"), EMBEDDER, clusters=ClusterOptions((3,), (1,)))


def traffic(count: int, seed: int) -> list[Example]:
    """Prompts of three topics with noise words."""
    draw = random.Random(seed)
    return [_row(draw, str(number)) for number in range(count)]


def _row(draw: random.Random, name: str) -> Example:
    topic = draw.choice(sorted(TOPICS))
    weak, strong = (float(draw.random() < chance) for chance in TOPICS[topic])
    noise = " ".join(f"w{draw.randrange(50)}" for _ in range(4))
    return Example(name, f"{topic} {noise}", {"weak": Outcome(weak, 0.001), "strong": Outcome(strong, 0.01)})


def loaded(trained: Trained) -> Artifact:
    files = pack(trained)
    return load_artifact(files, digest_of(files[MANIFEST_FILE]))


def pair_scores(artifact: Artifact, examples: list[Example]) -> list[float]:
    return [cast("PairScore", artifact.judge(row.prompt)).score for row in examples]


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(WIN_RATE, id="WinRate"),
        pytest.param(replace(WIN_RATE, scorer="SimilarityWeighted"), id="WinRate by similarity"),
        pytest.param(replace(WIN_RATE, plane="Factorised"), id="WinRate by matrix factorisation"),
        pytest.param(GAP, id="QualityGap"),
        pytest.param(replace(GAP, label="Det"), id="QualityGap, one answer each"),
        pytest.param(replace(GAP, scorer="SimilarityWeighted"), id="QualityGap by similarity"),
    ],
)
def test_a_trained_pair_sends_the_hard_topic_to_the_strong_model(options: TrainingOptions) -> None:
    """What the router loads ranks prompts that nobody has trained on, and harder is higher."""
    artifact = loaded(train(traffic(600, seed=1), options))
    test = traffic(300, seed=2)

    scores = pair_scores(artifact, test)

    assert apgr_of(scores, pair_of(test, "weak", "strong")) > 0.7
    hard, easy = pair_scores(
        artifact, [replace(test[0], prompt=topic) for topic in ("prove the lemma", "greet the guest")]
    )
    assert hard > easy


def test_factorisation_learns_from_models_that_are_not_of_the_pair() -> None:
    """A third model that fails where the weak one does says more about what is hard; the pair stays the pair."""
    examples = [
        replace(row, outcomes={**row.outcomes, "third": Outcome(float("prove" not in row.prompt))})
        for row in traffic(600, seed=1)
    ]
    trained = train(examples, replace(WIN_RATE, plane="Factorised"))
    test = traffic(300, seed=2)

    assert apgr_of(pair_scores(loaded(trained), test), pair_of(test, "weak", "strong")) > 0.7
    assert loaded(trained).manifest.models == ("weak", "strong")


@pytest.mark.parametrize("options", [GAP, CLUSTER, replace(WIN_RATE, scorer="SimilarityWeighted")])
def test_factorisation_is_refused_where_the_paper_has_none(options: TrainingOptions) -> None:
    """It is never left out silently."""
    with pytest.raises(TrainingError, match="matrix factorisation"):
        train(traffic(50, seed=1), replace(options, plane="Factorised"))


@pytest.mark.parametrize("scorer", ["Linear", "SimilarityWeighted"])
def test_a_win_rate_is_a_probability(scorer: ScorerName) -> None:
    """Its mean over a topic's prompts is near the topic's (1 + strong - weak) / 2."""
    trained = train(traffic(1500, seed=1), replace(WIN_RATE, scorer=scorer))
    artifact = loaded(trained)
    test = traffic(300, seed=2)
    assert np.mean([score.reference for score in trained.held_out]) == pytest.approx(0.67, abs=0.04)

    for topic, (weak, strong) in TOPICS.items():
        scores = pair_scores(artifact, [row for row in test if row.prompt.startswith(topic)])
        assert float(np.mean(scores)) == pytest.approx((1 + strong - weak) / 2, abs=0.08)


def test_scores_that_are_too_timid_become_probabilities() -> None:
    """A scorer that stays near one half, though rows are nearly sure, is spread to how often they come true."""
    chances = np.linspace(0.02, 0.98, 4000)
    targets = (np.random.default_rng(1).random(4000) < chances).astype(np.float64)

    found = probability_map(0.5 + 0.1 * (chances - 0.5), targets)

    assert found
    spread = np.interp(0.5 + 0.1 * (chances - 0.5), found.x, found.y)
    assert float(np.abs(spread - chances).mean()) < 0.05


def test_a_packed_artifact_scores_by_its_probability_map() -> None:
    """What calibrates the rows left out is what the router applies."""
    trained = train(traffic(600, seed=1), replace(GAP, scorer="SimilarityWeighted"))
    turned = replace(trained, probability=MonotoneMap(x=(0.0, 1.0), y=(0.25, 0.75)))

    plain, mapped = (
        pair_scores(loaded(each), traffic(20, seed=2)) for each in (replace(trained, probability=None), turned)
    )

    assert trained.probability
    assert mapped == pytest.approx([0.25 + 0.5 * score for score in plain])


@pytest.mark.parametrize(("scorer", "far"), [("Linear", 0.01), ("SimilarityWeighted", 0.05)])
def test_where_the_small_model_is_always_as_good_nothing_is_hard(scorer: ScorerName, far: float) -> None:
    """Rows that are all alike can be learned from."""
    rows = [replace(row, outcomes={"weak": Outcome(1.0), "strong": Outcome(1.0)}) for row in traffic(100, seed=1)]

    artifact = loaded(train(rows, replace(GAP, scorer=scorer)))

    assert max(pair_scores(artifact, traffic(20, seed=2))) < far


def test_clusters_send_a_topic_to_the_model_that_knows_it() -> None:
    """With nothing but quality counted the hard topic goes to the strong model; with nothing but cost, none does."""
    artifact = loaded(train(traffic(600, seed=1), CLUSTER))

    hard = cast("ClusterScores", artifact.judge("prove the lemma w1"))

    assert hard.ranked(1.0)[0] == "strong"
    assert hard.ranked(0.0)[0] == "weak"


@pytest.mark.parametrize("options", [pytest.param(WIN_RATE, id="WinRate"), pytest.param(CLUSTER, id="Cluster")])
def test_the_same_rows_and_seed_give_the_same_artifact(options: TrainingOptions) -> None:
    """So a digest can be built again from data and seed."""
    rows = traffic(200, seed=3)

    first, again, other = (pack(train(rows, replace(options, seed=seed))) for seed in (5, 5, 6))

    assert first == again
    assert first[MANIFEST_FILE] != other[MANIFEST_FILE]


def test_golden_prompts_are_made_up_of_words_that_prompts_share() -> None:
    """No user's prompt, name or number is in an artifact, and scores still differ."""
    rows = [replace(row, prompt=f"{row.prompt} for Ada{name} at 555{name}") for name, row in enumerate(traffic(200, 1))]

    golden = pack(train(rows, WIN_RATE))[GOLDEN_FILE].decode()

    found = [json.loads(line) for line in golden.splitlines()]
    assert not {row.prompt for row in rows} & {each["prompt"] for each in found}
    assert "Ada" not in golden
    assert not re.search(r"[1-9]", " ".join(each["prompt"] for each in found))
    assert len({round(each["scores"]["strong"], 3) for each in found}) > 10


def test_the_manifest_says_what_it_was_made_of() -> None:
    """Rows, prices, a table that rises from the weak model alone to the strong one alone, and quantiles."""
    rows = [*traffic(200, seed=1), Example("lacking", "no strong answer", {"weak": Outcome(1)})]
    prices = {"weak": ModelPrice(inputPerMillionUSD=0.1, outputPerMillionUSD=0.2)}

    trained = train(rows, WIN_RATE)
    files = pack(trained, prices=prices)
    manifest = load_artifact(files, digest_of(files[MANIFEST_FILE])).manifest

    assert trained.skipped == 1
    assert manifest.data.rows == 200
    assert manifest.prices == prices
    table = manifest.calibration
    thresholds, shares = [point.threshold for point in table], [point.strongRatio for point in table]
    assert thresholds == sorted(cast("list[float]", thresholds))
    assert shares == sorted(shares, reverse=True)
    assert (shares[0], shares[-1]) == (1.0, 0.0)
    assert (table[0].usdPerRequest, table[-1].usdPerRequest) == (pytest.approx(0.01), pytest.approx(0.001))
    assert list(manifest.scores) == sorted(manifest.scores)


def test_rows_that_teach_nothing_give_scores_that_are_all_the_same() -> None:
    """Where the prompt says nothing about the outcome, ties are honest."""
    rows = [
        Example(str(number), "the same question", {"weak": Outcome(number % 2), "strong": Outcome(1)})
        for number in range(40)
    ]

    scores = pair_scores(loaded(train(rows, WIN_RATE)), traffic(20, seed=1))

    assert max(scores) - min(scores) < 0.02


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        pytest.param([], WIN_RATE, "0 of 0 rows have outcomes of weak, strong", id="no rows"),
        pytest.param(
            [Example("1", "p", {"weak": Outcome(1)})], WIN_RATE, "0 of 1 rows have outcomes", id="no strong answer"
        ),
        pytest.param(
            traffic(9, seed=1), replace(WIN_RATE, models=("weak", "strong", "weak")), "two models", id="three models"
        ),
        pytest.param(
            [Example(str(number), "p", {"weak": Outcome(1, 0.1), "strong": Outcome(1)}) for number in range(9)],
            CLUSTER,
            "9 of 9 rows do not say what strong cost",
            id="no cost",
        ),
        pytest.param(
            traffic(4000, seed=1),
            TrainingOptions(
                "WinRate", ("weak", "strong"), make_embedder("Hashed", EmbedderOptions(bits=18)), "SimilarityWeighted"
            ),
            "too large",
            id="prototypes too large",
        ),
    ],
)
def test_rows_that_cannot_train_say_what_they_lack(rows: list[Example], options: TrainingOptions, message: str) -> None:
    """Nothing is learned from outcomes or costs that are not there."""
    with pytest.raises(TrainingError, match=message):
        train(rows, options)
