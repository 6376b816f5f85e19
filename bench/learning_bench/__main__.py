"""Trains and judges every strategy; tables go to standard output and docs/benchmarks.md, figures to learning.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from decision_bench.decisions import decision_us
from flotilla_api.artifact import EmbedderOptions
from flotilla_learning.datasets import Example
from flotilla_learning.metrics import pair_of
from flotilla_router.artifact import Artifact
from flotilla_router.embedders import make_embedder
from flotilla_router.strong_ratio import StrongRatio
from learning_bench import fleet, sets
from learning_bench.pairs import (
    MODELS,
    Fit,
    Floats,
    Replicates,
    crossvalidated,
    fit_classifier,
    fit_length,
    fit_neighbours,
    fit_served,
    scores_of,
    served,
    win_rate,
)
from learning_bench.sets import Split, sample
from learning_bench.tables import fleet_table, pairs_table, travel_table
from slice_bench.markdown import write_tables
from slice_bench.progress import Stage, shown_progress

OUTPUT = Path("build/bench/learning.json")
DOCUMENT = Path("docs/benchmarks.md")
SPLITS = (11, 12, 13)
LABELS, FEW_LABELS = 8_000, 1_500
COUNTS = (250, 500, FEW_LABELS, 3_000, LABELS)
TEST_SHARE = 0.35
FLEET_TEST_SHARE = 0.25
STRONG_RATIO = 0.30
SHIFTED_REQUESTS = 500
ORDERS = 20
OURS, LENGTH, ORACLE = "WinRate, linear (default)", "prompt length alone", "oracle"
Rows = Sequence[Example]


def main() -> int:
    """Exit 0 when every figure was taken."""
    tables: dict[str, str] = {}

    def show(name: str, table: str) -> None:
        tables[name] = table
        sys.stdout.write(f"{table}\n\n")
        sys.stdout.flush()

    with shown_progress() as stage:
        mmlu, gsm8k = sets.mmlu(), sets.gsm8k()
        splits = [sets.parted(mmlu, share=TEST_SHARE, seed=seed) for seed in SPLITS]
        by_labels = _by_labels(stage, splits)
        show("learning-labels", pairs_table(by_labels, LENGTH))
        artifact = served(sample(splits[0].train, LABELS, seed=0), win_rate())
        travel = _travel(artifact, gsm8k)
        show("learning-travel", travel_table(travel))
        on_gsm8k = _on_gsm8k(stage, gsm8k, artifact)
        show("learning-gsm8k", pairs_table(on_gsm8k, LENGTH))
        show("learning-mmlu", pairs_table(_contest(stage, splits[0], gsm8k, artifact), LENGTH))
        routed = _fleet(stage)
        show("learning-fleet", fleet_table(routed))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    figures = _figures(by_labels, on_gsm8k, routed) | {"gsm8k_travelled_strong_ratio": travel[HELD]}
    OUTPUT.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    write_tables(DOCUMENT, tables, "bench-learning")
    return 0


def _contenders() -> dict[str, Fit]:
    """What is compared on MMLU besides ours; only ours and the scorers of artifacts can be served."""
    hashed = {
        "words alone": EmbedderOptions(pairs=False),
        "words and pairs": EmbedderOptions(),
        "words, runs of 3 to 5 characters, surface": EmbedderOptions(
            pairs=False, grams=(3, 4, 5), surface=True, surfaceScale=3.0
        ),
    }
    few = make_embedder("Hashed", EmbedderOptions(bits=10, surface=True))
    return {
        **{f"the same, {name}": fit_served(win_rate(make_embedder("Hashed", each))) for name, each in hashed.items()},
        "WinRate, similarity-weighted": fit_served(replace(win_rate(few), scorer="SimilarityWeighted")),
        "QualityGap, linear": fit_served(replace(win_rate(), strategy="QualityGap")),
        "k nearest neighbours": fit_neighbours,
        "logistic regression": fit_classifier,
        LENGTH: fit_length,
        ORACLE: _fit_oracle,
    }


def _fit_oracle(rows: Rows, others: Rows) -> Floats:
    """Knows both outcomes."""
    del rows
    return pair_of(others, *MODELS).gaps


def _contest(stage: Stage, split: Split, gsm8k: Rows, artifact: Artifact) -> dict[str, Replicates]:
    """On one split of MMLU: ours, others, and ours trained elsewhere."""
    pair = pair_of(split.test, *MODELS)
    rows = sample(split.train, LABELS, seed=0)
    contenders = _contenders()
    done = stage("MMLU", len(contenders))
    found = {OURS: Replicates().add(scores_of(artifact, split.test), pair, seed=0)}
    for number, (name, fit) in enumerate(contenders.items(), 1):
        found[name] = Replicates().add(fit(rows, split.test), pair, seed=0)
        done(number)
    elsewhere = scores_of(served(gsm8k, win_rate()), split.test)
    return {**found, f"trained on GSM8K ({len(gsm8k):,} labels)": Replicates().add(elsewhere, pair, seed=0)}


def _by_labels(stage: Stage, splits: Sequence[Split]) -> dict[str, Replicates]:
    """Ours by the number of labels, the prompt's length alone, and the oracle."""
    done = stage("labels", len(COUNTS) * len(splits))
    found = {_labels(count): Replicates() for count in COUNTS} | {LENGTH: Replicates(), ORACLE: Replicates()}
    for number, split in enumerate(splits):
        pair = pair_of(split.test, *MODELS)
        for position, count in enumerate(COUNTS, 1):
            artifact = served(sample(split.train, count, seed=0), win_rate())
            found[_labels(count)].add(scores_of(artifact, split.test), pair, seed=number)
            done(number * len(COUNTS) + position)
        found[LENGTH].add(pair.lengths, pair, seed=number)
        found[ORACLE].add(pair.gaps, pair, seed=number)
    return found


