"""Trains and judges every strategy; tables and plots go to docs/, figures to build/bench/learning.json."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from decision_bench.decisions import decision_us
from flotilla_learning.metrics import pair_of
from flotilla_router.artifact import Artifact
from flotilla_router.strong_ratio import StrongRatio
from learning_bench import fleet, sets
from learning_bench.contest import LENGTH, ORACLE, OURS, SIMILARITY, Rows, Standing, contest
from learning_bench.embedders import with_vectors
from learning_bench.pairs import (
    MODELS,
    Fit,
    Replicates,
    crossvalidated,
    fit_classifier,
    fit_length,
    fit_neighbours,
    fit_oracle,
    fit_served,
    scores_of,
    served,
    win_rate,
)
from learning_bench.plots import draw_curves, draw_labels
from learning_bench.sets import Split, sample
from learning_bench.tables import contest_table, fleet_table, pairs_table, travel_table
from slice_bench.markdown import write_tables
from slice_bench.progress import Stage, shown_progress

OUTPUT = Path("build/bench/learning.json")
DOCUMENT = Path("docs/benchmarks.md")
PLOTS = Path("docs/plots")
SPLITS = (11, 12, 13)
LABELS, FEW_LABELS = 8_000, 1_500
COUNTS = (250, 500, FEW_LABELS, 3_000, LABELS)
TEST_SHARE = 0.35
FLEET_TEST_SHARE = 0.25
STRONG_RATIO = 0.30
SHIFTED_REQUESTS = 500
ORDERS = 20
DEFAULT, VECTORS = "", ", beside word vectors"
EMBEDDED: dict[str, Fit] = {DEFAULT: fit_served(win_rate()), VECTORS: fit_served(win_rate(with_vectors()))}


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
        by_labels = _by_labels(stage, splits, gsm8k)
        show("learning-labels", pairs_table(by_labels, LENGTH))
        artifact = served(sample(splits[0].train, LABELS, seed=0), win_rate())
        travel = _travel(artifact, gsm8k)
        show("learning-travel", travel_table(travel))
        on_gsm8k = _on_gsm8k(stage, gsm8k, artifact)
        show("learning-gsm8k", pairs_table(on_gsm8k, LENGTH))
        compared = contest(stage, splits, LABELS)
        show("learning-mmlu", contest_table(compared))
        routed = _fleet(stage)
        show("learning-fleet", fleet_table(routed))
    OUTPUT.parent.mkdir(parents=True, exist_ok=True)
    figures = _figures(by_labels, on_gsm8k, routed) | {"gsm8k_travelled_strong_ratio": travel[HELD]}
    OUTPUT.write_text(json.dumps(figures, indent=2, sort_keys=True) + "\n")
    write_tables(DOCUMENT, tables, "bench-learning")
    _plots(compared, by_labels)
    return 0


def _by_labels(stage: Stage, splits: Sequence[Split], gsm8k: Rows) -> dict[str, Replicates]:
    """Ours by the number of labels, also beside word vectors, the prompt's length alone, and the oracle."""
    fits = {_labels(count, name): (count, fit) for name, fit in EMBEDDED.items() for count in COUNTS}
    elsewhere = served(gsm8k, win_rate())
    baselines: dict[str, Fit] = {
        f"trained on GSM8K ({len(gsm8k):,} labels)": lambda _, others: scores_of(elsewhere, others),
        LENGTH: fit_length,
        ORACLE: fit_oracle,
    }
    done = stage("labels", len(fits) * len(splits))
    found = {name: Replicates() for name in (*fits, *baselines)}
    for number, split in enumerate(splits):
        pair = pair_of(split.test, *MODELS)
        for position, (name, (count, fit)) in enumerate(fits.items(), 1):
            found[name].add(fit(sample(split.train, count, seed=0), split.test), pair, seed=number)
            done(number * len(fits) + position)
        for name, fit in baselines.items():
            found[name].add(fit(split.train, split.test), pair, seed=number)
    return found


def _labels(count: int, embedded: str = "") -> str:
    return f"{count:,} labels{embedded}"


def _linear(embedded: str) -> str:
    return f"WinRate, linear{embedded or ' (default)'}"


def _on_gsm8k(stage: Stage, rows: Rows, from_mmlu: Artifact) -> dict[str, Replicates]:
    """By five folds, drawn as often as there are splits; trained on MMLU, all at once."""
    fits: dict[str, Fit] = {
        **{_linear(name): fit for name, fit in EMBEDDED.items()},
        "k nearest neighbours": fit_neighbours,
        "logistic regression": fit_classifier,
        LENGTH: fit_length,
        "trained on MMLU": lambda _, others: scores_of(from_mmlu, others),
        ORACLE: fit_oracle,
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
    nine = routed[fleet.NINE]
    of_pairs: dict[str, float] = {}
    for name, suffix in ((DEFAULT, ""), (VECTORS, "_with_vectors")):
        mmlu, few = by_labels[_labels(LABELS, name)], by_labels[_labels(FEW_LABELS, name)]
        gsm8k = on_gsm8k[_linear(name)]
        of_pairs |= {
            f"mmlu_apgr{suffix}": mmlu.apgr.value,
            f"mmlu_apgr_1500{suffix}": few.apgr.value,
            f"mmlu_cpt50{suffix}": mmlu.cpt50.value * 100,
            f"mmlu_cpt80{suffix}": mmlu.cpt80.value * 100,
            f"gsm8k_apgr{suffix}": gsm8k.apgr.value,
            f"gsm8k_cpt50{suffix}": gsm8k.cpt50.value * 100,
            f"gsm8k_cpt80{suffix}": gsm8k.cpt80.value * 100,
        }
    times = decision_us()
    return of_pairs | {
        "llmrouter_small6_gap_recovered": routed[fleet.SMALL].recovered.value,
        "llmrouter_all9_quality": nine.quality.value * 100,
        "llmrouter_all9_cost_ratio": nine.cost_ratio.value,
        "decision_us_p50": times["hashed"],
        "decision_us_p50_with_vectors": times["hashed_static_surface"],
    }


def _plots(compared: Mapping[str, Standing], by_labels: Mapping[str, Replicates]) -> None:
    PLOTS.mkdir(parents=True, exist_ok=True)
    shown = {OURS: _linear(DEFAULT), SIMILARITY: SIMILARITY, LENGTH: LENGTH, ORACLE: ORACLE}
    draw_curves(PLOTS / "learning-curve.svg", {title: compared[name].test.curve for name, title in shown.items()})
    lines = {_linear(name): {count: by_labels[_labels(count, name)].apgr for count in COUNTS} for name in EMBEDDED}
    draw_labels(PLOTS / "learning-labels.svg", lines, (LENGTH, by_labels[LENGTH].apgr))


if __name__ == "__main__":
    sys.exit(main())