def _labels(count: int) -> str:
    return f"{count:,} labels"


def _on_gsm8k(stage: Stage, rows: Rows, from_mmlu: Artifact) -> dict[str, Replicates]:
    """By five folds, drawn as often as there are splits; trained on MMLU, all at once."""
    fits: dict[str, Fit] = {
        OURS: fit_served(win_rate()),
        "k nearest neighbours": fit_neighbours,
        "logistic regression": fit_classifier,
        LENGTH: fit_length,
        "trained on MMLU": lambda _, others: scores_of(from_mmlu, others),
        ORACLE: _fit_oracle,
    }
    done = stage("GSM8K", len(fits) * len(SPLITS))
    found = {name: Replicates() for name in fits}
    pair = pair_of(rows, *MODELS)
    for number, seed in enumerate(SPLITS):
        for position, (name, fit) in enumerate(fits.items(), 1):
            found[name].add(crossvalidated(rows, fit, seed=seed), pair, seed=number)
            done(number * len(fits) + position)
    return found


HELD = f"targetStrongRatio: {STRONG_RATIO:.2f}, GSM8K's requests {SHIFTED_REQUESTS + 1} to 1,000"


def _travel(artifact: Artifact, rows: Rows) -> dict[str, float]:
    """An artifact calibrated on MMLU serves GSM8K, in twenty orders: the share of strong calls after the first 500."""
    scores = scores_of(artifact, rows)
    table = [(point.threshold or 0.0, point.strongRatio) for point in artifact.manifest.calibration]
    fixed = min(table, key=lambda point: abs(point[1] - STRONG_RATIO))[0]
    early: list[float] = []
    late: list[float] = []
    for seed in range(ORDERS):
        rng = np.random.default_rng(seed)
        held = StrongRatio(STRONG_RATIO, table)
        strong = [held.decide(float(score), float(rng.random())).strong for score in rng.permutation(scores)]
        early.append(float(np.mean(strong[:SHIFTED_REQUESTS])))
        late.append(float(np.mean(strong[SHIFTED_REQUESTS : 2 * SHIFTED_REQUESTS])))
    return {
        "the threshold that gives 0.30 on MMLU, on GSM8K": float((scores >= fixed).mean()),
        "targetStrongRatio: 0.30, GSM8K's first 500 requests": float(np.mean(early)),
        "the same, the order of 20 that is farthest off": max(early, key=lambda share: abs(share - STRONG_RATIO)),
        HELD: float(np.mean(late)),
        "the same, the order of 20 that is farthest off, after 500": max(
            late, key=lambda share: abs(share - STRONG_RATIO)
        ),
    }


def _fleet(stage: Stage) -> dict[str, fleet.Figures]:
    examples = sets.fleet()
    done = stage("LLMRouter", len(SPLITS))
    found: dict[str, list[fleet.Routed]] = {}
    for number, seed in enumerate(SPLITS, 1):
        split = sets.parted(examples, share=FLEET_TEST_SHARE, seed=seed)
        for name, routed in fleet.route(split, seed=seed).items():
            found.setdefault(name, []).append(routed)
        done(number)
    return {name: fleet.joined(splits) for name, splits in found.items()}


def _figures(
    by_labels: Mapping[str, Replicates],
    on_gsm8k: Mapping[str, Replicates],
    routed: Mapping[str, fleet.Figures],
) -> dict[str, float]:
    mmlu, gsm8k, nine = by_labels[_labels(LABELS)], on_gsm8k[OURS], routed[fleet.NINE]
    return {
        "mmlu_apgr": mmlu.apgr.value,
        "mmlu_apgr_1500": by_labels[_labels(FEW_LABELS)].apgr.value,
        "mmlu_cpt50": mmlu.cpt50.value * 100,
        "mmlu_cpt80": mmlu.cpt80.value * 100,
        "gsm8k_apgr": gsm8k.apgr.value,
        "gsm8k_cpt50": gsm8k.cpt50.value * 100,
        "gsm8k_cpt80": gsm8k.cpt80.value * 100,
        "llmrouter_small6_gap_recovered": routed[fleet.SMALL].recovered.value,
        "llmrouter_all9_quality": nine.quality.value * 100,
        "llmrouter_all9_cost_ratio": nine.cost_ratio.value,
        "decision_us_p50": decision_us()["hashed"],
    }


if __name__ == "__main__":
    sys.exit(main())
